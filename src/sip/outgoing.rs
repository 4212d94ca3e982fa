//! One call to a phone, from its INVITE to its end. Runs with the control plane.

mod ringing;
mod way;

use std::sync::Arc;
use std::time::Duration;

use rsipstack::dialog::authenticate::Credential;
use rsipstack::dialog::dialog::DialogStateReceiver;
use rsipstack::dialog::invitation::InviteOption;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::{Header, HeadersExt, Response, Scheme, Uri};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::info;

use super::amend::Amended;
use super::client_auth::{Account, ClientAuth};
use super::gate::OpenDialog;
use super::in_dialog::InDialog;
use super::leg::{Answered, Callee, HangUp, Invite, SipEvent};
use super::names::Hop;
use super::session_timer::{LEAST_SECONDS, SessionExpires, USUAL_SECONDS};
use super::status;
use super::trunk::{self, Failed};
use super::uri::{Host, Transport};
use super::user_agent::{Stack, abilities};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use ringing::{Ringing, Rung};
pub(super) use way::Way;

/// 64*T1 (RFC 3261 §17.1.1.2), and a bit: after it nothing comes any more.
pub(super) const LAST_RESPONSE: Duration = Duration::from_secs(35);
/// A peer that asks for a longer session than this has no use for session timers.
pub(super) const MOST_SECONDS: u32 = 24 * 60 * 60;
/// For a connection, and then for a first response, where another server can be called. An INVITE over UDP has been sent four
/// times by then.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(4);

/// Calls a phone, and stays with the call until it is over.
pub(super) async fn run(
    stack: Arc<Stack>,
    invite: Invite,
    events: mpsc::Sender<SipEvent>,
    mut commands: mpsc::Receiver<HangUp>,
) {
    let failed = match call(&stack, &invite, &events, &mut commands).await {
        Ok(()) => return,
        Err(failure) => failure,
    };
    metrics::counter!("patchcord_sip_calls_failed_total", "reason" => failed.kind.name()).increment(1);
    // The agent may have given up.
    let _ = events.send(SipEvent::Failed(failed)).await;
}

async fn call(
    stack: &Arc<Stack>,
    invite: &Invite,
    events: &mpsc::Sender<SipEvent>,
    commands: &mut mpsc::Receiver<HangUp>,
) -> Result<(), AgentFailure> {
    let answered = match &invite.to {
        Callee::Trunk(call) => trunk::reach(stack, invite, call, events, commands).await?,
        to @ (Callee::Address(_) | Callee::Phone(_)) => {
            // A phone behind a trunk may have handed its caller over to another one there.
            let auth = stack.trunks.account_at(to);
            let attempt = Attempt { invite, to, caller: Caller::us(), auth, answers_within: None };
            attempt.ring(stack, events, commands).await.map_err(|unanswered| unanswered.failure)?
        }
    };
    match answered {
        Some(phone) => phone.talk(stack, invite, events, commands).await,
        None => Ok(()),
    }
}

/// One call to one phone or server.
pub(super) struct Attempt<'a> {
    pub invite: &'a Invite,
    pub to: &'a Callee,
    pub caller: Caller,
    /// Who we are to its server.
    pub auth: Option<Arc<Account>>,
    /// For a connection, and then for a first response; None to wait as long as the agent does.
    pub answers_within: Option<Duration>,
}

/// Who calls, as the phone is told.
pub(super) struct Caller {
    pub user: String,
    /// None for our own address.
    pub host: Option<Host>,
    /// Whether we answer for it (RFC 3325).
    pub is_asserted: bool,
}

/// A call that nobody answered.
pub(super) struct Unanswered {
    pub how: Failed,
    pub failure: AgentFailure,
}

/// A phone that has answered, and what its call holds.
pub(super) struct AnsweredPhone {
    dialog: InviteDialog,
    states: DialogStateReceiver,
    response: Box<Response>,
    /// The answer to our offer.
    sdp: Option<String>,
    held: Held,
}

/// What a call holds from its INVITE to its end.
struct Held {
    way: Way,
    amended: Arc<Amended>,
    _open: OpenDialog,
}

impl Attempt<'_> {
    /// Rings until the phone answers, at each server that the DNS names for its address (RFC 3263 §4.3). None if the agent is
    /// not wanted any more.
    pub async fn ring(
        self,
        stack: &Arc<Stack>,
        events: &mpsc::Sender<SipEvent>,
        commands: &mut mpsc::Receiver<HangUp>,
    ) -> Result<Option<AnsweredPhone>, Unanswered> {
        let unreachable = |failure| Unanswered { how: Failed::Unreachable, failure };
        let mut ways = tokio::select! {
            ways = Way::all(stack, self.to) => ways.map_err(unreachable)?,
            _ = commands.recv() => return Ok(None),
        };
        let has_others = ways.len() > 1;
        let answers_within = self.answers_within.or(has_others.then_some(ANSWERS_WITHIN));
        loop {
            let Some(hop) = ways.pop_front() else { return Err(unreachable(AgentFailureKind::Refused.into())) };
            let rung = match self.way(stack, hop, commands, answers_within).await {
                Ok(Some(way)) => self.ring_at(way, stack, events, commands, answers_within).await,
                Ok(None) => return Ok(None),
                Err(failure) => Err(unreachable(failure)),
            };
            match rung {
                Err(unanswered) if unanswered.how.is_dead() && !ways.is_empty() => {}
                rung => return rung,
            }
        }
    }

    /// The way to one server. None if the agent is not wanted any more.
    async fn way(
        &self,
        stack: &Arc<Stack>,
        hop: Option<Hop>,
        commands: &mut mpsc::Receiver<HangUp>,
        within: Option<Duration>,
    ) -> Result<Option<Way>, AgentFailure> {
        tokio::select! {
            way = Way::find(stack, self.to, hop) => way.map(Some),
            _ = commands.recv() => Ok(None),
            () = sleep(within.unwrap_or_default()), if within.is_some() => {
                Err(AgentFailureKind::Refused.because("no connection in time"))
            }
        }
    }

    async fn ring_at(
        &self,
        way: Way,
        stack: &Arc<Stack>,
        events: &mpsc::Sender<SipEvent>,
        commands: &mut mpsc::Receiver<HangUp>,
        answers_within: Option<Duration>,
    ) -> Result<Option<AnsweredPhone>, Unanswered> {
        let call_id = new_call_id();
        let open = stack.gate.open(&call_id, clock::now);
        let auth = self.auth.clone().map(ClientAuth::new);
        let amended = Arc::new(stack.amendments.open(&call_id, auth, way.named.clone()));
        let held = Held { way, amended, _open: open };
        let caller = self.caller.uri(&held.way.contact);
        let here = |cause: &str| Unanswered { how: Failed::Here, failure: AgentFailureKind::Refused.because(cause) };
        let mut least_seconds = LEAST_SECONDS;
        loop {
            let mut headers = headers(self.invite, least_seconds);
            if self.caller.is_asserted {
                headers.push(Header::PAssertedIdentity(format!("<{caller}>").into()));
            }
            let option = InviteOption {
                caller: caller.clone(),
                caller_display_name: Some("WhatsApp".to_owned()),
                callee: held.way.callee.clone(),
                destination: Some(held.way.destination.clone()),
                content_type: Some("application/sdp".to_owned()),
                offer: Some(self.invite.offer.clone().into_bytes()),
                contact: held.way.contact.clone(),
                // Has the library send a challenged request again; `amend` says what it shows.
                credential: Some(Credential::default()).filter(|_| held.amended.may_answer_challenges()),
                headers: Some(headers),
                call_id: Some(call_id.clone()),
                ..InviteOption::default()
            };
            let (sender, states) = stack.dialogs.new_dialog_state_channel();
            let begun = stack.dialogs.do_invite_async(option, sender);
            let (dialog, inviting) = begun.map_err(|_| here("the INVITE could not be made"))?;
            let amended = held.amended.clone();
            let ringing = Ringing { dialog: dialog.clone(), states, inviting, amended, early: None };
            match ringing.last(events, commands, answers_within).await {
                Rung::Answered { response, sdp, states } => {
                    return Ok(Some(AnsweredPhone { dialog, states, response, sdp, held }));
                }
                Rung::TooBrief(seconds) if least_seconds == LEAST_SECONDS && seconds > least_seconds => {
                    least_seconds = seconds.min(MOST_SECONDS);
                }
                Rung::TooBrief(_) => {
                    return Err(Unanswered { how: Failed::Answered(422), failure: status::failure(422) });
                }
                Rung::Failed(failure) => {
                    let how = failure.sip_code.map_or(Failed::Here, Failed::Answered);
                    return Err(Unanswered { how, failure });
                }
                Rung::Silent(ringing) => {
                    // It may still answer: then it is told that nobody waits any more.
                    stack.spawn_call(async move {
                        ringing.cancel().await;
                        drop(held);
                    });
                    let waited = crate::telemetry::shown(answers_within.unwrap_or_default());
                    let failure = AgentFailureKind::NoAnswer.because(format_args!("no response within {waited}"));
                    return Err(Unanswered { how: Failed::Silent, failure });
                }
                Rung::GivenUp => return Ok(None),
            }
        }
    }
}

impl Caller {
    /// WhatsApp, without a number.
    pub fn us() -> Self {
        Self { user: "whatsapp".to_owned(), host: None, is_asserted: false }
    }

    fn uri(&self, contact: &Uri) -> Uri {
        let host = match &self.host {
            Some(Host::Name(name)) => rsipstack::sip::Domain::from(name.clone()).into(),
            Some(Host::Address(address)) => (*address).into(),
            None => contact.host_with_port.clone(),
        };
        uri(Scheme::Sip, Some(&self.user), host, None)
    }
}

impl AnsweredPhone {
    /// Stays until either side hangs up.
    async fn talk(
        self,
        stack: &Stack,
        invite: &Invite,
        events: &mpsc::Sender<SipEvent>,
        commands: &mut mpsc::Receiver<HangUp>,
    ) -> Result<(), AgentFailure> {
        let talk = InDialog::new(stack, self.dialog, self.states, &invite.offer, &self.response);
        let answer = self.sdp.map(|sdp| Answered { sdp, signalling: self.held.way.signalling });
        let ended = talk.last(answer, events, commands).await;
        if let Some(reason) = self.held.amended.farewell() {
            let id = invite.call_id().unwrap_or_default();
            info!(call.id = id, "the phone of call {id} hung up: {reason}");
        }
        ended
    }
}

/// Random, so that it is a secret of the two sides; see `Gate`.
pub(super) fn new_call_id() -> String {
    format!("{:032x}@patchcord", rand::random::<u128>())
}

fn headers(invite: &Invite, least_seconds: u32) -> Vec<Header> {
    let session = SessionExpires { seconds: USUAL_SECONDS.max(least_seconds), refresher: None };
    let ours = [Header::SessionExpires(session.to_string().into()), Header::MinSE(least_seconds.to_string().into())];
    let theirs = invite.headers.iter().map(|(name, value)| Header::Other(clean(name), clean(value)));
    abilities().into_iter().chain(ours).chain(theirs).collect()
}

/// A control character could begin a header, or a message, of somebody else's making.
fn clean(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).collect()
}

pub(super) fn our_contact(is_secure: bool, transport: Transport, address: std::net::SocketAddr) -> Uri {
    match transport {
        Transport::Udp => uri(Scheme::Sip, Some("patchcord"), address.into(), None),
        Transport::Tcp => uri(Scheme::Sip, Some("patchcord"), address.into(), Some(Transport::Tcp)),
        Transport::Tls if is_secure => uri(Scheme::Sips, Some("patchcord"), address.into(), Some(Transport::Tls)),
        Transport::Tls | Transport::Ws => uri(Scheme::Sip, Some("patchcord"), address.into(), Some(transport)),
    }
}

pub(super) fn uri(
    scheme: Scheme,
    user: Option<&str>,
    host: rsipstack::sip::HostWithPort,
    transport: Option<Transport>,
) -> Uri {
    let params = transport.map(|transport| rsipstack::sip::Param::Transport(library_transport(transport)));
    Uri {
        scheme: Some(scheme),
        auth: user.map(Into::into),
        host_with_port: host,
        params: params.into_iter().collect(),
        headers: Vec::new(),
    }
}

pub(super) fn library_transport(transport: Transport) -> rsipstack::sip::Transport {
    match transport {
        Transport::Udp => rsipstack::sip::Transport::Udp,
        Transport::Tcp => rsipstack::sip::Transport::Tcp,
        Transport::Tls => rsipstack::sip::Transport::Tls,
        Transport::Ws => rsipstack::sip::Transport::Ws,
    }
}

/// The least interval that a 422 names.
pub(super) fn least_of(response: &Response) -> Option<u32> {
    response.header_value("Min-SE")?.split(';').next()?.trim().parse().ok()
}

/// The body, if it is an SDP.
pub(super) fn sdp_of(headers: &impl HeadersExt, body: &[u8]) -> Option<String> {
    let is_sdp = headers.header_value("Content-Type").is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/sdp"))
    });
    let text = std::str::from_utf8(body).ok().filter(|text| is_sdp && !text.trim().is_empty())?;
    Some(text.to_owned())
}
