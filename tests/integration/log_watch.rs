//! A watch over every line that the service logs in any scenario: nothing private may be in it.

use std::io::Write;
use std::sync::Once;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Words of people, accounts and SDP that the scenarios use throughout, and that no log line of ours may hold.
const PRIVATE: [&str; 15] = [
    // The simulator's callers, by number and name, its business and its secrets.
    "1202555",
    "Example Caller",
    "simulated-app-secret",
    "simulated-access-token",
    "verify-me",
    "_writer_0",
    // Meta's ids contain the caller's number.
    "wacid.",
    // SDP, whatever it says.
    "a=ice-ufrag:",
    "a=ice-pwd:",
    "a=candidate:",
    "a=fingerprint:",
    "a=setup:",
    "UDP/TLS/RTP",
    "typ host",
    // Credentials of any kind.
    "Bearer ",
];

/// Begins the watch, once for all scenarios. A line that holds something private ends the run at once, because no
/// single scenario is known to have written it.
pub fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        // Other crates are in the simulator's hands too; what they log for the program is watched by `privacy`.
        let ours = Targets::new()
            .with_target("patchcord", tracing::Level::TRACE)
            .with_target("patchcord_media", tracing::Level::TRACE)
            .with_target("patchcord_simulator", tracing::level_filters::LevelFilter::OFF);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Watch);
        // A second subscriber would mean that somebody else reads the log; then so be it.
        let _ = tracing_subscriber::registry().with(lines).with(ours).try_init();
    });
}

/// The private word in a line, if there is one.
pub fn private_word(line: &str) -> Option<&'static str> {
    PRIVATE.into_iter().find(|word| line.contains(word))
}

struct Watch;

impl MakeWriter<'_> for Watch {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        if let Some(word) = private_word(&line) {
            // Not by the macro, whose words a test keeps to itself.
            let _ = writeln!(std::io::stderr(), "{word:?} is in the service's log: {line}");
            std::process::exit(101);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_watch_sees_what_is_private() {
    assert_eq!(private_word("call 12025550100 came"), Some("1202555"));
    assert_eq!(private_word("call call_01k came for route \"reception\""), None);
}
