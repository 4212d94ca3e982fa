//! One call to a phone, from its INVITE to its end. Runs with the control plane.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rsipstack::dialog::dialog::{DialogState, DialogStateReceiver};
use rsipstack::dialog::invitation::{InviteAsyncResult, InviteOption};
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::platform::JoinHandle;
use rsipstack::sip::{Header, HeadersExt, Response, Scheme, StatusCodeKind, Uri};
use rsipstack::transport::SipAddr;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::info;

use super::amend::Amended;
use super::flow::Connection;
use super::in_dialog::InDialog;
use super::leg::{Answered, Callee, HangUp, Invite, RegisteredPhone, SipEvent};
use super::reason::Reason;
use super::session_timer::{LEAST_SECONDS, SessionExpires, USUAL_SECONDS};
use super::status;
use super::uri::{SipUri, Transport};
use super::user_agent::{Stack, abilities};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;

/// 64*T1 (RFC 3261 §17.1.1.2), and a bit: after it nothing comes any more.
pub(super) const LAST_RESPONSE: Duration = Duration::from_secs(35);
/// A peer that asks for a longer session than this has no use for session timers.
pub(super) const MOST_SECONDS: u32 = 24 * 60 * 60;
const NOTHING_LISTENS: &str = "nothing listens for it here";

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
    stack: &Stack,
    invite: &Invite,
    events: &mpsc::Sender<SipEvent>,
    commands: &mut mpsc::Receiver<HangUp>,
) -> Result<(), AgentFailure> {
    let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
    let way = tokio::select! {
        way = Way::find(stack, &invite.to) => way?,
        _ = commands.recv() => return Ok(()),
    };
    let call_id = new_call_id();
    let dialog = stack.gate.open(&call_id, clock::now);
    let amended = stack.amendments.open(&call_id);
    let mut least_seconds = LEAST_SECONDS;
    loop {
        let option = InviteOption {
            caller: uri(Scheme::Sip, Some("whatsapp"), way.contact.host_with_port.clone(), None),
            caller_display_name: Some("WhatsApp".to_owned()),
            callee: way.callee.clone(),
            destination: Some(way.destination.clone()),
            content_type: Some("application/sdp".to_owned()),
            offer: Some(invite.offer.clone().into_bytes()),
            contact: way.contact.clone(),
            headers: Some(headers(invite, least_seconds)),
            call_id: Some(call_id.clone()),
            ..InviteOption::default()
        };
        let (sender, states) = stack.dialogs.new_dialog_state_channel();
        let begun = stack.dialogs.do_invite_async(option, sender);
        let (dialog_of_call, inviting) = begun.map_err(|_| refused("the INVITE could not be made"))?;
        let ringing = Ringing { dialog: dialog_of_call.clone(), states, inviting, amended: &amended, early: None };
        match ringing.last(events, commands).await {
            Rung::Answered { response, sdp, states } => {
                let talk = InDialog::new(stack, dialog_of_call, states, &invite.offer, &response);
                let answer = sdp.map(|sdp| Answered { sdp, signalling: way.signalling });
                let ended = talk.last(answer, events, commands).await;
                if let Some(reason) = amended.farewell() {
                    let id = invite.call_id().unwrap_or_default();
                    info!(call.id = id, "the phone of call {id} hung up: {reason}");
                }
                drop(dialog);
                return ended;
            }
            Rung::TooBrief(seconds) if least_seconds == LEAST_SECONDS && seconds > least_seconds => {
                least_seconds = seconds.min(MOST_SECONDS);
            }
            Rung::TooBrief(_) => return Err(status::failure(422)),
            Rung::Failed(failure) => return Err(failure),
            Rung::GivenUp => return Ok(()),
        }
    }
}

/// How a phone is reached.
struct Way {
    /// The Request-URI.
    callee: Uri,
    destination: SipAddr,
    /// Ours.
    contact: Uri,
    /// Where its SIP comes from.
    signalling: IpAddr,
    /// Held to the end of the call, so that the connection is. None over UDP, and where the phone holds it.
    _connection: Option<Arc<Connection>>,
}

impl Way {
    async fn find(stack: &Stack, to: &Callee) -> Result<Self, AgentFailure> {
        match to {
            Callee::Address(to) => Self::to_address(stack, to).await,
            Callee::Phone(phone) => Self::to_phone(stack, phone),
        }
    }

    async fn to_address(stack: &Stack, to: &SipUri) -> Result<Self, AgentFailure> {
        let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
        let address = stack.names.find(to).await.map_err(refused)?;
        let transport = to.transport();
        let contact = stack.contact(transport, address.is_ipv6()).ok_or_else(|| refused(NOTHING_LISTENS))?;
        let connection = match transport {
            Transport::Udp => None,
            Transport::Tcp | Transport::Tls | Transport::Ws => {
                let layer = &stack.dialogs.endpoint.transport_layer;
                Some(stack.streams.connect(layer, to, address).await.map_err(|cause| refused(&cause))?)
            }
        };
        Ok(Self {
            callee: Uri::try_from(to.on_the_wire()).map_err(|_| refused("its address is malformed"))?,
            destination: SipAddr { r#type: Some(library_transport(transport)), addr: address.into() },
            contact: our_contact(to.is_secure, transport, contact),
            signalling: address.ip(),
            _connection: connection,
        })
    }

    /// Back over what it registered with.
    fn to_phone(stack: &Stack, phone: &RegisteredPhone) -> Result<Self, AgentFailure> {
        let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
        let RegisteredPhone { uri, flow, .. } = phone;
        if !flow.is_open() {
            // The library would open another connection, to a port that nobody listens at.
            return Err(refused("its connection is closed"));
        }
        let contact = stack.contact_over(flow).ok_or_else(|| refused(NOTHING_LISTENS))?;
        let callee = Uri::try_from(uri.as_str()).map_err(|_| refused("its address is malformed"))?;
        Ok(Self { callee, destination: flow.destination(), contact, signalling: flow.ip(), _connection: None })
    }
}

/// A phone that was called.
struct Ringing<'a> {
    dialog: InviteDialog,
    states: DialogStateReceiver,
    inviting: JoinHandle<InviteAsyncResult>,
    amended: &'a Amended,
    early: Option<EarlyAnswer>,
}

/// The SDP of a provisional response. In a reliable one it is the answer (RFC 3262 §5), and the 2xx need not repeat it.
struct EarlyAnswer {
    /// The tag of `To`: another branch of a forked call has another answer.
    tag: Option<String>,
    sdp: String,
}

/// How the ringing ended.
enum Rung {
    Answered {
        response: Box<Response>,
        /// The answer to our offer.
        sdp: Option<String>,
        states: DialogStateReceiver,
    },
    /// The phone wants a longer session.
    TooBrief(u32),
    Failed(AgentFailure),
    /// The agent is not wanted any more.
    GivenUp,
}

impl Ringing<'_> {
    async fn last(mut self, events: &mpsc::Sender<SipEvent>, commands: &mut mpsc::Receiver<HangUp>) -> Rung {
        let mut has_rung = false;
        // What the phone asks for from then on is for the talk: it may come before the INVITE counts as done.
        let mut is_confirmed = false;
        loop {
            tokio::select! {
                done = &mut self.inviting => return self.finished(done),
                state = self.states.recv(), if !is_confirmed => {
                    let Some(state) = state else {
                        return Rung::Failed(AgentFailureKind::Disconnected.because("its dialog was lost"));
                    };
                    is_confirmed = matches!(state, DialogState::Confirmed(..));
                    if self.follow(&state) && !std::mem::replace(&mut has_rung, true) {
                        // One event per call: the queue has room.
                        let _ = events.try_send(SipEvent::Ringing);
                    }
                }
                command = commands.recv() => {
                    self.amended.cancel_because(command.map_or("agent_gone", |command| command.reason));
                    return self.cancel().await;
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

    fn finished(mut self, done: Result<InviteAsyncResult, tokio::task::JoinError>) -> Rung {
        // What came before the final response.
        while let Ok(state) = self.states.try_recv() {
            self.follow(&state);
        }
        let response = match done {
            Ok(Ok((_, Some(response)))) => response,
            Ok(Ok((_, None))) => return Rung::Failed(AgentFailureKind::NoAnswer.because("no response came")),
            // The library's text may hold addresses.
            Ok(Err(_)) => {
                return Rung::Failed(
                    AgentFailureKind::Refused.because("the INVITE could not be sent, or its answer not read"),
                );
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
                    let reason = response.header_value("Reason").and_then(|value| Reason::parse(&value));
                    Rung::Failed(status::failure_with(code, reason.as_ref()))
                }
            },
        }
    }

    /// A 2xx that comes all the same is acknowledged and followed by a BYE.
    async fn cancel(mut self) -> Rung {
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

/// Random, so that it is a secret of the two sides; see `Gate`.
fn new_call_id() -> String {
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

fn uri(scheme: Scheme, user: Option<&str>, host: rsipstack::sip::HostWithPort, transport: Option<Transport>) -> Uri {
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

fn tag_of(response: &Response) -> Option<String> {
    let tag = response.to_header().ok()?.tag().ok()??;
    Some(tag.value().to_owned())
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
