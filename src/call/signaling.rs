//! Signaling: who exchanges a call's messages with Meta, and what an application that does it itself reports of them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use utoipa::ToSchema;

use super::end::EndReason;
use super::refusal::{Refusal, RefusalCode};
use super::{AnswerWhen, Call, Input, Live, Media, Phase, State};

/// Who gets Meta's webhooks of a call and sends its requests to Graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signaling {
    /// Patchcord.
    #[default]
    Graph,
    /// The application, which gets our SDP and reports Meta's messages.
    External,
}

impl Signaling {
    const ALL: [Self; 2] = [Self::Graph, Self::External];

    /// The stable name in the API and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::External => "external",
        }
    }

    /// The value of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signaling| signaling.name() == name)
    }
}

/// A report of the application about a call that it signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Meta answered our offer with this SDP.
    Answered(Arc<str>),
    /// The callee's phone rings.
    Ringing,
    /// Meta confirmed accept, or the callee accepted.
    Accepted,
    /// The call is over at Meta.
    Terminated(Terminated),
}

/// Meta's SDP answer to our offer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct MetaAnswer {
    /// The SDP of Meta's `connect` webhook.
    pub answer: String,
    /// Meta's id of the call, once you know it.
    #[serde(default)]
    pub wacid: Option<String>,
}

/// A step of the call at Meta.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct MetaStep {
    /// Meta's id of the call, once you know it.
    #[serde(default)]
    pub wacid: Option<String>,
}

/// The end of a call at Meta.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Terminated {
    /// Who ended it: `meta`, by its `terminate` webhook, or `app`, by your `terminate` or `reject`.
    #[serde(default)]
    pub by: TerminatedBy,
    /// `status` of the webhook: `COMPLETED`, `FAILED` or `REJECTED`, in any case.
    #[serde(default)]
    pub status: Option<String>,
    /// `duration` of the webhook in seconds; only calls that were picked up have one.
    #[serde(default)]
    pub duration: Option<u64>,
    /// The first code of the webhook's `errors`.
    #[serde(default)]
    pub error_code: Option<i64>,
}

/// Who ended a call at Meta.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TerminatedBy {
    /// Meta's `terminate` webhook reported it.
    #[default]
    Meta,
    /// The application sent `terminate` or `reject`.
    App,
}

impl Terminated {
    fn input(&self, is_placed: bool) -> Input {
        let is = |name: &str| self.status.as_ref().is_some_and(|status| status.eq_ignore_ascii_case(name));
        match self.by {
            TerminatedBy::App => Input::HangUp(EndReason::TerminatedByApp),
            TerminatedBy::Meta if is_placed && is("rejected") => Input::Declined,
            TerminatedBy::Meta => {
                Input::Terminated { failed: is("failed"), error: self.error_code, picked_up: self.duration.is_some() }
            }
        }
    }
}

impl Call {
    /// Takes what the application reports. A report that comes twice, as Meta's webhooks do, changes nothing.
    pub fn signal(&mut self, signal: Signal, now: Instant) -> Result<(), Refusal> {
        if self.ended().is_some() {
            return Err(Refusal::new(RefusalCode::CallEnded, "the call has ended"));
        }
        if self.options.signaling == Signaling::Graph {
            let advice = "Patchcord signals this call itself: only calls with \"signaling\": \"external\" take reports";
            return Err(Refusal::new(RefusalCode::InvalidCommand, advice));
        }
        if matches!(self.state, State::Answering | State::Offering) {
            let advice = "the SDP of this call is not made yet: wait for the response that has it";
            return Err(Refusal::new(RefusalCode::CallNotAccepted, advice));
        }
        let input = match signal {
            Signal::Answered(_) | Signal::Ringing if !self.is_placed => {
                let advice = "the WhatsApp user placed this call: report accepted and terminated only";
                return Err(Refusal::new(RefusalCode::InvalidCommand, advice));
            }
            Signal::Answered(answer) => Input::AnswerReceived(answer),
            Signal::Ringing => Input::CalleeRings,
            Signal::Accepted if self.is_placed => Input::PickedUp,
            Signal::Accepted => Input::Accepted(Ok(())),
            Signal::Terminated(terminated) => terminated.input(self.is_placed),
        };
        self.handle(input, now);
        Ok(())
    }

    /// Whether our offer has no answer yet.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Live(Live { media: Media::Unanswered { .. }, .. }))
    }

    /// Whether the application signals this call.
    pub(super) fn is_external(&self) -> bool {
        self.options.signaling == Signaling::External
    }

    /// Meta confirmed the application's accept, which may come before media and agent are ready.
    pub(super) fn accepted_by_app(&mut self, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        if !matches!(live.phase, Phase::Ringing | Phase::Accepting) {
            return ControlFlow::Continue(());
        }
        live.phase = Phase::PickedUp;
        if let Media::Connecting { give_up_at } = &mut live.media {
            *give_up_at = Some(now + self.options.media_timeout);
        }
        if self.options.answer == AnswerWhen::OnCommand {
            self.options.answer = AnswerWhen::AgentReady;
            self.decided = true;
            return self.begin_agent_side(now);
        }
        ControlFlow::Continue(())
    }

    /// The accept deadline has passed although media and agent are ready.
    pub(super) fn reason_of_no_accept(&self) -> EndReason {
        match self.options.signaling {
            Signaling::Graph => EndReason::AcceptTimedOut,
            Signaling::External => EndReason::NotAcceptedByApp,
        }
    }
}
