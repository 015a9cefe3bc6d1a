//! How a figure is printed, and the median of several runs.

use std::time::Duration;

/// Runs of each measurement: the machine is shared, so the median counts.
pub const RUNS: usize = 3;

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The middle one, in seconds.
pub fn median_seconds(values: &[Duration]) -> f64 {
    median(values.iter().map(Duration::as_secs_f64).collect())
}

/// `FIGURE name value unit`
pub fn print(name: &str, value: f64, unit: &str) {
    println!("FIGURE {name} {value:.3} {unit}");
}

/// `FIGURE name value unit peer NAME value ratio R`; the ratio is ours over the peer's.
pub fn print_beside(name: &str, value: f64, unit: &str, peer: &str, of_peer: f64) {
    println!("FIGURE {name} {value:.3} {unit} peer {peer} {of_peer:.3} ratio {:.2}", value / of_peer);
}
