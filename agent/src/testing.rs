//! Small values for tests of this crate.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_model::{
    AppName, Assignment, BlobRef, DeploymentId, Desired, Digest, HealthCheck, HostName, Language, MemoryBytes,
    ProcessName, ReleaseNumber, ServoId, ServoSpec, Size,
};

pub(crate) fn spec(id: u64) -> ServoSpec {
    ServoSpec {
        id: ServoId(id),
        app: AppName::new("guestbook").unwrap(),
        process: ProcessName::new("web").unwrap(),
        release: ReleaseNumber(1),
        deployment: DeploymentId(1),
        language: Language::Procfile,
        bundle: BlobRef { digest: Digest::of(b"bundle"), size: MemoryBytes(6) },
        command: "true".into(),
        env: BTreeMap::new(),
        size: Size::default(),
        health: HealthCheck::default(),
        listens: true,
        one_off: false,
        desired: Desired::Run,
        grace: Duration::from_secs(7),
    }
}

pub(crate) fn assignment(servos: Vec<ServoSpec>) -> Assignment {
    Assignment { host: HostName::new("h1").unwrap(), generation: 1, servos, builds: Vec::new() }
}

/// Bytes as golden files hold them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
}
