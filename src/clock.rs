//! The clocks of the shell. Pure code takes time as an argument and never calls these.

use std::time::{Instant, SystemTime};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one place where the service reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the one place where the service reads it")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Besides the media package, where the lint alone is enough.
    const PURE: [&str; 10] = [
        "call.rs",
        "call",
        "queue.rs",
        "queue",
        "calls/pacing.rs",
        "calls/queued/turns.rs",
        "agent/websocket/upgrade.rs",
        "agent/websocket/redial.rs",
        "agent/instances/breaker.rs",
        "whatsapp/clock.rs",
    ];

    #[test]
    fn pure_code_reads_no_clock() {
        for name in PURE {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
            let files = match path.is_dir() {
                true => fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect(),
                false => vec![path],
            };
            for file in files.iter().filter(|file| file.is_file() && !file.ends_with("tests.rs")) {
                let text = fs::read_to_string(file).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                assert!(!code.contains("clock::now()") && !code.contains("clock::wall()"), "{}", file.display());
            }
        }
    }
}
