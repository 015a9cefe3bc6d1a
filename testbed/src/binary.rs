//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::until::until;

/// `PONTOON_BIN`, or the `pontoon` that cargo built beside this test.
pub fn pontoon() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PONTOON_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("where is this test's binary?")?;
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).context("no target folder")?;
    let path = profile.join("pontoon");
    ensure!(path.is_file(), "{} is not built; run `cargo build -p pontoon-cli`", path.display());
    Ok(path)
}

/// Longest that building it once more may take: a whole debug build on two busy cores.
const BUILD: Duration = Duration::from_secs(1_500);

/// `pontoon` as a later version would be: with one feature level, command and row version more. Built when it is asked for,
/// into a folder of its own, so that nobody else's binary changes under them.
pub fn next_level() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let target = workspace.join("target/next-level");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut building = Command::new(cargo)
        .args(["build", "--quiet", "--package", "pontoon-cli", "--features", "next-level", "--target-dir"])
        .arg(&target)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .current_dir(workspace)
        .stdin(Stdio::null())
        .spawn()
        .context("cargo does not start")?;
    let built = until("cargo to build the next level", BUILD, || match building.try_wait()? {
        Some(status) => Ok(status),
        None => bail!("it still builds"),
    });
    if built.is_err() {
        let _ = building.kill();
        let _ = building.wait();
    }
    ensure!(built?.success(), "cargo could not build the next level");
    Ok(target.join("debug/pontoon"))
}
