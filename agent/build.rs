//! Builds `pontoon-init` as a static program for the same target, so that the agent can carry it
//! inside itself and put it into every servo whatever C library the servo's image has.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let agent = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=init/Cargo.toml");
    println!("cargo::rerun-if-changed=init/src");
    let out = PathBuf::from(variable("OUT_DIR"));
    let target = variable("TARGET");
    let folder = out.join("init");
    // The lock file is the outer build's; only when another cargo is just changing it may it be updated here.
    if !build(&agent, &target, &folder, &["--locked", "--offline"]) && !build(&agent, &target, &folder, &[]) {
        panic!(
            "cannot build pontoon-init for {target} (its compiler's messages are above); a static C library is needed"
        );
    }
    let built = folder.join(&target).join("release").join("pontoon-init");
    fs::copy(&built, out.join("pontoon-init"))
        .unwrap_or_else(|error| panic!("cannot copy {}: {error}", built.display()));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}

/// A cargo in its own target folder does not wait for the lock of the one that runs this script.
fn build(agent: &Path, target: &str, folder: &Path, more: &[&str]) -> bool {
    let mut command = Command::new(variable("CARGO"));
    command
        .current_dir(agent.join("init"))
        .args(["build", "--package", "pontoon-init", "--release", "--target", target, "--target-dir"])
        .arg(folder)
        .args(more)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What the outer cargo or clippy set for the agent is wrong for this program.
    for (name, _) in env::vars() {
        let ours = matches!(
            name.as_str(),
            "CARGO_ENCODED_RUSTFLAGS"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "CLIPPY_ARGS"
                | "CARGO_TARGET_DIR"
        );
        if ours
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_FEATURE_")
        {
            command.env_remove(name);
        }
    }
    command.status().is_ok_and(|status| status.success())
}
