//! A small disk of one's own: an ext4 file system in a file, mounted through a loop device. It can be filled, and
//! made slow for one process.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The throttle of block devices, in the two versions of control groups.
const CGROUP_V1: &str = "/sys/fs/cgroup/blkio";
const CGROUP_V2: &str = "/sys/fs/cgroup";

/// A mounted file system. Dropped, it is unmounted: end what uses it first.
#[derive(Debug)]
pub struct Disk {
    mounted: PathBuf,
    device: String,
}

impl Disk {
    /// Makes an image of `mib` MiB and mounts it on `folder`, which must exist.
    pub fn mount(image: &Path, mib: u64, folder: &Path) -> Result<Self> {
        fs::File::create(image)?.set_len(mib * 1024 * 1024)?;
        let (image, folder) = (utf8(image)?, utf8(folder)?);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image])?;
        run("mount", &["-o", "loop", image, folder])?;
        // From here on it is unmounted whatever happens.
        let mut disk = Self { mounted: folder.into(), device: String::new() };
        disk.device = run("findmnt", &["-n", "-o", "MAJ:MIN", "--mountpoint", folder])?.trim().to_owned();
        fs::remove_dir(disk.mounted.join("lost+found"))?;
        Ok(disk)
    }

    /// Why none can be mounted here, if none can.
    pub fn usable() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::create_dir(&mounted)?;
        Self::mount(&image, 8, &mounted).map(drop)
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("ballast")
    }

    /// Takes all room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.ballast())?;
        for size in [1024 * 1024, 4096] {
            let block = vec![0x55; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        file.sync_data().context("cannot fill the disk")
    }

    /// Gives the room back that [`Disk::fill`] took.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.ballast())?;
        Ok(fs::File::open(&self.mounted)?.sync_all()?)
    }

    /// Limits what the process `pid` writes to this disk to `per_second` requests, by the kernel's own throttle.
    /// An fdatasync takes one to three.
    pub fn slow(&self, name: &str, pid: u32, per_second: u32) -> Result<Slow> {
        let (parent, file, limit) = if Path::new(CGROUP_V1).is_dir() {
            (CGROUP_V1, "blkio.throttle.write_iops_device", format!("{} {per_second}", self.device))
        } else {
            (CGROUP_V2, "io.max", format!("{} wiops={per_second}", self.device))
        };
        let group = Path::new(parent).join(format!("pontoon-{name}-{pid}"));
        fs::create_dir(&group).with_context(|| format!("cannot make the control group {}", group.display()))?;
        let slow = Slow { group, parent: parent.into() };
        let write = |file: &str, text: &str| {
            fs::write(slow.group.join(file), text).with_context(|| format!("cannot set {file} of a control group"))
        };
        write(file, &limit)?;
        write("cgroup.procs", &pid.to_string())?;
        Ok(slow)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Some(folder) = self.mounted.to_str() else { return };
        // What was killed a moment ago may still be letting go.
        let unmounted =
            crate::until("the disk to be free", std::time::Duration::from_secs(10), || run("umount", &[folder]));
        if let Err(error) = unmounted {
            eprintln!("{folder} is left mounted: {error:#}");
        }
    }
}

/// A process's disk is slow as long as this lives.
#[derive(Debug)]
pub struct Slow {
    group: PathBuf,
    parent: PathBuf,
}

impl Drop for Slow {
    fn drop(&mut self) {
        let inside = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("the control group {} is left: {error}", self.group.display());
        }
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => bail!("{program}: {error}"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
