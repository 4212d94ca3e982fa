//! `[calls]`: how long things may take, and how many calls there may be.

use std::time::Duration;

use super::read::Section;

/// How long things may take, and how many calls there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// From Meta's webhook to our accept. Meta gives up after 30 to 60 s.
    pub accept_timeout: Duration,
    /// From our answer to a path for sound. As long as [`accept_timeout`](Self::accept_timeout) unless configured.
    pub media_timeout: Duration,
    /// For one agent to join.
    pub agent_timeout: Duration,
    /// How long nothing may come from an agent, not even an answer to a ping.
    pub agent_idle_timeout: Duration,
    /// For a whole call.
    pub max_duration: Duration,
    /// Of silence from the caller's side, or of unanswered connectivity checks, before a warning.
    pub media_lost_warn: Duration,
    /// Of unanswered connectivity checks before the call ends: the caller is gone.
    pub media_lost_end: Duration,
    /// Without RTP and RTCP before the call ends although the checks are answered.
    pub media_silent_end: Duration,
    /// For live calls to end after SIGTERM.
    pub drain_timeout: Duration,
    /// For one Graph request with its retries.
    pub graph_budget: Duration,
    /// Live calls at once; more are rejected.
    pub max_calls: usize,
}

impl Calls {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let mut time = |key, most, usual| section.duration(key, most).unwrap_or(usual);
        // Meta ends an unanswered call after 30 to 60 s.
        let accept_timeout = time("accept_timeout", MINUTE, 30 * SECOND);
        let calls = Self {
            accept_timeout,
            // A phone's side may answer our checks late; while Meta waits, so do we.
            media_timeout: time("media_timeout", MINUTE, accept_timeout),
            agent_timeout: time("agent_timeout", MINUTE, 8 * SECOND),
            agent_idle_timeout: time("agent_idle_timeout", DAY, 20 * SECOND),
            max_duration: time("max_duration", 7 * DAY, 4 * 60 * MINUTE),
            media_lost_warn: time("media_lost_warn", DAY, 5 * SECOND),
            media_lost_end: time("media_lost_end", DAY, 30 * SECOND),
            media_silent_end: time("media_silent_end", DAY, 2 * MINUTE),
            drain_timeout: time("drain_timeout", DAY, 30 * SECOND),
            graph_budget: time("graph_budget", MINUTE, 8 * SECOND),
            max_calls: section.whole("max_calls", 1, 1_000_000).unwrap_or(1000) as usize,
        };
        for (end, after) in [("media_lost_end", calls.media_lost_end), ("media_silent_end", calls.media_silent_end)] {
            if calls.media_lost_warn >= after {
                let shown = format!("\"{}\"", humantime::format_duration(calls.media_lost_warn));
                section.note("media_lost_warn", Some(shown), format!("the warning must come before {end}"));
            }
        }
        section.end();
        calls
    }
}
