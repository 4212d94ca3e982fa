//! CallRecord: what is kept of one call, from its start to its end.

use std::fmt;
use std::time::SystemTime;

use serde_json::Value;

use crate::call::description::{CallDescription, CallDirection};
use crate::call::end::EndReason;
use crate::call::event::Stages;
use crate::call::signaling::Signaling;
use crate::call::usage::ModelUsage;
use crate::clock;

/// The record of one call. `Debug` shows nothing personal.
#[derive(Clone, PartialEq)]
pub struct CallRecord {
    /// Our own id.
    pub call_id: String,
    /// Who calls whom. Its wacid and user are for API bodies, never for logs.
    pub description: CallDescription,
    /// The route's name.
    pub route: String,
    /// Who exchanges its messages with Meta.
    pub signaling: Signaling,
    /// The tracker that the application gave a call that it placed or signals.
    pub tracker: Option<String>,
    /// The app's `client_state`.
    pub client_state: Option<String>,
    /// Arrival of Meta's webhook, or of the request to place the call.
    pub began_at: SystemTime,
    /// Meta's confirmation of our accept, or the callee's accept.
    pub accepted_at: Option<SystemTime>,
    /// Ids of its recordings.
    pub recordings: Vec<String>,
    /// Agents of queues that had the caller, by name, in their order.
    pub agents: Vec<String>,
    /// What its speech models have used, as in `call.ended`.
    pub usage: Vec<ModelUsage>,
    /// Whether Meta may have taken a call that we placed, though it never named it to us; known at its end.
    pub may_be_at_meta: bool,
    /// How it ended; `None` while it is live.
    pub end: Option<CallEnd>,
}

/// How a call ended.
#[derive(Clone, PartialEq)]
pub struct CallEnd {
    /// When.
    pub at: SystemTime,
    /// [`EndReason::name`](crate::call::end::EndReason::name).
    pub reason: String,
    /// [`Fault::name`](crate::call::end::Fault::name).
    pub fault: String,
    /// [`EndReason::hung_up_by`].
    pub hung_up_by: String,
    /// Meta's error code, where one ended the call.
    pub meta_error_code: Option<i64>,
    /// [`Stages::to_json`](crate::call::event::Stages::to_json).
    pub stages: Value,
    /// Counters and quality of the audio, as in `call.ended`.
    pub sound: Value,
}

impl CallRecord {
    /// The record of a new call.
    pub fn new(
        call_id: impl Into<String>,
        description: CallDescription,
        route: impl Into<String>,
        began_at: SystemTime,
    ) -> Self {
        Self {
            call_id: call_id.into(),
            description,
            route: route.into(),
            signaling: Signaling::default(),
            tracker: None,
            client_state: None,
            began_at,
            accepted_at: None,
            recordings: Vec::new(),
            agents: Vec::new(),
            usage: Vec::new(),
            may_be_at_meta: false,
            end: None,
        }
    }

    /// Whether we placed it and exchange its messages with Meta.
    pub fn is_placed_by_us(&self) -> bool {
        self.description.direction == CallDirection::BusinessInitiated && self.signaling == Signaling::Graph
    }

    /// Why it ended; `None` while it is live.
    pub fn end_reason(&self) -> Option<&str> {
        self.end.as_ref().map(|end| end.reason.as_str())
    }

    /// When it ended; `None` while it is live.
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.end.as_ref().map(|end| end.at)
    }

    /// Ends the call now.
    pub fn end(&mut self, reason: &EndReason, stages: &Stages, sound: &Value) {
        self.end = Some(CallEnd {
            at: clock::wall(),
            reason: reason.name().to_owned(),
            fault: reason.fault().name().to_owned(),
            hung_up_by: reason.hung_up_by().to_owned(),
            meta_error_code: reason.meta_error_code(),
            stages: stages.to_json(),
            sound: sound.clone(),
        });
    }

    /// Approximate size in memory, for the queue's bound.
    pub(in crate::store) fn size_bytes(&self) -> usize {
        let texts = [&self.description.wacid, &self.client_state, &self.tracker];
        // Reason, stages and figures have some hundred bytes each.
        texts.into_iter().flatten().map(String::len).sum::<usize>() + 2048
    }
}

impl fmt::Debug for CallRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CallRecord")
            .field("call_id", &self.call_id)
            .field("route", &self.route)
            .field("began_at", &self.began_at)
            .field("ended_at", &self.ended_at())
            .field("reason", &self.end_reason())
            .finish_non_exhaustive()
    }
}
