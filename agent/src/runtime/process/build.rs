//! Builds without Docker: source that needs no build step becomes a bundle as it is.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use pontoon_model::Language;
use pontoon_proto::LogLine;

use crate::archive;
use crate::runtime::{BuildJob, RuntimeError};

const ZSTD_LEVEL: i32 = 3;
/// Longest manifest that is looked at.
const MANIFEST_BYTES: u64 = 1024 * 1024;

pub(super) async fn run(job: BuildJob) -> Result<(), RuntimeError> {
    let (language, source, bundle) = (job.spec.language, job.source.clone(), job.bundle.clone());
    let built = tokio::task::spawn_blocking(move || {
        if let Some(step) = needed_step(language, &source)? {
            return Ok(Some(step));
        }
        let mut encoder = zstd::Encoder::new(File::create(bundle)?, ZSTD_LEVEL)?;
        archive::rewrite(open(&source)?, &mut encoder, None, archive::LIMITS)?;
        encoder.finish()?.sync_all()?;
        Ok::<_, archive::ArchiveError>(None)
    });
    let built = built.await.map_err(|error| RuntimeError::Build(error.to_string()))?;
    match built.map_err(|error| RuntimeError::Build(format!("the source cannot be unpacked: {error}")))? {
        Some(step) => Err(RuntimeError::Build(format!(
            "this source needs a build step ({step}), which the process runtime does not do; use a host with Docker"
        ))),
        None => {
            let text = "-----> Nothing to build: the source is the bundle (process runtime)".to_owned();
            // The log's reader ends with the build.
            let _ = job.output.send(LogLine { at: None, stderr: false, text }).await;
            Ok(())
        }
    }
}

fn open(source: &Path) -> io::Result<GzDecoder<BufReader<File>>> {
    Ok(GzDecoder::new(BufReader::new(File::open(source)?)))
}

/// What would have to run before this source does.
fn needed_step(language: Language, source: &Path) -> Result<Option<&'static str>, archive::ArchiveError> {
    let mut archive = tar::Archive::new(open(source)?);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let path: PathBuf = path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
        let step = match (language, path.to_str()) {
            (Language::Python, Some("requirements.txt")) => has_requirements(&text(entry)?).then_some("pip install"),
            (Language::Node, Some("package.json")) => has_packages(&text(entry)?).then_some("npm install"),
            (Language::Procfile, Some("bin/build")) => Some("bin/build"),
            _ => None,
        };
        if step.is_some() {
            return Ok(step);
        }
    }
    Ok(None)
}

fn text(entry: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    entry.take(MANIFEST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn has_requirements(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'))
}

fn has_packages(text: &str) -> bool {
    let Ok(package) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let full = |name: &str| package[name].as_object().is_some_and(|found| !found.is_empty());
    full("dependencies") || full("optionalDependencies") || package["scripts"]["build"].is_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_step_is_seen() {
        assert!(has_requirements("# tools\nflask==3\n") && !has_requirements("# none\n\n"));
        assert!(has_packages(r#"{"dependencies":{"a":"1"}}"#) && has_packages(r#"{"scripts":{"build":"x"}}"#));
        assert!(!has_packages(r#"{"dependencies":{},"scripts":{"start":"x"}}"#) && !has_packages("{"));
    }
}
