//! Calls whose phone is a browser: its SDP comes from outside, and what happens is traced for a page to show.

pub mod incoming;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::call::trace::{Trace, TraceEvent, WebhookTrace};
use crate::call::{CallRecord, EndedBy, LiveCall};
use crate::meta::{MetaShared, Reply};
use crate::phone::shell::now;
use crate::relay::RelayRewrite;

/// Who calls with a browser, and what goes wrong.
#[derive(Debug, Clone, Default)]
pub struct BrowserCaller {
    /// The caller's number in digits.
    pub from: String,
    /// The name in the caller's profile.
    pub name: String,
    /// The browser's offer. Meta passes it on as it is, but for candidates where there is a relay.
    pub sdp: String,
    /// What goes wrong on purpose.
    pub faults: Faults,
    /// Chance; drawn unless given.
    pub seed: Option<u64>,
}

/// What goes wrong on purpose in one call. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// With the webhooks.
    pub webhooks: WebhookFault,
    /// With Graph.
    pub graph: Option<GraphFault>,
    /// How long the answer takes from Meta to the phone.
    pub late_answer: Duration,
    /// Share of datagrams lost in each direction, 0 to 1.
    pub loss: f64,
    /// How long a datagram takes in each direction.
    pub delay: Duration,
}

/// What goes wrong with webhooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebhookFault {
    /// Each comes once, in order.
    #[default]
    None,
    /// Each comes twice, at the same time.
    Doubled,
    /// A copy of `connect` comes after `terminate`.
    Reordered,
}

/// What goes wrong with Graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphFault {
    /// The first `pre_accept` is answered with 500.
    PreAccept500,
    /// The first `accept` is answered with 500.
    Accept500,
    /// The first `accept` gets no reply, and is not applied.
    AcceptTimeout,
}

impl GraphFault {
    fn replies(self) -> (&'static str, Reply) {
        match self {
            Self::PreAccept500 => ("pre_accept", Reply::server_error()),
            Self::Accept500 => ("accept", Reply::server_error()),
            Self::AcceptTimeout => ("accept", Reply::Hang),
        }
    }
}

/// A call from a browser, or to one. It goes on when this handle is dropped.
#[derive(Debug, Clone)]
pub struct BrowserCall {
    meta: Arc<MetaShared>,
    live: LiveCall,
    line: Arc<BrowserLine>,
}

impl BrowserCall {
    pub(crate) fn new(meta: Arc<MetaShared>, live: LiveCall, line: Arc<BrowserLine>) -> Self {
        Self { meta, live, line }
    }

    /// The seed of everything that is left to chance in this call.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.live.record.seed
    }

    /// Meta's id of the call.
    #[must_use]
    pub fn wacid(&self) -> &str {
        &self.live.record.parties.wacid
    }

    /// The agent did something, in words; Meta sees nothing of it.
    pub fn note_agent(&self, text: &str, failed: bool) {
        let at = self.live.record.since_placed(now());
        self.trace().push(TraceEvent::Agent { at, text: text.to_owned(), failed });
    }

    /// What happened so far, and what happens next.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.line.trace
    }

    /// Whether the call is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.live.record.lock().ended.is_some()
    }

    /// Hangs up: the terminate webhook goes out in the background. Nothing happens if the call is over.
    pub fn hang_up(&self) {
        MetaShared::end_later(&Arc::downgrade(&self.meta), &self.live.record, EndedBy::Caller);
    }

    /// Waits until the call is over and its last webhook is answered.
    pub async fn finished(&self) {
        let mut index = 0;
        while self.trace().event(index).await.is_some() {
            index += 1;
        }
    }
}

/// What Meta keeps beside the record of a call from a browser.
#[derive(Debug)]
pub(crate) struct BrowserLine {
    pub(crate) trace: Arc<Trace>,
    faults: Faults,
    /// Replies that are still to be given, by action.
    replies: Mutex<VecDeque<(&'static str, Reply)>>,
    relay: Option<RelayRewrite>,
}

impl BrowserLine {
    pub(crate) fn new(trace: Arc<Trace>, faults: Faults, relay: Option<RelayRewrite>) -> Self {
        let replies = faults.graph.map(GraphFault::replies).into_iter().collect();
        Self { trace, faults, replies: Mutex::new(replies), relay }
    }

    /// How the next request of this action is answered, where it is not answered normally.
    pub(crate) fn next_reply(&self, action: &str) -> Option<Reply> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let index = replies.iter().position(|(wanted, _)| *wanted == action)?;
        replies.remove(index).map(|(_, reply)| reply)
    }

    /// Gives the answer to the page, as late as the faults say.
    pub(crate) fn learn_answer(&self, meta: &MetaShared, record: &Arc<CallRecord>, sdp: &str) {
        let sdp = self.relay.as_ref().map_or_else(|| sdp.to_owned(), |relay| relay.answer(sdp));
        let (trace, record, late) = (self.trace.clone(), record.clone(), self.faults.late_answer);
        meta.spawn(async move {
            tokio::time::sleep(late).await;
            trace.push(TraceEvent::Answer { at: record.since_placed(now()), sdp });
        });
    }

    /// Sends a webhook of the call as often as the faults say. Gives the HTTP status of the first.
    pub(crate) async fn deliver(
        &self,
        meta: &MetaShared,
        record: &CallRecord,
        event: &'static str,
    ) -> anyhow::Result<u16> {
        let original = Webhook { event, copy: false };
        match (self.faults.webhooks, event) {
            (WebhookFault::Doubled, _) => {
                let copy = Webhook { copy: true, ..original };
                tokio::join!(self.send(meta, record, original), self.send(meta, record, copy)).0
            }
            (WebhookFault::Reordered, "terminate") => {
                let sent = self.send(meta, record, original).await;
                // Its outcome is in the trace.
                let _ = self.send(meta, record, Webhook { event: "connect", copy: true }).await;
                sent
            }
            (WebhookFault::None | WebhookFault::Reordered, _) => self.send(meta, record, original).await,
        }
    }

    async fn send(&self, meta: &MetaShared, record: &CallRecord, webhook: Webhook) -> anyhow::Result<u16> {
        let body = match webhook.event {
            "connect" => record.connect_body(),
            "terminate" => record.terminate_body(),
            status => record.status_body(status),
        };
        let sent = now();
        let outcome = meta.post(body.clone().into_bytes(), None).await;
        self.trace.push(TraceEvent::Webhook(WebhookTrace {
            at: record.since_placed(sent),
            took: now().saturating_duration_since(sent),
            event: webhook.event,
            copy: webhook.copy,
            body,
            outcome: outcome.as_ref().map(|status| *status).map_err(|error| format!("{error:#}")),
        }));
        outcome
    }
}

struct Webhook {
    event: &'static str,
    copy: bool,
}
