//! The binary under test.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// `PONTOON_BIN`, or the `pontoon` that cargo built beside this test.
pub fn pontoon() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PONTOON_BIN") {
        return Ok(path.into());
    }
    beside("pontoon", "cargo build -p pontoon-cli")
}

/// `pontoon` as a later version would be: with one feature level, command and row version more.
pub fn next_level() -> Result<PathBuf> {
    beside("pontoon-next-level", "make next-level")
}

fn beside(name: &str, build: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where is this test's binary?")?;
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).context("no target folder")?;
    let path = profile.join(name);
    ensure!(path.is_file(), "{} is not built; run `{build}`", path.display());
    Ok(path)
}
