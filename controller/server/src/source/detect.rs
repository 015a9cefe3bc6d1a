//! Tells from an app's files what it is written in and how it starts. Pure.

use std::collections::BTreeMap;

use pontoon_model::{HealthCheck, Language, Process, ProcessName};

use super::SourceError;
use super::inspect::Inspection;
use super::manifest::Manifest;

/// What a source is and how it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Chooses its images.
    pub language: Language,
    /// What its release will start.
    pub processes: BTreeMap<ProcessName, Process>,
    /// When a servo is ready.
    pub health: HealthCheck,
    /// How it was told, e.g. `requirements.txt, Procfile`.
    pub because: String,
}

type Commands = BTreeMap<ProcessName, String>;

/// Looks for a language and for commands: pontoon.toml before Procfile before what the files suggest.
pub fn detect(files: &Inspection) -> Result<Detected, SourceError> {
    let manifest = files.text("pontoon.toml").map(Manifest::parse).transpose()?.unwrap_or_default();
    let procfile = files.text("Procfile").map(parse_procfile).transpose()?.unwrap_or_default();
    if let Some(root) = manifest.site.root.as_deref().map(plain).filter(|root| !files.has_folder(root)) {
        return Err(SourceError::Bad(format!(
            "pontoon.toml: [static] root is {root:?}, but the source has no such folder"
        )));
    }
    let (language, language_from) = language(files, &manifest, !procfile.is_empty())?;
    let written = |commands: &Commands| !commands.is_empty();
    let (mut commands, commands_from) = match (&manifest.processes, &procfile) {
        (manifest, _) if written(manifest) => (manifest.clone(), "[processes] of pontoon.toml".to_owned()),
        (_, procfile) if written(procfile) => (procfile.clone(), "Procfile".to_owned()),
        _ => {
            let (command, from) = web_command(files, &manifest, language)?;
            (Commands::from([(ProcessName::web(), command)]), from)
        }
    };
    // What a Procfile leaves out, pontoon.toml may add, and the other way round.
    for (name, command) in procfile {
        commands.entry(name).or_insert(command);
    }
    if let Some(name) = manifest.scaled().find(|name| !commands.keys().any(|process| process.as_str() == *name)) {
        return Err(SourceError::Bad(format!(
            "pontoon.toml: [scale] names the process type {name}, which nothing starts"
        )));
    }
    let because =
        if language_from == commands_from { language_from } else { format!("{language_from}, {commands_from}") };
    Ok(Detected {
        language,
        processes: commands.into_iter().map(|(name, command)| (name, Process { command })).collect(),
        health: manifest.health_check(),
        because,
    })
}

/// A folder as the inspection knows it: without `./` and slashes at its end; empty for the top folder.
fn plain(root: &str) -> &str {
    let root = root.trim_start_matches("./").trim_end_matches('/');
    if root == "." { "" } else { root }
}

fn language(files: &Inspection, manifest: &Manifest, procfile: bool) -> Result<(Language, String), SourceError> {
    if let Some(runtime) = manifest.build.runtime {
        return Ok((runtime, "[build] runtime of pontoon.toml".into()));
    }
    if manifest.site.root.is_some() {
        return Ok((Language::Static, "[static] root of pontoon.toml".into()));
    }
    let python = ["requirements.txt", "app.py", "wsgi.py", "main.py", "manage.py"];
    let candidates = python
        .map(|file| (Language::Python, file))
        .into_iter()
        .chain([(Language::Node, "package.json")])
        .chain(["index.html", "public/index.html"].map(|file| (Language::Static, file)));
    // With a Procfile, an index.html is just a file: the Procfile says how to serve it.
    for (language, file) in candidates.filter(|(language, _)| !(procfile && *language == Language::Static)) {
        if files.has_file(file) {
            return Ok((language, file.into()));
        }
    }
    if procfile || !manifest.processes.is_empty() {
        let from = if procfile { "Procfile" } else { "[processes] of pontoon.toml" };
        return Ok((Language::Procfile, from.into()));
    }
    Err(SourceError::Bad(
        "cannot tell what this app is written in. Looked in the source's top folder for requirements.txt or app.py, \
         wsgi.py, main.py, manage.py (Python), package.json (Node), index.html or public/index.html (static site), and \
         a Procfile. Add one of these, or say [build] runtime in pontoon.toml"
            .into(),
    ))
}

fn web_command(files: &Inspection, manifest: &Manifest, language: Language) -> Result<(String, String), SourceError> {
    match language {
        Language::Python => python_command(files),
        Language::Node => node_command(files),
        Language::Static => static_command(files, manifest),
        Language::Procfile => Err(SourceError::Bad(
            "no process to start: looked for [processes] in pontoon.toml and for a Procfile; write one with a line like \
             `web: ./server`"
                .into(),
        )),
    }
}

fn python_command(files: &Inspection) -> Result<(String, String), SourceError> {
    let Some((module, object)) = wsgi_app(files) else {
        return Err(SourceError::Bad(
            "this is a Python app, but not how it starts: looked for a Procfile, for [processes] in pontoon.toml, and for a \
             WSGI object `app` or `application` in app.py, wsgi.py, main.py, application.py, server.py, or FOLDER/wsgi.py \
             beside manage.py. Write a Procfile with a line like `web: gunicorn --bind 0.0.0.0:$PORT app:app`"
                .into(),
        ));
    };
    let requirements = files.text("requirements.txt").unwrap_or_default();
    let target = format!("{module}:{object}");
    if requires(requirements, "gunicorn") {
        let command = format!("gunicorn --bind 0.0.0.0:$PORT {target}");
        return Ok((command, format!("WSGI app {target}, gunicorn")));
    }
    if requires(requirements, "waitress") {
        let command = format!("waitress-serve --listen=0.0.0.0:$PORT {target}");
        return Ok((command, format!("WSGI app {target}, waitress")));
    }
    Err(SourceError::Bad(format!(
        "found the WSGI app {target}, but requirements.txt names no server for it: looked for gunicorn and waitress. \
         Add one of them to requirements.txt, or write a Procfile"
    )))
}

/// Module and name of the WSGI object.
fn wsgi_app(files: &Inspection) -> Option<(String, &'static str)> {
    let in_root = ["wsgi", "app", "main", "application", "server"].map(|stem| (stem.to_owned(), format!("{stem}.py")));
    // Django: manage.py beside PROJECT/wsgi.py.
    let below = files.texts().filter(|_| files.has_file("manage.py")).filter_map(|(path, _)| {
        let module = path.strip_suffix("/wsgi.py")?;
        Some((format!("{module}.wsgi"), path.to_owned()))
    });
    in_root.into_iter().chain(below).find_map(|(module, path)| {
        let text = files.text(&path)?;
        ["app", "application"].into_iter().find(|name| defines(text, name)).map(|name| (module, name))
    })
}

/// Whether Python code assigns, defines or imports `name` at its top level.
fn defines(code: &str, name: &str) -> bool {
    code.lines().any(|line| {
        let after = |prefix: &str| line.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(name));
        let assigned = after("").is_some_and(|rest| {
            let rest = rest.trim_start();
            (rest.starts_with('=') && !rest.starts_with("==")) || rest.starts_with(':')
        });
        let defined = after("def ").is_some_and(|rest| rest.trim_start().starts_with('('));
        let imported =
            line.strip_prefix("from ").and_then(|rest| rest.split_once(" import ")).is_some_and(|(_, names)| {
                let names = names.split('#').next().unwrap_or_default();
                names
                    .trim_matches(['(', ')', ' '])
                    .split(',')
                    .any(|item| item.rsplit(" as ").next().unwrap_or(item).trim() == name)
            });
        assigned || defined || imported
    })
}

/// Whether a requirements.txt names a package, whatever its version and extras.
fn requires(requirements: &str, package: &str) -> bool {
    requirements.lines().any(|line| {
        let name = line.trim().split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).next();
        name.is_some_and(|name| name.eq_ignore_ascii_case(package))
    })
}

#[derive(serde::Deserialize)]
struct PackageJson {
    main: Option<String>,
    #[serde(default)]
    scripts: BTreeMap<String, String>,
}

fn node_command(files: &Inspection) -> Result<(String, String), SourceError> {
    let package = files.text("package.json").unwrap_or("{}");
    let package: PackageJson = serde_json::from_str(package)
        .map_err(|error| SourceError::Bad(format!("package.json is not one that npm would read: {error}")))?;
    if let Some(start) = package.scripts.get("start").map(|start| start.trim()).filter(|start| !start.is_empty()) {
        // Run without npm: signals reach the app, and the run image needs no npm.
        let simple = !start.contains(['&', '|', ';', '<', '>', '\n', '(', ')']) && !assigns_variables(start);
        let command = if simple { start.to_owned() } else { format!("/bin/sh -c '{}'", start.replace('\'', r"'\''")) };
        return Ok((command, "scripts.start of package.json".into()));
    }
    let named = package.main.as_deref().map(|main| main.trim_start_matches("./"));
    let safe = |path: &&str| path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    // As Node resolves `main`: the file itself, or with .js.
    for path in named.into_iter().chain(["server.js", "index.js", "app.js"]).filter(safe) {
        for file in [path.to_owned(), format!("{path}.js")] {
            if files.has_file(&file) {
                let from = if named == Some(path) { "main of package.json".into() } else { file.clone() };
                return Ok((format!("node {file}"), from));
            }
        }
    }
    Err(SourceError::Bad(
        "this is a Node app, but not how it starts: looked for a Procfile, for [processes] in pontoon.toml, for \
         scripts.start and main in package.json, and for server.js, index.js and app.js. Add for example \
         \"scripts\": {\"start\": \"node server.js\"} to package.json"
            .into(),
    ))
}

/// `NAME=value command` needs a shell: `exec NAME=value command` is none.
fn assigns_variables(command: &str) -> bool {
    command.split_whitespace().next().is_some_and(|word| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    })
}

fn static_command(files: &Inspection, manifest: &Manifest) -> Result<(String, String), SourceError> {
    let serve = |root: &str| {
        let folder = if root.is_empty() { "." } else { root };
        format!("/pontoon/serve-static {folder}")
    };
    if let Some(root) = manifest.site.root.as_deref().map(plain) {
        return Ok((serve(root), "[static] root of pontoon.toml".into()));
    }
    for root in ["", "public"] {
        let index = if root.is_empty() { "index.html".to_owned() } else { format!("{root}/index.html") };
        if files.has_file(&index) {
            return Ok((serve(root), index));
        }
    }
    Err(SourceError::Bad(
        "this is a static site, but there is nothing to serve: looked for index.html and public/index.html. Add one, or \
         say [static] root in pontoon.toml"
            .into(),
    ))
}

/// `NAME: COMMAND` per line; `#` begins a comment.
fn parse_procfile(text: &str) -> Result<Commands, SourceError> {
    let mut commands = Commands::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| SourceError::Bad(format!("Procfile, line {}: {why}", at + 1));
        let (name, command) =
            line.split_once(':').ok_or_else(|| wrong("not of the form `NAME: COMMAND`, as in `web: ./server`"))?;
        let name: ProcessName = name.trim().parse().map_err(|error| wrong(&format!("{error}")))?;
        let command = command.trim();
        if command.is_empty() {
            return Err(wrong(&format!("{name} has no command")));
        }
        if commands.insert(name.clone(), command.to_owned()).is_some() {
            return Err(wrong(&format!("{name} is there twice")));
        }
    }
    if commands.is_empty() {
        return Err(SourceError::Bad("the Procfile is empty; write a line like `web: ./server`".into()));
    }
    Ok(commands)
}

#[cfg(test)]
mod tests;
