//! Liveness: when something last came from an agent, and when it is lost because nothing comes.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::agent::port::AgentPort;
use crate::agent::websocket::ending::Ending;
use crate::call::agent_failure::AgentFailureKind;
use crate::clock;
use crate::telemetry::shown;

/// The life signs of one connection: whatever the agent sends, pongs included.
pub(super) struct Liveness {
    heard_at: Cell<Instant>,
    heard: Notify,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self { heard_at: Cell::new(now), heard: Notify::new() }
    }

    /// Something came.
    pub fn heard(&self) {
        self.heard_at.set(clock::now());
        self.heard.notify_waiters();
    }

    pub fn heard_at(&self) -> Instant {
        self.heard_at.get()
    }

    /// Waits for the next life sign. An agent that we do not read until it has read its notices is alive.
    pub async fn next(&self, port: &AgentPort) {
        if !port.must_read_notices() {
            self.heard.notified().await;
        }
    }

    /// Ends only if nothing has come for so long, whatever our own writes wait for.
    pub async fn lost(&self, idle_timeout: Duration, port: &AgentPort) -> Ending {
        let mut standstills = port.standstills();
        loop {
            sleep_until((self.heard_at.get() + idle_timeout).into()).await;
            let now = clock::now();
            if let Some(gap) = standstills.next(now) {
                // What the agent sent meanwhile has not been read yet.
                self.heard_at.set((self.heard_at.get() + gap).min(now));
            }
            if port.must_read_notices() {
                // Its pongs wait behind what we do not read.
                self.heard_at.set(now);
            }
            if now.saturating_duration_since(self.heard_at.get()) >= idle_timeout {
                let cause = format!("nothing came for {} (calls.agent_idle_timeout)", shown(idle_timeout));
                return Ending::Lost(AgentFailureKind::Unresponsive.because(cause));
            }
        }
    }
}
