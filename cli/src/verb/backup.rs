//! `pontoon backup`: everything the controllers agree on, encrypted here with a passphrase that never leaves this machine.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::StreamExt;
use pontoon_controller::backup::{Contents, verify};
use tempfile::NamedTempFile;
use tokio::time::timeout;

use crate::Usage;
use crate::args::Format;
use crate::output::{self, counted};
use crate::seal::{PassphraseArgs, open, seal};
use crate::session::Session;

/// A controller that sends nothing for this long has gone; it may have to fetch a bundle from another first.
const SILENCE: Duration = Duration::from_secs(120);

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make; - is standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// With what was built, so that the apps run again without a new deploy
    #[arg(long)]
    bundles: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Makes a backup, and reads it again before it gets its name.
pub async fn run(session: &Session, args: &BackupArgs) -> anyhow::Result<()> {
    if args.file == Path::new("-") {
        return to_stdout(session, args).await;
    }
    let file = &args.file;
    if file.exists() {
        bail!("{} is there already: give another name, or move it away", file.display());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot_write = || format!("cannot write {}", file.display());
    // Only its owner may read it, and without its end it has no name. Before anybody types a passphrase.
    let temporary = NamedTempFile::new_in(folder).map_err(|error| not_there(file, folder, &error))?;
    let contents = fill(session, args, &temporary, cannot_write).await?;
    temporary.persist_noclobber(file).with_context(cannot_write)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(cannot_write)?;
    let size = std::fs::metadata(file).with_context(cannot_write)?.len();
    let value = serde_json::json!({
        "file": file, "size": size, "cluster": contents.manifest.cluster, "index": contents.manifest.index,
        "time": contents.manifest.time, "records": contents.end.records, "bundles": contents.end.bundles,
        "listed": contents.listed.len(), "missing": contents.end.missing.len(),
    });
    Ok(output::print(session.format, &value, |_| said(file, size, args.bundles, &contents))?)
}

/// Makes a backup and gives it to whoever reads our standard output, once it was read again: what is given out is whole.
async fn to_stdout(session: &Session, args: &BackupArgs) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        let message =
            "a backup is no text for a terminal: give a file's name, or pipe it on, as in pontoon backup - | ssh …";
        return Err(Usage(message.into()).into());
    }
    if session.format == Format::Json {
        return Err(
            Usage("the backup itself is on standard output: leave out -o json, or give a file's name".into()).into()
        );
    }
    let temporary = NamedTempFile::new().context("no place for a temporary file: TMPDIR names another")?;
    let cannot_write = || format!("cannot write {}", temporary.path().display());
    let contents = fill(session, args, &temporary, cannot_write).await?;
    let mut whole = temporary.reopen().context("what was written does not read back")?;
    let mut out = io::stdout().lock();
    let size = io::copy(&mut whole, &mut out).and_then(|size| out.flush().map(|()| size));
    // A broken pipe is a failure here: nobody has the backup.
    let size = size.map_err(|error| {
        anyhow::anyhow!("standard output takes no more of the backup, which is not whole there: {error}")
    })?;
    output::note(&said(Path::new("standard output"), size, args.bundles, &contents));
    Ok(())
}

/// Writes a backup into `temporary`, and reads it again.
async fn fill(
    session: &Session,
    args: &BackupArgs,
    temporary: &NamedTempFile,
    cannot_write: impl Fn() -> String,
) -> anyhow::Result<Contents> {
    let passphrase = args.passphrase.new_one()?;
    let sealed = seal(io::BufWriter::new(temporary.as_file()), passphrase.clone());
    let mut sealed = sealed.with_context(&cannot_write)?;
    let mut bytes = session.client.backup(args.bundles).await?;
    let silent = || format!("the controller sent nothing for {} s; nothing was made, try again", SILENCE.as_secs());
    while let Some(part) = timeout(SILENCE, bytes.next()).await.with_context(silent)? {
        sealed.write_all(&part?).with_context(&cannot_write)?;
    }
    let written = sealed.finish().and_then(|buffered| buffered.into_inner().map_err(io::IntoInnerError::into_error));
    written.and_then(|file| file.sync_all()).with_context(&cannot_write)?;
    // One that cannot be read is known now, and not on the day it is needed.
    verify(open(temporary.path(), passphrase)?).context("what was written does not read back")
}

/// Why no file can be made in `folder`, without the name that it would have had until it is whole.
fn not_there(file: &Path, folder: &Path, error: &io::Error) -> anyhow::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "is not there: make it first".to_owned(),
        io::ErrorKind::NotADirectory => "is no folder".to_owned(),
        io::ErrorKind::PermissionDenied => "is not yours to write".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "is on a disk that is read only".to_owned(),
        _ => format!("takes no file ({error})"),
    };
    anyhow::anyhow!("cannot write {}: {} {why}", file.display(), folder.display())
}

fn said(file: &Path, size: u64, with_bundles: bool, contents: &Contents) -> String {
    let Contents { manifest, listed, end, .. } = contents;
    let bundles = match with_bundles {
        true if end.missing.is_empty() => format!("with {}", counted(end.bundles, "bundle")),
        true => format!(
            "with {}; {} more are on no controller any more, and not in it",
            counted(end.bundles, "bundle"),
            end.missing.len()
        ),
        false => format!("without its {} (--bundles takes them along)", counted(listed.len() as u64, "bundle")),
    };
    format!(
        "{}: cluster {} at index {}, {bundles}; {size} bytes, read back and whole\nwho has it and its passphrase has the \
         cluster: the authority's key and every environment are in it",
        file.display(),
        manifest.cluster,
        manifest.index
    )
}
