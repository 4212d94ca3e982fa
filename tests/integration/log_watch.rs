//! Checks every line that the service logs in any scenario for private data.

use std::io::Write;
use std::sync::Once;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Private data that the scenarios use, and that no log line of ours may contain.
const PRIVATE: [&str; 19] = [
    // The simulator's callers, by number and name, its business and its secrets.
    "1202555",
    "447700900",
    "1349120",
    "Example Caller",
    "simulated-app-secret",
    "simulated-access-token",
    "verify-me",
    "_writer_0",
    // Meta's ids contain the caller's number.
    "wacid.",
    "wamid.",
    // Any SDP.
    "a=ice-ufrag:",
    "a=ice-pwd:",
    "a=candidate:",
    "a=fingerprint:",
    "a=setup:",
    "UDP/TLS/RTP",
    "typ host",
    // Credentials of any kind.
    "Bearer ",
    "patchcordmedia_",
];

/// Starts the check, once for all scenarios. A line with private data ends the run at once, because no
/// single scenario can be blamed for it.
pub fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        // The simulator uses other crates too; `privacy` checks what they log for the program.
        let ours = Targets::new()
            .with_target("patchcord", tracing::Level::TRACE)
            .with_target("patchcord_media", tracing::Level::TRACE)
            .with_target("patchcord_simulator", tracing::level_filters::LevelFilter::OFF);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Watch);
        // Fails if another subscriber is installed already, which then reads the log.
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
            // Not by the macro, whose output a test captures.
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
