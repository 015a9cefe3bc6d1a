//! Tables: files in, language and command (or the refusal's words) out.

use super::*;

type Files = &'static [(&'static str, &'static str)];

fn check(name: &str, files: Files, language: Language, commands: &[(&str, &str)], because: &str) {
    let detected = detect(&Inspection::of(files)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let found: Vec<(&str, &str)> =
        detected.processes.iter().map(|(name, process)| (name.as_str(), process.command.as_str())).collect();
    assert_eq!((detected.language, &found[..], detected.because.as_str()), (language, commands, because), "{name}");
}

#[test]
fn python() {
    let gunicorn: (&str, &str) = ("requirements.txt", "flask\ngunicorn==23.0  # server\n");
    assert!(requires(gunicorn.1, "gunicorn"));
    let cases: &[(&str, Files, &str, &str)] = &[
        (
            "flask with gunicorn",
            &[
                ("requirements.txt", "flask\ngunicorn==23.0\n"),
                ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
            ],
            "gunicorn --bind 0.0.0.0:$PORT app:app",
            "requirements.txt, WSGI app app:app, gunicorn",
        ),
        (
            "waitress, application, typed",
            &[("requirements.txt", "Waitress>=3"), ("wsgi.py", "application: Any = make()")],
            "waitress-serve --listen=0.0.0.0:$PORT wsgi:application",
            "requirements.txt, WSGI app wsgi:application, waitress",
        ),
        (
            "a function, imported by wsgi.py",
            &[
                ("requirements.txt", "gunicorn[gevent]"),
                ("app.py", "x = 1"),
                ("wsgi.py", "from app import make as app # x"),
            ],
            "gunicorn --bind 0.0.0.0:$PORT wsgi:app",
            "requirements.txt, WSGI app wsgi:app, gunicorn",
        ),
        (
            "a plain WSGI function",
            &[("requirements.txt", "gunicorn"), ("main.py", "def app(environ, start_response):\n    pass")],
            "gunicorn --bind 0.0.0.0:$PORT main:app",
            "requirements.txt, WSGI app main:app, gunicorn",
        ),
        (
            "Django",
            &[
                ("requirements.txt", "Django\ngunicorn"),
                ("manage.py", ""),
                ("mysite/wsgi.py", "application = get_wsgi_application()"),
            ],
            "gunicorn --bind 0.0.0.0:$PORT mysite.wsgi:application",
            "requirements.txt, WSGI app mysite.wsgi:application, gunicorn",
        ),
    ];
    for (name, files, command, because) in cases {
        check(name, files, Language::Python, &[("web", command)], because);
    }
}

#[test]
fn node() {
    let cases: &[(&str, Files, &str, &str)] = &[
        (
            "start script",
            &[("package.json", r#"{"scripts": {"start": "node server.js --fast"}, "main": "x.js"}"#)],
            "node server.js --fast",
            "package.json, scripts.start of package.json",
        ),
        (
            "start script that needs a shell",
            &[("package.json", r#"{"scripts": {"start": "echo 'hi' && node ."}}"#)],
            r"/bin/sh -c 'echo '\''hi'\'' && node .'",
            "package.json, scripts.start of package.json",
        ),
        (
            "start script that sets a variable",
            &[("package.json", r#"{"scripts": {"start": "NODE_ENV=production node ."}}"#)],
            "/bin/sh -c 'NODE_ENV=production node .'",
            "package.json, scripts.start of package.json",
        ),
        (
            "main without its ending",
            &[("package.json", r#"{"main": "./lib/start"}"#), ("lib/start.js", "")],
            "node lib/start.js",
            "package.json, main of package.json",
        ),
        ("server.js", &[("package.json", "{}"), ("server.js", "")], "node server.js", "package.json, server.js"),
    ];
    for (name, files, command, because) in cases {
        check(name, files, Language::Node, &[("web", command)], because);
    }
}

#[test]
fn static_sites() {
    let cases: &[(&str, Files, &str, &str)] = &[
        ("root", &[("index.html", "")], "/pontoon/serve-static .", "index.html"),
        ("public", &[("public/index.html", "")], "/pontoon/serve-static public", "public/index.html"),
        (
            "named root",
            &[("pontoon.toml", "[static]\nroot = \"./out/site/\""), ("out/site/a.html", ""), ("package.json", "{}")],
            "/pontoon/serve-static out/site",
            "[static] root of pontoon.toml",
        ),
        (
            "named root is the top folder",
            &[("pontoon.toml", "[static]\nroot = \".\""), ("a.html", "")],
            "/pontoon/serve-static .",
            "[static] root of pontoon.toml",
        ),
    ];
    for (name, files, command, because) in cases {
        check(name, files, Language::Static, &[("web", command)], because);
    }
}

#[test]
fn what_people_wrote_goes_before_what_is_detected() {
    check(
        "Procfile of a Python app",
        &[("Procfile", "# all\nweb: python app.py\n\nworker: python jobs.py: x"), ("app.py", "app = 1")],
        Language::Python,
        &[("web", "python app.py"), ("worker", "python jobs.py: x")],
        "app.py, Procfile",
    );
    check(
        "Procfile alone, beside an index.html",
        &[("Procfile", "web: ./serve"), ("index.html", "")],
        Language::Procfile,
        &[("web", "./serve")],
        "Procfile",
    );
    check(
        "[processes] before Procfile, which adds",
        &[("Procfile", "web: b\nclock: c"), ("pontoon.toml", "[processes]\nweb = \"a\""), ("package.json", "{}")],
        Language::Node,
        &[("clock", "c"), ("web", "a")],
        "package.json, [processes] of pontoon.toml",
    );
    check(
        "[build] runtime",
        &[("pontoon.toml", "[build]\nruntime = \"procfile\"\n[processes]\nweb = \"./x\""), ("package.json", "{}")],
        Language::Procfile,
        &[("web", "./x")],
        "[build] runtime of pontoon.toml, [processes] of pontoon.toml",
    );
}

#[test]
fn what_is_not_found_is_named() {
    let cases: &[(&str, Files, &[&str])] = &[
        ("nothing", &[("README", "")], &["requirements.txt", "package.json", "index.html", "Procfile"]),
        (
            "python without app",
            &[("requirements.txt", "flask"), ("app.py", "ap = 1\n    app = 2\napp == 3")],
            &["wsgi.py"],
        ),
        (
            "python without server",
            &[("requirements.txt", "#gunicorn\ngunicornx"), ("app.py", "app = 1")],
            &["app:app", "waitress"],
        ),
        ("node without start", &[("package.json", "{}")], &["scripts.start", "server.js"]),
        ("broken package.json", &[("package.json", "{")], &["package.json is not"]),
        ("static without index", &[("pontoon.toml", "[build]\nruntime = \"static\"")], &["public/index.html"]),
        ("static root missing", &[("pontoon.toml", "[static]\nroot = \"out\"")], &["\"out\"", "no such folder"]),
        ("procfile without colon", &[("Procfile", "web ./x")], &["line 1", "NAME: COMMAND"]),
        ("procfile with a bad name", &[("Procfile", "\nWeb: ./x")], &["line 2", "process name"]),
        ("procfile without command", &[("Procfile", "web:")], &["web has no command"]),
        ("procfile twice", &[("Procfile", "web: a\nweb: b")], &["line 2", "twice"]),
        ("empty procfile", &[("Procfile", "# soon\n")], &["Procfile is empty"]),
        ("runtime without process", &[("pontoon.toml", "[build]\nruntime = \"procfile\"")], &["no process to start"]),
        ("scale of nothing", &[("pontoon.toml", "[scale]\nx = 2"), ("index.html", "")], &["[scale]", "x"]),
        ("broken manifest", &[("pontoon.toml", "colour = 1"), ("index.html", "")], &["pontoon.toml", "line 1"]),
    ];
    for (name, files, words) in cases {
        let message = detect(&Inspection::of(files)).expect_err(name).to_string();
        for word in *words {
            assert!(message.contains(word), "{name}: {word:?} not in {message}");
        }
    }
}
