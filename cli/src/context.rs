//! Where the controllers are and how to prove who we are: environment variables, else the context file, which holds a
//! context for each cluster.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pontoon_kit::file;
use serde::{Deserialize, Serialize};

use crate::small_file::{self, MOST_PEM};

/// Names the controllers' REST URLs, separated by commas.
pub const URL_VARIABLE: &str = "PONTOON_URL";
/// Holds the REST token.
pub const TOKEN_VARIABLE: &str = "PONTOON_TOKEN";
/// Names a file with the certificate of who signed the controllers' (PEM), for URLs with https.
pub const CA_VARIABLE: &str = "PONTOON_CA";

/// What the one context of an older file is called.
const OLD_NAME: &str = "default";
/// Longest name of a context: a column of a list.
const MAX_NAME: usize = 60;

/// Addresses and token of a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// REST URLs of the controllers; the next is tried when one does not answer.
    pub url: Vec<String>,
    /// The REST bearer token.
    pub token: String,
    /// Certificate of who signed the controllers' (PEM), for URLs with https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// URLs that the cluster told of, the one that answered last first: tried before those above, so that the cluster is found
    /// when none of the controllers is left that were there at the login.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context {{ url: {:?}, token: [hidden] }}", self.url)
    }
}

/// All contexts, and which is used if none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// Why there is no usable context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Nothing says where the controllers are.
    #[error(
        "no cluster is known here: start one with `pontoon dev`, or take one with `pontoon login URL`, or set \
         {URL_VARIABLE} and {TOKEN_VARIABLE} (neither they nor a context in {} exist)", path.display()
    )]
    Missing {
        /// Where the context file would be.
        path: PathBuf,
    },
    /// There are contexts, and none is chosen.
    #[error("no context is chosen: choose one of {known} with `pontoon context use NAME`, or name it with --context")]
    NoneChosen {
        /// Their names.
        known: String,
    },
    /// A context that is not there.
    #[error("there is no context {name:?}: `pontoon context list` shows those there are ({known})")]
    Unknown {
        /// Which.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A name that cannot be one.
    #[error("{name:?} is no name of a context: use 1 to {MAX_NAME} of a-z, A-Z, 0-9, -, _ and .")]
    Name {
        /// What was given.
        name: String,
    },
    /// Two answers to the question which cluster is meant.
    #[error("--context {name} and {URL_VARIABLE} name two clusters: leave out one of them")]
    Both {
        /// The context.
        name: String,
    },
    /// A token without addresses, and no context whose addresses could be meant.
    #[error(
        "{TOKEN_VARIABLE} is set, but nothing says where its cluster is: set {URL_VARIABLE} too, or `unset {TOKEN_VARIABLE}` and \
         take a cluster with `pontoon login URL`"
    )]
    NoUrl,
    /// Addresses without a token.
    #[error("{URL_VARIABLE} is set, but there is no token: set {TOKEN_VARIABLE} too")]
    NoToken,
    /// The file cannot be read or written.
    #[error("cannot use the file {}", path.display())]
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

/// What the environment's variables say.
#[derive(Debug, Default)]
struct Variables {
    urls: Option<String>,
    token: Option<String>,
    ca: Option<String>,
}

/// Where a context was found, and what may be noted there.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
    name: String,
    url: Vec<String>,
    ca: Option<String>,
    known: Vec<String>,
}

impl Kept {
    /// Notes where the controllers are, unless that is noted already or the context is another's by now.
    pub fn put_known(&self, known: &[String]) -> Result<(), ContextError> {
        if self.known == known {
            return Ok(());
        }
        self.change(|context| context.url == self.url, |context| context.known = known.to_vec())
    }

    /// Notes whose signature counts from now on, unless somebody has noted something else meanwhile.
    pub fn put_ca(&self, ca: &str) -> Result<(), ContextError> {
        self.change(|context| context.ca == self.ca, |context| context.ca = Some(ca.to_owned()))
    }

    /// Changes the context in its file, if it is there and `still` what it was.
    fn change(
        &self,
        still: impl FnOnce(&Context) -> bool,
        change: impl FnOnce(&mut Context),
    ) -> Result<(), ContextError> {
        let mut contexts = Contexts::load(&self.path)?;
        match contexts.contexts.get_mut(&self.name).filter(|context| still(context)) {
            Some(context) => {
                change(context);
                contexts.save(&self.path)
            }
            None => Ok(()),
        }
    }
}

/// The cluster that is meant.
#[derive(Debug)]
pub struct Chosen {
    /// Its addresses and token.
    pub context: Context,
    /// Where it was found, if that is the context file.
    pub kept: Option<Kept>,
}

/// Which of the variables that go before a context are set.
pub(crate) fn variables_set() -> Vec<&'static str> {
    [URL_VARIABLE, TOKEN_VARIABLE, CA_VARIABLE].into_iter().filter(|name| variable(name).is_some()).collect()
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Context {
    /// Whether both are the same access to the same cluster.
    fn is_same_as(&self, other: &Self) -> bool {
        (&self.url, &self.token, &self.ca) == (&other.url, &other.token, &other.ca)
    }

    /// From the environment's variables where set, else from the context file: the one of this name, or the current one.
    pub fn choose(name: Option<&str>) -> Result<Chosen, ContextError> {
        let variables =
            Variables { urls: variable(URL_VARIABLE), token: variable(TOKEN_VARIABLE), ca: variable(CA_VARIABLE) };
        Self::choose_from(variables, name, Contexts::default_path)
    }

    fn choose_from(
        variables: Variables,
        name: Option<&str>,
        path: impl Fn() -> Result<PathBuf, ContextError>,
    ) -> Result<Chosen, ContextError> {
        match (variables.urls, variables.token, name) {
            (Some(_), _, Some(name)) => Err(ContextError::Both { name: name.to_owned() }),
            (Some(urls), Some(token), None) => {
                let ca = variables.ca.map(|path| read_ca(Path::new(&path))).transpose()?;
                let context = Self { url: split_urls(&urls), token: token.trim().to_owned(), ca, known: Vec::new() };
                Ok(Chosen { context, kept: None })
            }
            // The token belongs to the cluster of the file: sending it elsewhere would give it away.
            (Some(_), None, None) => Err(ContextError::NoToken),
            (None, token, name) => {
                let path = path()?;
                let contexts = Contexts::load(&path)?;
                let (name, mut context) = match contexts.get(name, &path) {
                    Err(ContextError::Missing { .. }) if token.is_some() => return Err(ContextError::NoUrl),
                    found => found.map(|(name, context)| (name.to_owned(), context.clone()))?,
                };
                let Context { url, ca, known, .. } = context.clone();
                let kept = Kept { path, name, url, ca, known };
                if let Some(token) = token {
                    context.token = token.trim().to_owned();
                }
                Ok(Chosen { context, kept: Some(kept) })
            }
        }
    }
}

impl Contexts {
    /// `$XDG_CONFIG_HOME/pontoon/config.toml`, usually `~/.config/pontoon/config.toml`.
    pub fn default_path() -> Result<PathBuf, ContextError> {
        home("XDG_CONFIG_HOME", ".config").map(|base| base.join("pontoon/config.toml"))
    }

    /// Reads the file at `path`; none are there if it is not. An older file holds one context.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let wrap = |source| ContextError::File { path: path.to_owned(), source };
        let Some(bytes) = file::read_if_there(path).map_err(wrap)? else { return Ok(Self::default()) };
        let parse = |source| ContextError::Parse { path: path.to_owned(), source: Box::new(source) };
        let text = String::from_utf8_lossy(&bytes);
        let table: toml::Table = toml::from_str(&text).map_err(parse)?;
        if !table.contains_key("url") {
            return toml::from_str(&text).map_err(parse);
        }
        let mut contexts = Self::default();
        contexts.put(OLD_NAME, toml::from_str(&text).map_err(parse)?);
        Ok(contexts)
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

    /// The one of this name, else the current one.
    fn get(&self, name: Option<&str>, path: &Path) -> Result<(&str, &Context), ContextError> {
        match name.or(self.current.as_deref()) {
            Some(name) => self
                .contexts
                .get_key_value(name)
                .map(|(name, context)| (name.as_str(), context))
                .ok_or_else(|| self.unknown(name)),
            None if self.contexts.is_empty() => Err(ContextError::Missing { path: path.to_owned() }),
            None => Err(ContextError::NoneChosen { known: self.known() }),
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Context)> {
        self.contexts.iter().map(|(name, context)| (name.as_str(), context))
    }

    /// One of them.
    pub fn find(&self, name: &str) -> Option<&Context> {
        self.contexts.get(name)
    }

    /// Which is used if none is named.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Keeps a context and makes it the current one.
    pub fn put(&mut self, name: &str, context: Context) {
        self.contexts.insert(name.to_owned(), context);
        self.current = Some(name.to_owned());
    }

    /// Makes one the current one.
    pub fn choose(&mut self, name: &str) -> Result<(), ContextError> {
        if !self.contexts.contains_key(name) {
            return Err(self.unknown(name));
        }
        self.current = Some(name.to_owned());
        Ok(())
    }

    /// Forgets one; if it was the current one, none is.
    pub fn remove(&mut self, name: &str) -> Result<Context, ContextError> {
        let removed = self.contexts.remove(name).ok_or_else(|| self.unknown(name))?;
        self.current = self.current.take().filter(|current| current != name);
        Ok(removed)
    }

    /// Keeps `context` under `name`, or the name that it has already. What is there under this name is kept under another:
    /// a token is nowhere else. Returns that other name.
    pub fn put_aside_and_put(&mut self, name: &str, context: Context) -> Option<String> {
        if let Some(known) =
            self.contexts.iter().find(|(_, known)| known.is_same_as(&context)).map(|(known, _)| known.clone())
        {
            self.current = Some(known);
            return None;
        }
        let aside = self.contexts.remove(name).map(|old| {
            let names = (1..).map(|n| if n == 1 { format!("{name}-before") } else { format!("{name}-before-{n}") });
            let mut names = names.filter(|aside| !self.contexts.contains_key(aside));
            let aside = names.next().expect("some number is not taken");
            self.contexts.insert(aside.clone(), old);
            aside
        });
        self.put(name, context);
        aside
    }

    fn known(&self) -> String {
        if self.contexts.is_empty() {
            "none".to_owned()
        } else {
            self.contexts.keys().cloned().collect::<Vec<_>>().join(", ")
        }
    }

    fn unknown(&self, name: &str) -> ContextError {
        ContextError::Unknown { name: name.to_owned(), known: self.known() }
    }
}

/// Checks what shall be a context's name.
pub fn check_name(name: &str) -> Result<(), ContextError> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(ContextError::Name { name: name.to_owned() })
}

/// Reads a certificate (PEM).
pub fn read_ca(path: &Path) -> Result<String, ContextError> {
    small_file::read(path, MOST_PEM).map_err(|source| ContextError::File { path: path.to_owned(), source })
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

/// URLs between commas.
pub(crate) fn split_urls(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(token: &str) -> Context {
        Context { url: vec!["http://127.0.0.1:7700".into()], token: token.into(), ca: None, known: Vec::new() }
    }

    fn variables(urls: &str, token: &str) -> Variables {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Variables { urls: some(urls), token: some(token), ca: None }
    }

    #[test]
    fn the_file_reads_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pontoon/config.toml");
        let mut contexts = Contexts::default();
        contexts.put("home", context("secret"));
        contexts.put("work", Context { ca: Some("-----BEGIN…\nx\n".into()), ..context("other") });
        contexts.choose("home").unwrap();
        contexts.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{contexts:?}").contains("secret"));
        let choose =
            |name| Context::choose_from(Variables::default(), name, || Ok(path.clone())).map(|chosen| chosen.context);
        assert_eq!(choose(None).unwrap().token, "secret");
        assert_eq!(choose(Some("work")).unwrap().token, "other");
        let error = choose(Some("nope")).unwrap_err().to_string();
        assert!(error.contains("home, work"), "{error}");
        contexts.remove("home").unwrap();
        contexts.save(&path).unwrap();
        assert!(matches!(choose(None), Err(ContextError::NoneChosen { .. })));
    }

    #[test]
    fn a_file_of_before_is_one_context() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "url = [\"http://127.0.0.1:7700\"]\ntoken = \"old\"\n").unwrap();
        let contexts = Contexts::load(&path).unwrap();
        assert_eq!((contexts.current(), contexts.find("default")), (Some("default"), Some(&context("old"))));
        fs::write(&path, "url = 7\n").unwrap();
        assert!(matches!(Contexts::load(&path), Err(ContextError::Parse { .. })));
    }

    #[test]
    fn no_context_that_was_kept_is_lost() {
        let mut contexts = Contexts::default();
        let mut aside = Vec::new();
        for token in ["a", "b", "a", "b", "c"] {
            aside.extend(contexts.put_aside_and_put("dev", context(token)));
        }
        assert_eq!(aside, ["dev-before", "dev-before-2"]);
        let tokens: Vec<_> = contexts.iter().map(|(name, context)| (name, context.token.as_str())).collect();
        assert_eq!(tokens, [("dev", "c"), ("dev-before", "a"), ("dev-before-2", "b")]);
    }

    #[test]
    fn variables_go_before_the_file() {
        let not_read = || -> Result<PathBuf, _> { panic!("not read") };
        let context = Context::choose_from(variables("http://a, http://b", "t"), None, not_read).unwrap().context;
        assert_eq!(context.url, ["http://a", "http://b"]);
        let both = Context::choose_from(variables("http://a", "t"), Some("home"), not_read);
        assert!(matches!(both, Err(ContextError::Both { .. })));
    }

    #[test]
    fn the_files_token_is_never_sent_to_an_address_from_elsewhere() {
        let refused = Context::choose_from(variables("http://a", ""), None, || panic!("not read"));
        assert!(matches!(refused, Err(ContextError::NoToken)));
    }

    #[test]
    fn an_authority_is_noted_in_the_context_that_was_used_and_in_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let mut contexts = Contexts::default();
        for name in ["home", "work"] {
            contexts.put(name, Context { ca: Some("first".into()), ..context(name) });
        }
        contexts.save(&path).unwrap();
        let used = Context::choose_from(variables("", "other"), Some("home"), || Ok(path.clone())).unwrap();
        used.kept.unwrap().put_ca("second").unwrap();
        let kept = Contexts::load(&path).unwrap();
        let ca = |name: &str| kept.find(name).unwrap().ca.clone().unwrap();
        assert_eq!((ca("home"), ca("work"), kept.current()), ("second".into(), "first".into(), Some("work")));
        assert_eq!(kept.find("home").unwrap().token, "home", "what a variable said is not kept");
        // Somebody has logged in anew meanwhile.
        let used = Context::choose_from(Variables::default(), Some("home"), || Ok(path.clone())).unwrap();
        contexts.put("home", Context { ca: Some("anew".into()), ..context("home") });
        contexts.save(&path).unwrap();
        used.kept.unwrap().put_ca("third").unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), contexts);
    }

    #[test]
    fn a_token_without_an_address_is_not_passed_over() {
        let none = Context::choose_from(variables("", "t"), None, || Ok("/nonexistent/config.toml".into()));
        let error = none.unwrap_err().to_string();
        assert!(error.contains("PONTOON_TOKEN is set") && error.contains("set PONTOON_URL"), "{error}");
    }

    #[test]
    fn without_any_context_the_error_says_what_to_do() {
        let none = Context::choose_from(Variables::default(), None, || Ok("/nonexistent/config.toml".into()));
        let error = none.unwrap_err().to_string();
        assert!(error.contains("pontoon dev") && error.contains("PONTOON_URL") && error.contains("login"), "{error}");
    }

    #[test]
    fn where_the_controllers_are_is_noted_in_the_context_it_was_heard_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let mut contexts = Contexts::default();
        contexts.put("home", context("t"));
        contexts.save(&path).unwrap();
        let known = |path: &Path| Contexts::load(path).unwrap().find("home").unwrap().known.clone();
        let kept = Context::choose_from(Variables::default(), None, || Ok(path.clone())).unwrap().kept.unwrap();
        let told = ["http://127.0.0.1:7700", "http://127.0.0.1:7701"].map(str::to_owned);
        kept.put_known(&told).unwrap();
        assert_eq!(known(&path), told);
        // It leads to another cluster by now.
        let other = Context { url: vec!["http://127.0.0.1:1".into()], ..context("t") };
        contexts.put("home", other);
        contexts.save(&path).unwrap();
        kept.put_known(&told).unwrap();
        assert!(known(&path).is_empty());
    }

    #[test]
    fn names_are_words() {
        for good in ["home", "prod.eu-1", "A_b"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(61)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
