//! Logging for people and for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Sends logs to stderr: text, or JSON lines when `PONTOON_LOG_FORMAT=json`. `PONTOON_LOG` filters
/// (as `RUST_LOG` does elsewhere); without it, `default` does. Called once, by the binary.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env("PONTOON_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Colours are for terminals; in files and journals they are noise.
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // It would say so on stderr, and panic where that is the terminal that was closed.
        .log_internal_errors(false);
    // A second call (tests) keeps the first subscriber.
    let _ = if std::env::var("PONTOON_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().try_init()
    } else {
        builder.compact().try_init()
    };
}
