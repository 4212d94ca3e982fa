//! Human-readable durations.

use std::time::Duration;

/// Units in seconds, largest first.
const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];

/// A duration in at most two units: `2.4 ms`, `27 ms`, `1.3 s`, `30 s`, `2 min 5 s`, `4 h`, `90 d`.
pub fn shown(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 9.95 {
        format!("{} ms", tenths(ms))
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 9950.0 {
        format!("{} s", tenths(ms / 1e3))
    } else {
        in_units((ms / 1e3).round() as u64)
    }
}

fn tenths(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// The largest unit that fits, and the next smaller one if it is not zero.
fn in_units(seconds: u64) -> String {
    let largest = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in UNITS.iter().skip(largest).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            parts.push(format!("{count} {name}"));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_digits_that_matter() {
        for (nanoseconds, text) in [
            (0, "0 ms"),
            (40_000, "0 ms"),
            (2_415_338, "2.4 ms"),
            (9_960_000, "10 ms"),
            (27_418_338, "27 ms"),
            (999_400_000, "999 ms"),
            (999_600_000, "1 s"),
            (1_302_415_338, "1.3 s"),
            (9_960_000_000, "10 s"),
            (30_000_000_000, "30 s"),
            (59_700_000_000, "1 min"),
            (125_000_000_000, "2 min 5 s"),
        ] {
            assert_eq!(shown(Duration::from_nanos(nanoseconds)), text, "{nanoseconds} ns");
        }
        for (seconds, text) in [
            (3599, "59 min 59 s"),
            (3601, "1 h"),
            (4 * 3600, "4 h"),
            (4 * 3600 + 310, "4 h 5 min"),
            (90 * 86_400, "90 d"),
            (86_400 + 7200, "1 d 2 h"),
        ] {
            assert_eq!(shown(Duration::from_secs(seconds)), text, "{seconds} s");
        }
        assert!(shown(Duration::MAX).ends_with(" h"), "the longest one is no panic");
    }
}
