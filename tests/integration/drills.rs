//! Drills: faults on purpose against the real program, each with its figure. `make drills` runs them one after the other
//! and prints the figures; the short ones run with every test. A drill that is a scenario of a feature is in that
//! feature's file and reports here.

#![expect(clippy::print_stdout, reason = "a drill's figure is its result")]

#[cfg(target_os = "linux")]
mod body_flood;
mod damaged_store;
mod disk_full;
mod kill_loop;

/// Prints one row of the table.
pub fn report(drill: &str, figure: &str) {
    println!("drill  {drill:<28} {figure}");
}

/// The seed of a drill: DRILL_SEED, or drawn and printed.
fn seed() -> u64 {
    let given = std::env::var("DRILL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("DRILL_SEED={seed}");
    seed
}
