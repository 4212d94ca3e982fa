//! The trace of one call: what Meta did and saw, in order, for a live view.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{EndedBy, Stage};

/// Events kept per call; later ones are left out. A call without faults has about ten.
const MOST_EVENTS: usize = 1_000;

/// One thing that Meta did or saw. Times count from the moment at which the call was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceEvent {
    /// The phone is given the service's answer.
    Answer {
        /// When.
        at: Duration,
        /// With the relay's address where there is a relay.
        sdp: String,
    },
    /// The call passed a stage.
    Stage {
        /// Which.
        stage: Stage,
        /// When.
        at: Duration,
    },
    /// A webhook was sent, and answered or not.
    Webhook(WebhookTrace),
    /// A Graph request came, and was answered or not.
    Graph(GraphTrace),
    /// Something was wrong.
    Objection {
        /// When it was noticed.
        at: Duration,
        /// In words.
        text: String,
    },
    /// The agent joined, left or failed.
    Agent {
        /// When.
        at: Duration,
        /// In words.
        text: String,
        /// Whether the caller is without it.
        failed: bool,
    },
    /// The call is over; only webhooks follow.
    Ended {
        /// Whose word ended it.
        by: EndedBy,
    },
}

/// One webhook of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookTrace {
    /// When it was sent.
    pub at: Duration,
    /// How long the service took to answer.
    pub took: Duration,
    /// `connect` or `terminate`, or the status of a call that the business placed.
    pub event: &'static str,
    /// Whether it was sent before, and this is a copy on purpose.
    pub copy: bool,
    /// JSON, byte for byte as sent.
    pub body: String,
    /// The service's HTTP status, or why there is none.
    pub outcome: Result<u16, String>,
}

/// One Graph request of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphTrace {
    /// When it arrived.
    pub at: Duration,
    /// How long the reply took.
    pub took: Duration,
    /// `pre_accept`, `accept`, `reject`, `terminate`.
    pub action: String,
    /// JSON, byte for byte as it came.
    pub request: String,
    /// HTTP status and body; None where there is no reply on purpose.
    pub reply: Option<(u16, String)>,
}

/// The events of one call so far.
#[derive(Debug)]
pub struct Trace {
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<TraceEvent>,
    is_closed: bool,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { log: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// The event number `index`, as soon as there is one. None once the trace is closed without it.
    pub async fn event(&self, index: usize) -> Option<TraceEvent> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let log = self.lock();
                if let Some(event) = log.events.get(index) {
                    return Some(event.clone());
                }
                if log.is_closed {
                    return None;
                }
            }
            changed.changed().await.ok()?;
        }
    }

    pub(crate) fn push(&self, event: TraceEvent) {
        let mut log = self.lock();
        if !log.is_closed && log.events.len() < MOST_EVENTS {
            log.events.push(event);
        }
        drop(log);
        self.changed.send_replace(());
    }

    /// Nothing follows.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
