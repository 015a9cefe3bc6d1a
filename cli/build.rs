//! Packs the image recipes into the binary, so that `pontoon images build` needs no checkout.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Cargo's own: with `none` a profiler finds the names of functions.
const STRIP: &str = "CARGO_PROFILE_RELEASE_STRIP";

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../images");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("images.tar");
    println!("cargo::rerun-if-changed={}", root.display());
    // Cargo forgets `strip` for a package whose profile says anything of its own, as ours does.
    println!("cargo::rerun-if-env-changed={STRIP}");
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let keep = env::var(STRIP).is_ok_and(|strip| strip == "none");
    if linux && !keep && env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }

    let mut archive = tar::Builder::new(fs::File::create(out)?);
    append(&mut archive, &root, Path::new(""))?;
    archive.finish()
}

/// Adds what is in `root/below`, in the order of the names and without times: same recipes, same bytes.
fn append(archive: &mut tar::Builder<fs::File>, root: &Path, below: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(root.join(below))?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            append(archive, root, &name)?;
            continue;
        }
        let bytes = fs::read(entry.path())?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..])?;
    }
    Ok(())
}
