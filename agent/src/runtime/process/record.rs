//! What is written down of a servo's process.

use std::fs;
use std::io;
use std::path::Path;

use pontoon_kit::file;
use pontoon_model::wire;
use pontoon_model::{AppName, DeploymentId, Digest, ReleaseNumber, ServoId};
use serde::{Deserialize, Serialize};

use crate::runtime::Launch;

const NAME: &str = "record";

/// One process, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) servo: ServoId,
    pub(super) app: AppName,
    pub(super) release: ReleaseNumber,
    pub(super) deployment: DeploymentId,
    pub(super) bundle: Digest,
    pub(super) port: Option<u16>,
    pub(super) one_off: bool,
    /// The process, which is also its group.
    pub(super) pid: u32,
    /// When it began, in the kernel's ticks since boot: a process id is used again, a start time is not.
    began: Option<u64>,
    /// In which boot of the machine.
    boot: String,
    /// Its exit code, once known.
    pub(super) ended: Option<i32>,
}

pontoon_model::wire! {
    701, 1 => Record;
}

impl Record {
    pub(super) fn of(launch: &Launch, pid: u32) -> Self {
        let spec = &launch.spec;
        Self {
            servo: spec.id,
            app: spec.app.clone(),
            release: spec.release,
            deployment: spec.deployment,
            bundle: spec.bundle.digest,
            port: launch.port,
            one_off: spec.one_off,
            pid,
            began: stat(pid).map(|stat| stat.began),
            boot: boot(),
            ended: None,
        }
    }

    /// The record in `folder`; none if there is none or it is damaged.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = file::read_if_there(&folder.join(NAME))? else { return Ok(None) };
        match wire::decode(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "a servo's record cannot be used");
                Ok(None)
            }
        }
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let bytes = wire::encode(self).map_err(io::Error::other)?;
        file::replace(&folder.join(NAME), &bytes, 0o600)
    }

    /// Whether this very process runs.
    pub(super) fn is_alive(&self) -> bool {
        let same = |stat: &Stat| Some(stat.began) == self.began && !stat.is_zombie;
        self.ended.is_none() && self.boot == boot() && stat(self.pid).as_ref().is_some_and(same)
    }
}

struct Stat {
    began: u64,
    is_zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in brackets, may hold anything; the last bracket ends it.
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { is_zombie: matches!(*rest.first()?, "Z" | "X"), began: rest.get(19)?.parse().ok()? })
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn own() -> Record {
        let launch = Launch { spec: spec(1), bundle: "/".into(), port: Some(20_000) };
        Record::of(&launch, std::process::id())
    }

    #[test]
    fn a_process_is_known_again_and_no_other_is_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        own().write(folder.path()).unwrap();
        let read = Record::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, own());
        assert!(read.is_alive());
        assert!(!Record { began: Some(1), ..own() }.is_alive(), "same id, other process");
        assert!(!Record { boot: "earlier".into(), ..own() }.is_alive());
        assert!(!Record { ended: Some(0), ..own() }.is_alive());
    }

    #[test]
    fn golden_bytes_of_a_record() {
        let record = Record { pid: 77, began: Some(9), boot: "boot".into(), ended: Some(3), ..own() };
        let bytes = wire::encode(&record).unwrap();
        assert_eq!(wire::decode::<Record>(&bytes).unwrap(), record);
        expect_test::expect_file!["../../../tests/golden/record.txt"].assert_eq(&crate::testing::hex(&bytes));
    }

    #[test]
    fn a_damaged_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), b"x").unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
    }
}
