//! What the client itself reads of `pontoon.toml`: the app's name and its first scale. The controllers read the rest, by the
//! same code that a deploy looks through it with first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pontoon_api::SetScale;
use pontoon_controller::source;
use pontoon_model::{AppName, CpuMillis, MemoryBytes, ProcessName, SiteName};
use serde::Deserialize;

use crate::args::parse_cpu;
use crate::small_file::{self, MOST_TOML};

/// Its name, in the root of an app's source.
pub const FILE: &str = "pontoon.toml";

/// Why `pontoon.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or a value is not what it should be.
    #[error("{} is not valid; correct it and try again", path.display())]
    Parse {
        /// Where.
        path: PathBuf,
        /// What and in which line.
        source: Box<toml::de::Error>,
    },
    /// A key that nobody reads.
    #[error("{}, line {line}: there is no key {key}; {next}", path.display())]
    Unknown {
        /// Where.
        path: PathBuf,
        /// In which line.
        line: usize,
        /// Which.
        key: String,
        /// What may be meant.
        next: String,
    },
    /// The controllers would refuse it.
    #[error("{0}")]
    Refused(source::SourceError),
    /// A value under `[scale]` is not what it should be.
    #[error("[scale] in {}: {problem}", path.display())]
    Scale {
        /// Where.
        path: PathBuf,
        /// What, and how to write it.
        problem: String,
    },
}

/// The part of `pontoon.toml` that concerns the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The app's name.
    pub name: Option<AppName>,
    /// What to send when the app is made.
    pub scale: Vec<SetScale>,
}

#[derive(Deserialize)]
struct Raw {
    name: Option<AppName>,
    #[serde(default)]
    scale: BTreeMap<String, toml::Value>,
}

impl Manifest {
    /// Reads `pontoon.toml` of `folder`; none if there is no such file.
    pub fn load(folder: &Path) -> Result<Option<Self>, ManifestError> {
        read(folder)?.map(|(path, text)| Self::parse(&text, &path)).transpose()
    }

    /// As [`Self::load`], and refuses what the controllers would refuse only once an app was made and its source uploaded.
    pub fn load_whole(folder: &Path) -> Result<Option<Self>, ManifestError> {
        read(folder)?.map(|(path, text)| Self::parse_whole(&text, &path)).transpose()
    }

    fn parse_whole(text: &str, path: &Path) -> Result<Self, ManifestError> {
        if let Err(error) = toml::from_str::<source::Manifest>(text) {
            return Err(unknown_key(text, path, &error)
                .unwrap_or_else(|| ManifestError::Parse { path: path.to_owned(), source: Box::new(error) }));
        }
        source::Manifest::parse(text).map_err(ManifestError::Refused)?;
        Self::parse(text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|source| ManifestError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let scale = scale_of(&raw.scale).map_err(|problem| ManifestError::Scale { path: path.to_owned(), problem })?;
        Ok(Self { name: raw.name, scale })
    }
}

/// The file in `folder` and its text; none if there is no such file.
fn read(folder: &Path) -> Result<Option<(PathBuf, String)>, ManifestError> {
    let path = folder.join(FILE);
    match small_file::read(&path, MOST_TOML) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ManifestError::Read { path, source }),
    }
}

/// What is said of a key that nobody reads, if that is what is wrong. Serde tells which it is and which there are in its sentence
/// only, in backticks.
fn unknown_key(text: &str, path: &Path, error: &toml::de::Error) -> Option<ManifestError> {
    let said = error.message();
    let mut words = said.starts_with("unknown field").then(|| said.split('`').skip(1).step_by(2))?;
    let key = words.next()?.to_owned();
    let known: Vec<_> = words.collect();
    // One that differs in more than every third letter was hardly meant.
    let typos = |known: &str| strsim::damerau_levenshtein(known, &key);
    let nearest = known.iter().min_by_key(|known| typos(known)).filter(|known| typos(known) <= known.len() / 3);
    let next = match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there {} {}", if known.len() == 1 { "is" } else { "are" }, known.join(", ")),
    };
    let before = text.get(..error.span()?.start)?;
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    Some(ManifestError::Unknown { path: path.to_owned(), line, key, next })
}

/// `web = 2` or `web = { count = 1, memory = "1G", cpu = 0.5, sites = { "home.attic" = 1 } }`; `memory` and `cpu`
/// beside the process types are for all of them.
fn scale_of(table: &BTreeMap<String, toml::Value>) -> Result<Vec<SetScale>, String> {
    let memory = table.get("memory").map(memory_of).transpose()?;
    let cpu = table.get("cpu").map(cpu_of).transpose()?;
    let mut all = Vec::new();
    for (name, value) in table.iter().filter(|(name, _)| !matches!(name.as_str(), "memory" | "cpu")) {
        let process: ProcessName = name.parse().map_err(|error| format!("{error}"))?;
        let mut one = SetScale { process: Some(process), memory, cpu, ..SetScale::default() };
        match value {
            toml::Value::Integer(count) => one.count = Some(count_of(name, *count)?),
            toml::Value::Table(fields) => read_fields(name, fields, &mut one)?,
            other => return Err(format!("{name} = {other} is not a number of servos, as in {name} = 2")),
        }
        all.push(one);
    }
    if all.is_empty() && (memory.is_some() || cpu.is_some()) {
        all.push(SetScale { memory, cpu, ..SetScale::default() });
    }
    Ok(all)
}

fn read_fields(name: &str, fields: &toml::Table, one: &mut SetScale) -> Result<(), String> {
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("count", toml::Value::Integer(count)) => one.count = Some(count_of(name, *count)?),
            ("memory", value) => one.memory = Some(memory_of(value)?),
            ("cpu", value) => one.cpu = Some(cpu_of(value)?),
            ("sites", toml::Value::Table(sites)) => one.sites = Some(sites_of(sites)?),
            _ => return Err(format!("{name}.{field} is not known; there are count, memory, cpu and sites")),
        }
    }
    Ok(())
}

fn sites_of(sites: &toml::Table) -> Result<BTreeMap<SiteName, u32>, String> {
    let one = |(site, value): (&String, &toml::Value)| {
        let site: SiteName = site.parse().map_err(|error| format!("{error}"))?;
        let count = value.as_integer().ok_or_else(|| format!("{site} = {value} is not a number of servos"))?;
        Ok((site.clone(), count_of(site.as_str(), count)?))
    };
    sites.iter().map(one).collect()
}

fn count_of(name: &str, count: i64) -> Result<u32, String> {
    u32::try_from(count).map_err(|_| format!("{name} = {count} is not a number of servos"))
}

fn memory_of(value: &toml::Value) -> Result<MemoryBytes, String> {
    match value {
        toml::Value::String(text) => text.parse(),
        other => Err(format!("memory = {other} is not an amount of memory; write for example \"256M\"")),
    }
}

fn cpu_of(value: &toml::Value) -> Result<CpuMillis, String> {
    match value {
        toml::Value::String(text) => parse_cpu(text),
        other => parse_cpu(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text, Path::new("pontoon.toml"))
    }

    #[test]
    fn name_and_scale_are_read_and_the_rest_is_the_controllers() {
        let manifest = parse(
            r#"
            name = "guestbook"
            [processes]
            web = "gunicorn app:app"
            [scale]
            web = 2
            worker = { count = 0, memory = "1G", cpu = 0.5, sites = { "home.attic" = 1 } }
            memory = "128M"
            "#,
        )
        .unwrap();
        assert_eq!(manifest.name.unwrap().as_str(), "guestbook");
        let [web, worker] = &manifest.scale[..] else { panic!("{:?}", manifest.scale) };
        assert_eq!((web.count, web.memory), (Some(2), Some(MemoryBytes::mib(128))));
        assert_eq!((worker.count, worker.memory), (Some(0), Some(MemoryBytes::mib(1024))));
        assert_eq!(worker.cpu, Some(CpuMillis(500)));
        assert_eq!(worker.sites.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, part) in [
            ("name = \"My App\"", "My App"),
            ("[scale]\nweb = -1", "web = -1"),
            ("[scale]\nweb = \"two\"", "web = 2"),
            ("[scale]\nweb = { size = 1 }", "web.size"),
            ("[scale]\nweb = 1\nmemory = 128", "256M"),
        ] {
            let error = anyhow::Error::from(parse(text).unwrap_err());
            let chain = format!("{error:#}");
            assert!(chain.contains(part), "{text}: {chain}");
        }
    }

    #[test]
    fn what_the_controllers_would_refuse_is_found_here() {
        let whole = |text: &str| Manifest::parse_whole(text, Path::new("app/pontoon.toml"));
        assert_eq!(whole("name = \"a\"\n[health]\npath = \"/\"").unwrap().name.unwrap().as_str(), "a");
        for (text, said) in [
            (
                "name = \"a\"\n[proceses]\nweb = \"x\"",
                "app/pontoon.toml, line 2: there is no key proceses; did you mean processes?",
            ),
            ("[health]\npath = \"/\"\ntimeuot = 3", "line 3: there is no key timeuot; did you mean timeout?"),
            ("colour = 1", "line 1: there is no key colour; there are name, processes, health, build, static, scale"),
            ("[static]\nfallback = 1", "line 2: there is no key fallback; there is root"),
            ("[health]\npath = \"healthz\"", "begins with /"),
            ("[build]\nruntime = \"cobol\"", "line 2"),
            ("[scale]\nweb = -1", "web = -1"),
        ] {
            let error = anyhow::Error::from(whole(text).unwrap_err());
            let chain = format!("{error:#}");
            assert!(chain.contains(said), "{text}: {chain}");
        }
        // Other commands need only the name of it.
        assert!(parse("name = \"a\"\ncolour = 1").is_ok());
    }

    #[test]
    fn no_file_is_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(folder.path()).unwrap(), None);
    }
}
