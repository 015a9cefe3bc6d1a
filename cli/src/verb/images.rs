//! `pontoon images`: the images that builds and servos start from, made from recipes inside the binary.

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

/// Packed by build.rs.
static RECIPES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/images.tar"));

/// The verbs of `images`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the images with this machine's Docker engine; those that are current are left alone
    Build(BuildArgs),
}

/// Arguments of `images build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Only this runtime's: python, node, static or procfile; may be given several times
    #[arg(long, value_name = "NAME", value_parser = ["python", "node", "static", "procfile", "base"], hide_possible_values = true)]
    pub runtime: Vec<String>,
    /// Make them again even if their recipe has not changed
    #[arg(long)]
    pub force: bool,
}

/// Unpacks the recipes and runs their script; what it prints goes to our stdout and stderr.
pub fn run(verb: &Verb) -> anyhow::Result<()> {
    let Verb::Build(args) = verb;
    let folder = tempfile::Builder::new()
        .prefix("pontoon-images-")
        .tempdir()
        .context("cannot make a temporary directory for the image recipes")?;
    tar::Archive::new(RECIPES).unpack(folder.path()).context("cannot unpack the image recipes")?;
    let mut script = Command::new("bash");
    script.arg(folder.path().join("build.sh"));
    for runtime in &args.runtime {
        script.args(["--runtime", runtime]);
    }
    if args.force {
        script.arg("--force");
    }
    let status = script.status().context("cannot run bash: is it installed?")?;
    if !status.success() {
        bail!("the images could not be made ({status}): what went wrong is above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_are_in_the_binary() {
        let folder = tempfile::tempdir().unwrap();
        tar::Archive::new(RECIPES).unpack(folder.path()).unwrap();
        for name in ["build.sh", "build-lib.sh", "base/Dockerfile.run", "python/Dockerfile.build"] {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
    }
}
