//! What happens while a verb waits: a spinner on a terminal, plain lines otherwise. Always on stderr.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Shows progress; ends what it shows when dropped.
#[derive(Debug)]
pub struct Progress {
    /// None when stderr is no terminal.
    spinner: Option<ProgressBar>,
    last: Mutex<String>,
}

impl Progress {
    /// A spinner if stderr is a terminal.
    pub fn start() -> Self {
        Self { spinner: io::stderr().is_terminal().then(spinner), last: Mutex::default() }
    }

    /// What it waits for right now: replaces what the spinner said; a line of its own otherwise, if it is news.
    pub fn now(&self, text: &str) {
        if self.is_news(text) {
            match &self.spinner {
                Some(spinner) => spinner.set_message(text.to_owned()),
                None => output::note(text),
            }
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// A step that was reached: a line that stays, once.
    pub fn step(&self, text: &str) {
        let news = self.is_news(text);
        if news || self.spinner.is_some() {
            self.line(text);
        }
    }

    /// A share of `total` bytes is done; silent when not on a terminal.
    pub fn bytes(&self, done: u64, total: u64) {
        if let (Some(spinner), Some(percent)) = (&self.spinner, (done * 100).checked_div(total)) {
            spinner.set_message(format!("uploading {} of {} ({percent}%)", size(done), size(total)));
        }
    }

    fn is_news(&self, text: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let news = *last != text;
        if news {
            text.clone_into(&mut last);
        }
        news
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::default_spinner());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Bytes as people say them: `812 B`, `3.4 kB`, `12.0 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        n if n < 1_000 => format!("{n} B"),
        n if n < 1_000_000 => format!("{}.{} kB", n / 1_000, n % 1_000 / 100),
        n => format!("{}.{} MB", n / 1_000_000, n % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_said_once() {
        let progress = Progress { spinner: None, last: Mutex::default() };
        assert!(progress.is_news("placing") && !progress.is_news("placing") && progress.is_news("ready"));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(812), size(3_456), size(12_000_000)], ["812 B", "3.4 kB", "12.0 MB"]);
    }
}
