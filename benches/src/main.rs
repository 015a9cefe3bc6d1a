//! Figures, each beside a peer in the same run where there is one. `benches/README.md` lists them.

mod deploy;
mod figure;
mod idle;
mod scale;

use anyhow::{Result, bail};

type Bench = (&'static str, fn() -> Result<()>);

/// Name and body of each bench.
const BENCHES: [Bench; 3] = [("scale", scale::run), ("deploy", deploy::run), ("idle", idle::run)];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        bail!("no bench is called {unknown}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
    }
    for (name, run) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("bench {name}");
            run()?;
        }
    }
    Ok(())
}
