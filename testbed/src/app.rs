//! Sources to deploy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of one of `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testbed lies in the repository").join("examples").join(name)
}

/// A copy of an example that a test may change.
pub fn copy_of(name: &str, folder: &Path) -> Result<PathBuf> {
    let to = folder.join(name);
    copy(&example(name), &to).with_context(|| format!("cannot copy example {name}"))?;
    Ok(to)
}

/// Copies a folder with all that is in it; `to` is made.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A Procfile app that needs no build: `files` are (path, content, executable).
pub fn write(folder: &Path, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let root = folder.join(name);
    fs::create_dir_all(&root)?;
    fs::write(root.join("pontoon.toml"), format!("name = \"{name}\"\n\n[health]\ntimeout = \"15s\"\n"))?;
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(root)
}
