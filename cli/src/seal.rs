//! What is kept on a disk behind a passphrase: the age format, so that `age --decrypt` opens it too.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor, scrypt};
use anyhow::Context as _;
use clap::Args;

use crate::Usage;
use crate::small_file::{self, MOST_SECRET};
use crate::verb::login::ask_silently;

/// Holds the passphrase.
const VARIABLE: &str = "PONTOON_PASSPHRASE";
/// Shortest that is taken for a new file: the file may be copied and tried at leisure.
const MIN_PASSPHRASE: usize = 12;
/// 2^18 rounds of scrypt in 256 MiB, about a second: fixed, since a file that a fast machine made must open on a slow one.
const WORK: u8 = 18;
/// Files of others may have asked for more; this is some 16 seconds.
const MOST_WORK: u8 = 22;

/// Where the passphrase comes from.
#[derive(Debug, Clone, Args)]
pub struct PassphraseArgs {
    /// The file whose first line is the passphrase; without it, PONTOON_PASSPHRASE, or the terminal is asked
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another passphrase.
    #[error("the passphrase is not the one that this file was made with; nothing was changed")]
    Passphrase,
    /// Something else.
    #[error("this file is not encrypted with a passphrase as `pontoon backup` does it ({why}); nothing was changed")]
    Foreign {
        /// What was found.
        why: String,
    },
    /// The disk.
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
}

impl PassphraseArgs {
    /// For a file that is to be made.
    pub fn new_one(&self) -> anyhow::Result<SecretString> {
        let (text, asked) = self.get()?;
        if text.chars().count() < MIN_PASSPHRASE {
            let message = format!("the passphrase has less than {MIN_PASSPHRASE} characters: take a longer one");
            return Err(Usage(message).into());
        }
        if asked && first_line(&ask_silently("The same again")?) != text {
            return Err(Usage("the two are not the same: nothing was made, try again".into()).into());
        }
        Ok(text.into())
    }

    /// Of a file that is there.
    pub fn known(&self) -> anyhow::Result<SecretString> {
        Ok(self.get()?.0.into())
    }

    /// The passphrase, and whether it was typed.
    fn get(&self) -> anyhow::Result<(String, bool)> {
        if let Some(path) = &self.passphrase_file {
            let text =
                small_file::read(path, MOST_SECRET).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok((first_line(&text), false));
        }
        if let Ok(text) = std::env::var(VARIABLE) {
            return Ok((text, false));
        }
        if !io::stdin().is_terminal() {
            let message =
                format!("no terminal to ask for the passphrase: set {VARIABLE} or give --passphrase-file FILE");
            return Err(Usage(message).into());
        }
        Ok((first_line(&ask_silently("Passphrase").context("cannot read the passphrase")?), true))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Encrypts what is written into `output`; nothing is whole before `finish`.
pub fn seal<W: Write>(output: W, passphrase: SecretString) -> io::Result<StreamWriter<W>> {
    let mut recipient = scrypt::Recipient::new(passphrase);
    recipient.set_work_factor(WORK);
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as _)).map_err(io::Error::other)?;
    encryptor.wrap_output(output)
}

/// Decrypts `path`.
pub fn open(path: &Path, passphrase: SecretString) -> Result<impl Read + use<>, OpenError> {
    open_from(fs::File::open(path).map_err(OpenError::Read)?, passphrase)
}

/// Decrypts `file`. Each 64 KiB are checked before they are given out, and that the last is the last.
pub fn open_from<R: Read>(file: R, passphrase: SecretString) -> Result<impl Read, OpenError> {
    let foreign = |error: DecryptError| match error {
        DecryptError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => OpenError::Read(error),
        other => OpenError::Foreign { why: other.to_string() },
    };
    let decryptor = Decryptor::new_buffered(io::BufReader::new(file)).map_err(foreign)?;
    let mut identity = scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MOST_WORK);
    decryptor.decrypt(std::iter::once(&identity as _)).map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => OpenError::Passphrase,
        other => foreign(other),
    })
}
