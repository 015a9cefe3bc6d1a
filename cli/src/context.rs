//! Where the controllers are and how to prove who we are: environment variables, else the context file.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pontoon_kit::file;
use serde::{Deserialize, Serialize};

/// Names the controllers' REST URLs, separated by commas.
pub const URL_VARIABLE: &str = "PONTOON_URL";
/// Holds the REST token.
pub const TOKEN_VARIABLE: &str = "PONTOON_TOKEN";

/// Addresses and token of a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// REST URLs of the controllers; the next is tried when one does not answer.
    pub url: Vec<String>,
    /// The REST bearer token.
    pub token: String,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context {{ url: {:?}, token: [hidden] }}", self.url)
    }
}

/// Why there is no usable context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Nothing says where the controllers are.
    #[error(
        "no cluster is known here: start one with `pontoon dev`, or set {URL_VARIABLE} and {TOKEN_VARIABLE} \
         (neither they nor {} exist)", path.display()
    )]
    Missing {
        /// Where the context file would be.
        path: PathBuf,
    },
    /// Addresses without a token.
    #[error("{URL_VARIABLE} is set, but there is no token: set {TOKEN_VARIABLE} too")]
    NoToken,
    /// The file cannot be read or written.
    #[error("cannot use the context file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what we write.
    #[error(
        "the context file {} is not valid: correct it, or remove it and start `pontoon dev`, which writes it anew",
        path.display()
    )]
    Parse {
        /// Which.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// No home directory to keep it in.
    #[error("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for the context file")]
    NoHome,
}

impl Context {
    /// From the environment's variables where set, else from the context file.
    pub fn from_environment() -> Result<Self, ContextError> {
        let variable = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self::choose(variable(URL_VARIABLE), variable(TOKEN_VARIABLE), Self::default_path)
    }

    fn choose(
        urls: Option<String>,
        token: Option<String>,
        path: impl Fn() -> Result<PathBuf, ContextError>,
    ) -> Result<Self, ContextError> {
        match (urls, token) {
            (Some(urls), Some(token)) => Ok(Self { url: split_urls(&urls), token: token.trim().to_owned() }),
            // The token belongs to the cluster of the file: sending it elsewhere would give it away.
            (Some(_), None) => Err(ContextError::NoToken),
            (None, token) => {
                let mut context = Self::load(&path()?)?;
                if let Some(token) = token {
                    context.token = token.trim().to_owned();
                }
                Ok(context)
            }
        }
    }

    /// `$XDG_CONFIG_HOME/pontoon/config.toml`, usually `~/.config/pontoon/config.toml`.
    pub fn default_path() -> Result<PathBuf, ContextError> {
        home("XDG_CONFIG_HOME", ".config").map(|base| base.join("pontoon/config.toml"))
    }

    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let wrap = |source| ContextError::File { path: path.to_owned(), source };
        let bytes =
            file::read_if_there(path).map_err(wrap)?.ok_or_else(|| ContextError::Missing { path: path.to_owned() })?;
        toml::from_str(&String::from_utf8_lossy(&bytes))
            .map_err(|source| ContextError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Writes the file at `path`, for its owner only.
    pub fn save(&self, path: &Path) -> Result<(), ContextError> {
        let wrap = |source| ContextError::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            make_private_folder(folder).map_err(wrap)?;
        }
        let text = toml::to_string(self).map_err(|error| wrap(io::Error::other(error)))?;
        file::replace(path, text.as_bytes(), 0o600).map_err(wrap)
    }
}

/// `$VARIABLE`, else `$HOME/FALLBACK`.
pub(crate) fn home(variable: &str, fallback: &str) -> Result<PathBuf, ContextError> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder(variable).or_else(|| folder("HOME").map(|home| home.join(fallback))).ok_or(ContextError::NoHome)
}

/// Makes `folder` if it is missing, for its owner only; one that exists keeps its mode.
pub(crate) fn make_private_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn split_urls(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_file_reads_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pontoon/config.toml");
        let context = Context { url: vec!["http://127.0.0.1:7700".into()], token: "secret".into() };
        context.save(&path).unwrap();
        assert_eq!(Context::load(&path).unwrap(), context);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{context:?}").contains("secret"));
    }

    #[test]
    fn variables_go_before_the_file() {
        let context = Context::choose(some("http://a, http://b"), some("t"), || panic!("not read")).unwrap();
        assert_eq!(context.url, ["http://a", "http://b"]);
    }

    #[test]
    fn the_files_token_is_never_sent_to_an_address_from_elsewhere() {
        let refused = Context::choose(some("http://a"), None, || panic!("not read"));
        assert!(matches!(refused, Err(ContextError::NoToken)));
    }

    #[test]
    fn without_any_context_the_error_says_what_to_do() {
        let error = Context::choose(None, None, || Ok("/nonexistent/config.toml".into())).unwrap_err().to_string();
        assert!(error.contains("pontoon dev") && error.contains("PONTOON_URL"), "{error}");
    }
}
