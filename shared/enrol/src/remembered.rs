//! Where the controllers are, on disk, so that a start needs none of those in the configuration: an agent and a balancer have it
//! from their last session, a controller from the state.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pontoon_kit::file;
use pontoon_model::wire;
use pontoon_proto::KnownControllers;

/// Addresses, as a line of a log names them.
pub fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The file that keeps it.
#[derive(Debug, Clone)]
pub struct Remembered {
    path: PathBuf,
}

impl Remembered {
    /// In a role's data folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("controllers") }
    }

    /// What was told last. One that cannot be read is as good as none: the configuration names some, and they tell again.
    pub fn load(&self) -> KnownControllers {
        let read = file::read_if_there(&self.path).and_then(|bytes| match bytes {
            Some(bytes) => wire::decode(&bytes).map_err(io::Error::other),
            None => Ok(KnownControllers::default()),
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, file = %self.path.display(), "where controllers were is not known; asking those of the configuration");
            KnownControllers::default()
        })
    }

    /// Writes it, if it is not there already.
    pub async fn save(&self, told: KnownControllers) {
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            if this.load() == told {
                return Ok(());
            }
            let bytes = wire::encode(&told).map_err(io::Error::other)?;
            file::replace(&this.path, &bytes, 0o600)
        });
        if let Err(error) = written.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(%error, file = %self.path.display(), "where the controllers are cannot be written; the next start asks those of before");
        }
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::KnownController;

    use super::*;

    #[tokio::test]
    async fn what_was_told_is_there_after_a_start_and_what_cannot_be_read_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered::in_folder(folder.path());
        assert_eq!(remembered.load(), KnownControllers::default());
        let told = KnownControllers {
            known: vec![KnownController { site: "east".parse().unwrap(), grpc: "127.0.0.1:1".parse().unwrap() }],
        };
        remembered.save(told.clone()).await;
        assert_eq!(Remembered::in_folder(folder.path()).load(), told);
        std::fs::write(folder.path().join("controllers"), b"no list").unwrap();
        assert_eq!(remembered.load(), KnownControllers::default());
    }
}
