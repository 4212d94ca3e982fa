//! Somebody whom the business may call: the phone that rings, and how Meta tells the service about it.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Mutex, mpsc};

use crate::DEADLINE;
use crate::call::{Call, CallerOptions};
use crate::meta::permissions::{PermissionReply, Word};

/// Calls that a test has not taken yet; one more is answered "busy".
pub(crate) const UNTAKEN_CALLS: usize = 64;

/// Who may be called, and how Meta and the phone behave.
#[derive(Debug, Clone, Default)]
pub struct CalleeOptions {
    /// The person with the phone; `announce` does not matter.
    pub person: CallerOptions,
    /// The role in the answer of Meta's relay.
    pub setup: Setup,
    /// When Meta sends the answer and RINGING.
    pub webhooks: AnswerWebhooks,
}

/// The DTLS role of Meta's relay in its answer to an offer of the business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Setup {
    /// The service is the DTLS client; seen in 2026.
    #[default]
    Passive,
    /// The relay is; seen in 2024.
    Active,
}

/// When the `connect` webhook with the answer, and the status RINGING, are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AnswerWebhooks {
    /// Once the reply to `connect` is on its way.
    #[default]
    AfterReply,
    /// Before the reply to `connect`.
    BeforeReply,
    /// Only by [`Call::send_connect`] and [`Call::ring`].
    ByHand,
}

impl Setup {
    /// As the SDP has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Active => "active",
        }
    }
}

/// The handle on somebody whom the business may call.
#[derive(Debug)]
pub struct Callee {
    calls: Mutex<mpsc::Receiver<Call>>,
    word: Word,
}

impl Callee {
    pub(crate) fn new(calls: mpsc::Receiver<Call>, word: Word) -> Self {
        Self { calls: Mutex::new(calls), word }
    }

    /// The person, or a rule of Meta's, permits calls or does so no longer, and the webhook says it. Gives its body, to be
    /// sent again.
    ///
    /// # Errors
    /// When the service does not answer it with 200.
    pub async fn reply(&self, reply: PermissionReply) -> anyhow::Result<String> {
        let body = self.reply_by_hand(reply);
        let status = self.word.meta.post(body.clone().into_bytes(), None).await?;
        anyhow::ensure!(status == 200, "the service answered the permission reply with {status}");
        Ok(body)
    }

    /// The same, but the webhook is not sent.
    #[must_use]
    pub fn reply_by_hand(&self, reply: PermissionReply) -> String {
        self.word.meta.reply_body(&self.word.person, reply)
    }

    /// At Meta, the requests and calls so far happened so many days earlier.
    pub fn let_days_pass(&self, days: u64) {
        self.word.meta.let_days_pass(&self.word.person, days);
    }

    /// Waits for the next call to this person, at most 10 s.
    ///
    /// # Errors
    /// When nobody calls.
    pub async fn next_call(&self) -> anyhow::Result<Call> {
        match tokio::time::timeout(DEADLINE, async { self.calls.lock().await.recv().await }).await {
            Ok(call) => call.context("Meta is gone"),
            Err(_) => bail!("waited {DEADLINE:?} for a call"),
        }
    }

    /// The next call to this person, whenever it comes. None once somebody else has taken their place, or Meta is gone.
    pub async fn call(&self) -> Option<Call> {
        self.calls.lock().await.recv().await
    }

    /// Whether nobody calls for this time.
    pub async fn is_left_alone(&self, time: Duration) -> bool {
        tokio::time::timeout(time, async { self.calls.lock().await.recv().await }).await.is_err()
    }
}
