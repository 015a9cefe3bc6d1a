//! A controller made of a backup: the first of a cluster that begins anew with what another held.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pontoon_core::Trust;
use pontoon_enrol::role_of;
use pontoon_kit::{Identity, KeyId, clock};
use pontoon_model::{BlobRef, ControllerName, Digest, Machine, MachineRole, Timestamp};

use super::{BackupError, Contents, Manifest, read};
use crate::blobs::BlobStore;
use crate::raft::{Member, seed};
use crate::sealing::SealingKeys;
use crate::trust::{SignError, certificate_for, roots};

/// Where the restored controller shall be.
#[derive(Debug)]
pub struct Place<'p> {
    /// Its folder, empty or not there.
    pub folder: &'p Path,
    /// Itself, under an id that was never used.
    pub own: Member,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup is of.
    pub manifest: Manifest,
    /// How often the cluster has begun anew.
    pub epoch: u64,
    /// Apps in it.
    pub apps: usize,
    /// Bundles that are here.
    pub bundles: u64,
    /// Bundles that the state refers to and that are not here.
    pub missing: u64,
    /// Where agents and balancers knew the former controllers.
    pub former: Vec<(ControllerName, SocketAddr)>,
}

/// Makes the folder of a controller from `input`: its key and certificate below `tls`, store and bundles below `data`;
/// `finish` adds what else it needs. The folder is made beside its place and put there when it is whole.
pub fn restore(
    input: impl Read,
    place: &Place<'_>,
    finish: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<Restored, BackupError> {
    check_empty(place.folder)?;
    let parent = place.folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Disk { doing, path, source }
    };
    fs::create_dir_all(parent).map_err(disk("make", parent))?;
    let name = place.folder.file_name().unwrap_or_default().to_string_lossy();
    let making = Making(parent.join(format!(".{name}.restoring-{:08x}", rand::random::<u32>())));
    make_private(&making.0).map_err(disk("make", &making.0))?;
    let data = making.0.join("data");
    make_private(&data).map_err(disk("make", &data))?;
    let store = BlobStore::open(&data)?;
    let contents = read(input, &mut |blob, bytes| keep(&store, blob, bytes))?;
    let restored = fill(contents, place, &making.0, &store)?;
    finish(&making.0).map_err(BackupError::Finish)?;
    // An empty folder is replaced; one that was filled meanwhile is not.
    fs::rename(&making.0, place.folder).map_err(disk("put the restored controller into", place.folder))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk("sync", parent))?;
    Ok(restored)
}

/// Refuses a folder that holds anything.
fn check_empty(folder: &Path) -> Result<(), BackupError> {
    match fs::read_dir(folder) {
        Ok(mut found) => match found.next() {
            Some(_) => Err(BackupError::NotEmpty { path: folder.to_owned() }),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(BackupError::NotEmpty { path: folder.to_owned() })
        }
        Err(source) => Err(BackupError::Disk { doing: "look into", path: folder.to_owned(), source }),
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

/// Removed when dropped; nothing is there any more once it was put in its place.
struct Making(PathBuf);

impl Drop for Making {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fill(contents: Contents, place: &Place<'_>, folder: &Path, store: &BlobStore) -> Result<Restored, BackupError> {
    let Contents { manifest, state, keys, listed, end } = contents;
    let former = state.controllers().map(|row| (row.name.clone(), row.grpc)).collect();
    let tls = folder.join("tls");
    make_private(&tls).map_err(|source| BackupError::Disk { doing: "make", path: tls.clone(), source })?;
    let keys = SealingKeys::restore(&tls, &keys)?;
    let own = own_machine((state.trust(), &keys), place.own.name.as_str(), &tls)?;
    let state = state.begun_anew(Some(own), Timestamp(clock::unix_millis()));
    seed(&folder.join("data"), std::slice::from_ref(&place.own), &state)?;
    let missing = listed.iter().filter(|listed| !store.path(&listed.digest).exists()).count() as u64;
    Ok(Restored { manifest, epoch: state.epoch(), apps: state.apps().count(), bundles: end.bundles, missing, former })
}

/// A key of its own and a certificate, in `tls`.
fn own_machine((trust, keys): (&Trust, &SealingKeys), name: &str, tls: &Path) -> Result<Machine, BackupError> {
    let role = MachineRole::Controller;
    let key = Identity::load_or_make_key(tls)?;
    let request = Identity::request(&key)?;
    let signed = certificate_for((trust, keys), role, name, &request).map_err(|error| match error {
        SignError::NotFounded => BackupError::NoAuthority,
        SignError::Sealed(error) => BackupError::Sealing(error),
        SignError::Pki(error) => BackupError::Pki(error),
    })?;
    let identity = Identity { ca: roots(trust), certificate: signed.certificate, key };
    identity.save(tls)?;
    debug_assert_eq!(identity.peer().map(|peer| peer.role).ok(), Some(role_of(role)));
    let KeyId(key) = identity.key_id()?;
    Ok(Machine {
        role,
        name: name.to_owned(),
        key: Digest(key),
        joined_at: Timestamp(clock::unix_millis()),
        signed_by: signed.signed_by,
        certificate_ends: signed.ends,
    })
}

fn keep(store: &BlobStore, blob: BlobRef, bytes: &mut dyn Read) -> Result<(), BackupError> {
    let path = store.path(&blob.digest);
    let written = (|| {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let mut file = File::create_new(&path)?;
        io::copy(bytes, &mut file)?;
        file.sync_all()
    })();
    written.map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => BackupError::damaged(source.to_string()),
        _ => BackupError::Disk { doing: "write", path, source },
    })
}
