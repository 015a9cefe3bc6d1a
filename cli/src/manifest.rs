//! What the client itself reads of `pontoon.toml`: the app's name and its first scale. The controllers read the rest.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pontoon_api::SetScale;
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
        let path = folder.join(FILE);
        let text = match small_file::read(&path, MOST_TOML) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ManifestError::Read { path, source }),
        };
        Self::parse(&text, &path).map(Some)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|source| ManifestError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let scale = scale_of(&raw.scale).map_err(|problem| ManifestError::Scale { path: path.to_owned(), problem })?;
        Ok(Self { name: raw.name, scale })
    }
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
    fn no_file_is_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(folder.path()).unwrap(), None);
    }
}
