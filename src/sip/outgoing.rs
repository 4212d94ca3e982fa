//! One call to a phone, from its INVITE to its end. Runs with the control plane.

use std::collections::VecDeque;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsipstack::dialog::authenticate::Credential;
use rsipstack::dialog::dialog::{DialogState, DialogStateReceiver};
use rsipstack::dialog::invitation::{InviteAsyncResult, InviteOption};
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::platform::JoinHandle;
use rsipstack::sip::{Header, HeadersExt, Response, Scheme, StatusCodeKind, Uri};
use rsipstack::transport::SipAddr;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::info;

use super::amend::{Amended, Named};
use super::client_auth::{Account, ClientAuth};
use super::flow::Connection;
use super::gate::OpenDialog;
use super::in_dialog::InDialog;
use super::leg::{Answered, Callee, HangUp, Invite, RegisteredPhone, SipEvent};
use super::names::Hop;
use super::reason::Reason;
use super::session_timer::{LEAST_SECONDS, SessionExpires, USUAL_SECONDS};
use super::status;
use super::trunk::{self, Failed};
use super::uri::{Host, SipUri, Transport};
use super::user_agent::{Stack, abilities};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;

/// 64*T1 (RFC 3261 §17.1.1.2), and a bit: after it nothing comes any more.
pub(super) const LAST_RESPONSE: Duration = Duration::from_secs(35);
/// A peer that asks for a longer session than this has no use for session timers.
pub(super) const MOST_SECONDS: u32 = 24 * 60 * 60;
/// For a connection, and then for a first response, where another server can be called. An INVITE over UDP has been sent four
/// times by then.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(4);
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

/// How a phone is reached.
pub(super) struct Way {
    /// The Request-URI.
    pub callee: Uri,
    pub destination: SipAddr,
    /// Ours.
    pub contact: Uri,
    /// Where its SIP comes from.
    signalling: IpAddr,
    /// The library sends where the Request-URI says, so the server's address is there; on the wire stands the name.
    named: Option<Named>,
    /// Held to the end of the call, so that the connection is. None over UDP, and where the phone holds it.
    _connection: Option<Arc<Connection>>,
}

impl Way {
    /// The servers of an address, by the DNS; for a registered phone only what it came over.
    pub async fn all(stack: &Stack, to: &Callee) -> Result<VecDeque<Option<Hop>>, AgentFailure> {
        match to {
            Callee::Address(to) => {
                let hops = stack.names.find(to).await.map_err(|cause| AgentFailureKind::Refused.because(cause))?;
                Ok(hops.into_iter().map(Some).collect())
            }
            Callee::Phone(_) | Callee::Trunk(_) => Ok(VecDeque::from([None])),
        }
    }

    pub async fn find(stack: &Stack, to: &Callee, hop: Option<Hop>) -> Result<Self, AgentFailure> {
        match to {
            Callee::Address(to) => {
                let hop = hop.ok_or_else(|| AgentFailureKind::Refused.because("its name has no address"))?;
                Self::to_address(stack, to, hop).await
            }
            Callee::Phone(phone) => Self::to_phone(stack, phone),
            // Its servers are called one by one.
            Callee::Trunk(_) => Err(AgentFailureKind::NotConfigured.into()),
        }
    }

    async fn to_address(stack: &Stack, to: &SipUri, hop: Hop) -> Result<Self, AgentFailure> {
        let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
        let Hop { address, transport } = hop;
        let contact = stack.contact(transport, address.is_ipv6()).ok_or_else(|| refused(NOTHING_LISTENS))?;
        let connection = match transport {
            Transport::Udp => None,
            Transport::Tcp | Transport::Tls | Transport::Ws => {
                let layer = &stack.dialogs.endpoint.transport_layer;
                Some(stack.streams.connect(layer, &to.host, hop).await.map_err(|cause| refused(&cause))?)
            }
        };
        let mut callee = Uri::try_from(to.on_the_wire()).map_err(|_| refused("its address is malformed"))?;
        let named = match &to.host {
            Host::Name(_) => {
                let name = std::mem::replace(&mut callee.host_with_port, address.into());
                Some(Named { name, address: address.into() })
            }
            Host::Address(_) => None,
        };
        Ok(Self {
            callee,
            named,
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
        let signalling = flow.ip();
        Ok(Self { callee, destination: flow.destination(), contact, signalling, named: None, _connection: None })
    }
}

/// A phone that was called.
struct Ringing {
    dialog: InviteDialog,
    states: DialogStateReceiver,
    inviting: JoinHandle<InviteAsyncResult>,
    amended: Arc<Amended>,
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
    /// No response came in time.
    Silent(Box<Ringing>),
    Failed(AgentFailure),
    /// The agent is not wanted any more.
    GivenUp,
}

impl Ringing {
    async fn last(
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

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
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
