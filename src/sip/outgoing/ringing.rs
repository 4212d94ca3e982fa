//! Ringing: an INVITE until its final response, or until it is cancelled.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsipstack::dialog::dialog::{DialogState, DialogStateReceiver};
use rsipstack::dialog::invitation::InviteAsyncResult;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::platform::JoinHandle;
use rsipstack::sip::{HeadersExt, Response, StatusCodeKind};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::{LAST_RESPONSE, least_of, sdp_of};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::sip::amend::Amended;
use crate::sip::leg::{HangUp, SipEvent};
use crate::sip::reason::Reason;
use crate::sip::status;

/// A phone that was called.
pub(super) struct Ringing {
    pub dialog: InviteDialog,
    pub states: DialogStateReceiver,
    pub inviting: JoinHandle<InviteAsyncResult>,
    pub amended: Arc<Amended>,
    pub early: Option<EarlyAnswer>,
}

/// The SDP of a provisional response. In a reliable one it is the answer (RFC 3262 §5), and the 2xx need not repeat it.
pub(super) struct EarlyAnswer {
    /// The tag of `To`: another branch of a forked call has another answer.
    tag: Option<String>,
    sdp: String,
}

/// How the ringing ended.
pub(super) enum Rung {
    Answered {
        response: Box<Response>,
        /// The answer to our offer.
        sdp: Option<String>,
        states: DialogStateReceiver,
    },
    /// The phone wants a longer session.
    TooBrief(u32),
    /// No response came in time.
    Silent(Box<Ringing>),
    Failed(AgentFailure),
    /// The agent is not wanted any more.
    GivenUp,
}

impl Ringing {
    pub async fn last(
        mut self,
        events: &mpsc::Sender<SipEvent>,
        commands: &mut mpsc::Receiver<HangUp>,
        answers_within: Option<Duration>,
    ) -> Rung {
        let mut silent_at = answers_within.map(|within| clock::now() + within);
        let mut has_rung = false;
        // What the phone asks for from then on is for the talk: it may come before the INVITE counts as done.
        let mut is_confirmed = false;
        loop {
            tokio::select! {
                done = &mut self.inviting => return self.finished(done, is_confirmed),
                state = self.states.recv(), if !is_confirmed => {
                    let Some(state) = state else {
                        return Rung::Failed(AgentFailureKind::Disconnected.because("its dialog was lost"));
                    };
                    is_confirmed = matches!(state, DialogState::Confirmed(..));
                    if !matches!(state, DialogState::Calling(_)) {
                        silent_at = None;
                    }
                    if self.follow(&state) && !std::mem::replace(&mut has_rung, true) {
                        // One event per call: the queue has room.
                        let _ = events.try_send(SipEvent::Ringing);
                    }
                }
                command = commands.recv() => {
                    self.amended.cancel_because(command.map_or("agent_gone", |command| command.reason));
                    return self.cancel().await;
                }
                () = at(silent_at) => {
                    self.amended.cancel_because("no_response");
                    return Rung::Silent(Box::new(self));
                }
            }
        }
    }

    /// Whether the phone rings.
    fn follow(&mut self, state: &DialogState) -> bool {
        let DialogState::Early(_, response) = state else { return false };
        if let Some(sdp) = sdp_of(response, response.body()) {
            self.early = Some(EarlyAnswer { tag: tag_of(response), sdp });
        }
        true
    }

    fn finished(mut self, done: Result<InviteAsyncResult, tokio::task::JoinError>, mut is_confirmed: bool) -> Rung {
        // What came before the final response; the rest is for the talk.
        while !is_confirmed && let Ok(state) = self.states.try_recv() {
            is_confirmed = matches!(state, DialogState::Confirmed(..));
            self.follow(&state);
        }
        let response = match done {
            Ok(Ok((_, Some(response)))) => response,
            Ok(Ok((_, None))) => return Rung::Failed(AgentFailureKind::NoAnswer.because("no response came")),
            // The library's text may hold addresses.
            Ok(Err(_)) => {
                return Rung::Failed(self.not_authorized(401).unwrap_or_else(|| {
                    AgentFailureKind::Refused.because("the INVITE could not be sent, or its answer not read")
                }));
            }
            Err(_) => return Rung::Failed(AgentFailureKind::Refused.because("a bug in the SIP library")),
        };
        match response.status_code.kind() {
            StatusCodeKind::Successful => {
                let early = self.early.filter(|early| early.tag == tag_of(&response)).map(|early| early.sdp);
                let sdp = sdp_of(&response, response.body()).or(early);
                Rung::Answered { response: Box::new(response), sdp, states: self.states }
            }
            StatusCodeKind::Provisional
            | StatusCodeKind::Redirection
            | StatusCodeKind::RequestFailure
            | StatusCodeKind::ServerFailure
            | StatusCodeKind::GlobalFailure
            | StatusCodeKind::Other => match (response.status_code.code(), least_of(&response)) {
                (422, Some(seconds)) => Rung::TooBrief(seconds),
                (code, _) => {
                    if let Some(failure) = self.not_authorized(code) {
                        return Rung::Failed(failure);
                    }
                    let reason = response.header_value("Reason").and_then(|value| Reason::parse(&value));
                    Rung::Failed(status::failure_with(code, reason.as_ref()))
                }
            },
        }
    }

    /// Why the server's challenge was not answered.
    fn not_authorized(&self, code: u16) -> Option<AgentFailure> {
        let cause = self.amended.auth_refusal().filter(|_| matches!(code, 401 | 407))?;
        let failure = AgentFailureKind::Refused.because(format_args!("SIP {code} Authentication Required: {cause}"));
        Some(AgentFailure { sip_code: Some(code), ..failure })
    }

    /// A 2xx that comes all the same is acknowledged and followed by a BYE.
    pub async fn cancel(mut self) -> Rung {
        // Without a provisional response the library waits for one (RFC 3261 §9.1).
        let _ = timeout(LAST_RESPONSE, self.dialog.cancel()).await;
        if timeout(LAST_RESPONSE, &mut self.inviting).await.is_err() {
            self.inviting.abort();
        }
        // A 2xx that came just before: the call stands, and nobody wants it. Otherwise this does nothing.
        let _ = timeout(LAST_RESPONSE, self.dialog.bye()).await;
        Rung::GivenUp
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}

fn tag_of(response: &Response) -> Option<String> {
    let tag = response.to_header().ok()?.tag().ok()??;
    Some(tag.value().to_owned())
}
