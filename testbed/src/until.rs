//! Waiting for a condition.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is asked again: short beside what is waited for, long beside what asking costs.
const EVERY: Duration = Duration::from_millis(50);

/// Asks `check` until it succeeds; after `limit` fails with the last reason why it is not yet true.
pub fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(reason) if begun.elapsed() >= limit => {
                bail!("waited {:.0?} for: {what}; not yet, because {reason:#}", begun.elapsed())
            }
            Err(_) => std::thread::sleep(EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let mut tries = 0;
        let error = until("three", Duration::from_millis(120), || -> Result<()> {
            tries += 1;
            bail!("only {tries}")
        })
        .unwrap_err();
        assert!(tries > 1 && error.to_string().contains(&format!("only {tries}")), "{error}");
    }
}
