//! Drills: faults on purpose against the real program, each with its figure. `make drills` runs them one after the other
//! and prints the figures; the short ones run with every test. A drill that is a scenario of a feature is in that
//! feature's file and reports here.

#![expect(clippy::print_stdout, reason = "a drill's figure is its result")]

#[cfg(target_os = "linux")]
use anyhow::Context;

#[cfg(target_os = "linux")]
mod body_flood;
mod damaged_store;
mod disk_full;
#[cfg(target_os = "linux")]
mod hostile_sip;
mod kill_loop;
mod phone_clock;

/// Prints one row of the table.
pub fn report(drill: &str, figure: &str) {
    println!("drill  {drill:<28} {figure}");
}

/// How long a drill lasts: DRILL_SECONDS, or so many.
fn lasting(seconds: u64) -> std::time::Duration {
    let given = std::env::var("DRILL_SECONDS").ok().and_then(|text| text.parse().ok());
    std::time::Duration::from_secs(given.unwrap_or(seconds))
}

/// A figure of `/proc/PID/status`.
#[cfg(target_os = "linux")]
fn memory_mb(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).context("a figure")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024)
}

/// The seed of a drill: DRILL_SEED, or drawn and printed.
fn seed() -> u64 {
    let given = std::env::var("DRILL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("DRILL_SEED={seed}");
    seed
}
