//! A small ext4 file system in a file.

use std::process::Command;

use super::*;

/// Where mounting must be possible: then a test that cannot fails instead of being skipped.
const REQUIRE: &str = "PONTOON_REQUIRE_DISKS";

/// Mounted until dropped.
pub(super) struct Image {
    file: PathBuf,
    pub(super) mounted: PathBuf,
    _folder: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Image {
    /// A new, empty one of `mib` MiB.
    pub(super) fn new(mib: u64) -> Result<Self, String> {
        let image = Self::in_folder();
        let file = fs::File::create(&image.file).map_err(|error| error.to_string())?;
        file.set_len(mib * 1024 * 1024).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image.file.to_str().unwrap()])?;
        image.mount()
    }

    /// The same bytes as the device has at this moment.
    pub(super) fn copy(&self) -> Result<Self, String> {
        let image = Self::in_folder();
        run("cp", &["--sparse=always", self.file.to_str().unwrap(), image.file.to_str().unwrap()])?;
        image.mount()
    }

    fn in_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { file: folder.path().join("image"), mounted: folder.path().join("mounted"), _folder: folder }
    }

    fn mount(self) -> Result<Self, String> {
        fs::create_dir(&self.mounted).map_err(|error| error.to_string())?;
        let device = run("losetup", &["--find", "--show", self.file.to_str().unwrap()])?;
        let mounted = run("mount", &[&device, self.mounted.to_str().unwrap()]);
        // Detached now, the device goes when it is unmounted, whoever does that.
        let detached = run("losetup", &["--detach", &device]);
        mounted.and(detached).map(|_| self)
    }

    /// A new one, or SKIPPED.
    pub(super) fn or_skip(test: &str, mib: u64) -> Option<Self> {
        match Self::new(mib) {
            Ok(image) => Some(image),
            Err(reason) if std::env::var_os(REQUIRE).is_some_and(|value| value == "1") => {
                panic!("{test} must run here ({REQUIRE}=1) but cannot: {reason}")
            }
            Err(reason) => {
                eprintln!("SKIPPED {test}: {reason}");
                None
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if run("umount", &[self.mounted.to_str().unwrap()]).is_err() {
            // Something still has a file open: the name goes now, the rest with the last of them.
            let _ = run("umount", &["--lazy", self.mounted.to_str().unwrap()]);
        }
    }
}
