//! The session's part of a call that the application signals: our SDP is handed over, and reports of Meta's messages are
//! taken.

use std::sync::Arc;

use patchcord_media::sdp::Answer as SdpAnswer;
use tokio::sync::oneshot;

use super::Session;
use crate::call::command::{CommandResult, SignalCommand};
use crate::call::end::EndReason;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{Call, Signal, Signaling};
use crate::calls::origin::Origin;
use crate::clock;
use crate::directory::Owner;
use crate::whatsapp::WaCallId;

/// Takes our SDP, or why there is none.
pub type SdpReply = oneshot::Sender<Result<Arc<str>, EndReason>>;
/// Takes the outcome of a command.
type Reply = oneshot::Sender<Result<CommandResult, Refusal>>;

/// What a session owes the application that signals.
#[derive(Default)]
pub(super) struct AppSignaling {
    /// The request that waits for our SDP.
    sdp: Option<SdpReply>,
    /// The request that gave Meta's answer, until the worker has taken it.
    answer: Option<Reply>,
    /// Whether the application has to end the call at Meta.
    is_left_to_app: bool,
}

impl AppSignaling {
    /// The application gets our SDP; its request may be gone.
    pub fn hand_over(&mut self, sdp: Arc<str>) {
        if let Some(reply) = self.sdp.take() {
            let _ = reply.send(Ok(sdp));
        }
    }

    pub fn take_answer_reply(&mut self) -> Option<Reply> {
        self.answer.take()
    }

    /// The call has ended here, and the application ends it at Meta.
    pub fn leave_the_end(&mut self) {
        self.is_left_to_app = true;
    }

    /// Answers a request that still waits for our SDP. Gives whether the application has to end the call at Meta; None for
    /// a call that Patchcord signals.
    pub fn ended(&mut self, origin: &Origin, reason: &EndReason) -> Option<bool> {
        if let Some(reply) = self.sdp.take() {
            let _ = reply.send(Err(reason.clone()));
        }
        match origin.signaling() {
            Signaling::Graph => None,
            Signaling::External => Some(self.is_left_to_app),
        }
    }
}

/// Answers the request that gave Meta's answer. It may be gone.
pub(super) fn reply_to_answer(reply: Reply, applied: &Result<(), EndReason>) {
    let applied = applied.as_ref().map(|()| CommandResult::Done);
    let _ = reply.send(applied.map_err(|reason| Refusal::new(RefusalCode::AnswerRefused, reason.detail())));
}

impl Session {
    /// The request that gets our SDP. Call this before the call begins.
    pub(in crate::calls) fn hand_sdp_to(&mut self, reply: SdpReply) {
        self.app_signaling.sdp = Some(reply);
    }

    pub(super) fn take_signal(&mut self, call: &mut Call, command: SignalCommand, reply: Reply) {
        // The API request may be gone.
        let awaits_answer = call.awaits_answer();
        let signal = match self.read_signal(command) {
            Ok(signal) => signal,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let is_answer = matches!(signal, Signal::Answered(_));
        let taken = call.signal(signal, clock::now());
        // A client that reads the call after our reply must see the change.
        self.record.show(call, self.people(call));
        match taken {
            Ok(()) if is_answer && awaits_answer => self.app_signaling.answer = Some(reply),
            taken => drop(reply.send(taken.map(|()| CommandResult::Done))),
        }
    }

    /// Claims the wacid, where the report names one.
    fn read_signal(&self, command: SignalCommand) -> Result<Signal, Refusal> {
        let is_external = self.context.origin.signaling() == Signaling::External;
        let named = |wacid: Option<String>| match wacid {
            Some(wacid) if is_external => self.name_call(&wacid),
            Some(_) | None => Ok(()),
        };
        match command {
            SignalCommand::Answer(given) => {
                let refused = |error| Refusal::new(RefusalCode::AnswerRefused, format!("answer: {error}"));
                SdpAnswer::parse(&given.answer).map_err(refused)?;
                named(given.wacid)?;
                Ok(Signal::Answered(given.answer.into()))
            }
            SignalCommand::Ringing(step) => named(step.wacid).map(|()| Signal::Ringing),
            SignalCommand::Accepted(step) => named(step.wacid).map(|()| Signal::Accepted),
            SignalCommand::Terminated(terminated) => Ok(Signal::Terminated(terminated)),
        }
    }

    fn name_call(&self, wacid: &str) -> Result<(), Refusal> {
        let wacid = WaCallId::parse(wacid)
            .map_err(|_| Refusal::new(RefusalCode::InvalidCommand, "wacid: give Meta's id of the call"))?;
        self.meta.naming.claim(&self.context.id, &wacid).map_err(|owner| match owner {
            Owner::Call(call) if call == self.context.id => {
                Refusal::new(RefusalCode::InvalidCommand, "wacid: the call has another one already")
            }
            Owner::Call(call) => Refusal::new(RefusalCode::WacidInUse, format!("wacid: call {call} has it")),
            Owner::Ended | Owner::Nobody => {
                Refusal::new(RefusalCode::WacidInUse, "wacid: a call that has ended had it")
            }
        })
    }
}
