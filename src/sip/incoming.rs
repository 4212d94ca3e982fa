//! A call from a phone, from its INVITE to its end. Runs with the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rsipstack::dialog::dialog::{DialogState, DialogStateReceiver};
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::platform::CancellationToken;
use rsipstack::sip::{Header, HeadersExt, Request, StatusCode};
use rsipstack::transaction::transaction::Transaction;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::flow::Flow;
use super::gate::OpenDialog;
use super::in_dialog::{InDialog, session_of, timer_headers};
use super::leg::{HangUp, SipEvent, SipLeg};
use super::outgoing::{LAST_RESPONSE, sdp_of};
use super::session_timer::SessionExpires;
use super::user_agent::{Stack, abilities};
use crate::clock;

/// Calls that nobody has taken yet; one more is answered 503.
pub(super) const INCOMING: usize = 64;
/// Words to the phone on their way.
const REPLIES: usize = 4;
/// A phone does not ring for longer than this (RFC 3261 §16.6, timer C).
const ANSWERED_WITHIN: Duration = Duration::from_secs(180);
/// For the code of the refusal, once nobody wants the call any more.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// A call from a phone that has shown who it is.
pub struct IncomingCall {
    /// Who calls.
    pub caller: PhoneCaller,
    /// The user part of the Request-URI: whom it calls, as dialled.
    pub dialled: String,
    /// Of the call, as the headers of a trunk's INVITE say.
    pub parameters: BTreeMap<String, String>,
    /// Its SDP and its events.
    pub phone: WaitingPhone,
}

/// Who calls us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhoneCaller {
    /// A user, by a password.
    User(String),
    /// A trunk, by its address, and by a password if it has one.
    Trunk(String),
}

impl PhoneCaller {
    /// As in the configuration.
    pub fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Trunk(name) => name,
        }
    }
}

/// The phone of an incoming call, which waits for an answer.
pub struct WaitingPhone {
    /// Its SDP.
    pub offer: String,
    /// Whether its audio goes over IPv6, as far as its address says.
    pub is_ipv6: bool,
    /// Where its SIP comes from.
    pub signalling: IpAddr,
    /// Whether it came over a WebSocket, and offers WebRTC.
    pub is_in_browser: bool,
    /// What it does. Dropping it refuses the call, or hangs up.
    pub leg: SipLeg,
    /// What is said to it.
    pub responder: Responder,
}

/// Says to a phone how its call goes on. Clones share it.
#[derive(Clone)]
pub struct Responder {
    replies: mpsc::Sender<Reply>,
    gave_up: CancellationToken,
}

enum Reply {
    Rings,
    Accept { sdp: String },
    Refuse { code: u16, reason: &'static str },
}

impl Responder {
    /// 180: the person's phone rings.
    pub fn rings(&self) {
        self.say(Reply::Rings);
    }

    /// 200 with our SDP: the person has accepted.
    pub fn accept(&self, sdp: String) {
        self.say(Reply::Accept { sdp });
    }

    /// This code, with a stable name of why.
    pub fn refuse(&self, code: u16, reason: &'static str) {
        self.say(Reply::Refuse { code, reason });
    }

    /// Waits until the phone has given up before an answer.
    pub async fn gave_up(&self) {
        self.gave_up.cancelled().await;
    }

    /// A phone that has gone needs no words, and nobody says more than a few.
    fn say(&self, reply: Reply) {
        let _ = self.replies.try_send(reply);
    }
}

/// Takes an INVITE outside of any dialog. One that cannot become a call is answered here.
pub(super) async fn take(stack: &Arc<Stack>, mut transaction: Transaction) {
    let Some(flow) = stack.flows.of(&transaction) else { return };
    let opening = match open(stack, &transaction.original, &flow) {
        Ok(opening) => opening,
        Err((code, headers)) => {
            // A phone that has gone misses its answer.
            let _ = transaction.reply_with(StatusCode::from(code), headers, None).await;
            return;
        }
    };
    let (sender, states) = stack.dialogs.new_dialog_state_channel();
    let contact = stack.contact_over(&flow);
    let Ok(dialog) = stack.dialogs.get_or_create_server_invite(&transaction, sender, None, contact) else {
        let _ = transaction.reply(StatusCode::BadRequest).await;
        return;
    };
    let (leg, events, commands) = SipLeg::new();
    let (replies, from_service) = mpsc::channel(REPLIES);
    let gave_up = CancellationToken::new();
    let responder = Responder { replies, gave_up: gave_up.clone() };
    let phone = WaitingPhone {
        offer: opening.offer,
        is_ipv6: flow.ip().is_ipv6(),
        signalling: flow.ip(),
        is_in_browser: flow.is_websocket(),
        leg,
        responder: responder.clone(),
    };
    let Opening { caller, dialled, parameters, .. } = opening;
    let call = IncomingCall { caller, dialled, parameters, phone };
    if stack.incoming.try_send(call).is_err() {
        responder.refuse(503, "overloaded");
    }
    let incoming = Incoming {
        stack: stack.clone(),
        dialog,
        states,
        session: opening.session,
        takes_update: opening.takes_update,
        events,
        commands,
        replies: from_service,
        gave_up,
        _open: stack.gate.open(&opening.call_id, clock::now),
    };
    stack.spawn_call(incoming.last(transaction));
}

/// The code and the headers of an answer.
type Refusal = (u16, Vec<Header>);

/// What a good INVITE says.
struct Opening {
    caller: PhoneCaller,
    dialled: String,
    parameters: BTreeMap<String, String>,
    offer: String,
    call_id: String,
    session: Option<SessionExpires>,
    takes_update: bool,
}

/// The error is the answer.
fn open(stack: &Stack, request: &Request, flow: &Flow) -> Result<Opening, Refusal> {
    let (caller, parameters) = who(stack, request, flow)?;
    if request.header_value("Replaces").is_some() {
        // RFC 3891 §3: none of our calls can be taken over.
        return Err((481, Vec::new()));
    }
    let unsupported: Vec<String> = request
        .header_value("Require")
        .iter()
        .flat_map(|value| value.split(','))
        .map(|option| option.trim().to_owned())
        .filter(|option| !option.is_empty() && option != "timer")
        .collect();
    if !unsupported.is_empty() {
        return Err((420, vec![Header::Unsupported(unsupported.join(", ").into())]));
    }
    let min = |least: u32| (422, vec![Header::MinSE(least.to_string().into())]);
    let session = session_of(request).map(SessionExpires::answered).transpose().map_err(min)?;
    let Some(offer) = sdp_of(request, request.body()) else {
        return Err(match request.body().is_empty() {
            true => (488, vec![Header::Warning("399 patchcord \"an INVITE needs an SDP\"".into())]),
            false => (415, vec![Header::Accept("application/sdp".into())]),
        });
    };
    let call_id = request.header_value("Call-ID").ok_or((400, Vec::new()))?;
    let dialled = request.uri.user().unwrap_or_default().to_owned();
    let takes_update = super::in_dialog::allows(request, rsipstack::sip::Method::Update);
    Ok(Opening { caller, dialled, parameters, offer, call_id, session, takes_update })
}

/// Who calls, and what the INVITE says about the call. A user's password goes before the address of a trunk: a phone may be
/// behind one.
fn who(stack: &Stack, request: &Request, flow: &Flow) -> Result<(PhoneCaller, BTreeMap<String, String>), Refusal> {
    let now = clock::now();
    if let Some(trunk) = stack.trunks.at(flow.ip()).filter(|_| !stack.is_of_user(request)) {
        trunk.check(request, flow, now)?;
        flow.prove();
        return Ok((PhoneCaller::Trunk(trunk.name().to_owned()), trunk.parameters(request)));
    }
    let Some(registrations) = &stack.registrations else { return Err((403, Vec::new())) };
    Ok((PhoneCaller::User(registrations.who(request, flow, now)?), BTreeMap::new()))
}

/// A phone that waits for an answer, and then talks.
struct Incoming {
    stack: Arc<Stack>,
    dialog: InviteDialog,
    states: DialogStateReceiver,
    session: Option<SessionExpires>,
    takes_update: bool,
    events: mpsc::Sender<SipEvent>,
    commands: mpsc::Receiver<HangUp>,
    replies: mpsc::Receiver<Reply>,
    gave_up: CancellationToken,
    _open: OpenDialog,
}

impl Incoming {
    async fn last(mut self, mut transaction: Transaction) {
        let mut dialog = self.dialog.clone();
        // It says 100, repeats the last response until it is acknowledged, and takes CANCEL and ACK.
        let mut handling = tokio::spawn(async move {
            let _ = dialog.handle(&mut transaction).await;
        });
        if let Some(sdp) = self.answer().await {
            let session = self.session;
            let mut talk = InDialog::of_incoming(&self.stack, self.dialog.clone(), self.states, &sdp);
            talk.agreed(session, self.takes_update);
            if let Err(failure) = talk.talk(&self.events, &mut self.commands).await {
                // The agent may have given up.
                let _ = self.events.send(SipEvent::Failed(failure)).await;
            }
        }
        self.stack.dialogs.remove_dialog(&self.dialog.id());
        if timeout(LAST_RESPONSE, &mut handling).await.is_err() {
            handling.abort();
        }
    }

    /// Waits for the answer; gives our SDP if the phone was answered 200.
    async fn answer(&mut self) -> Option<String> {
        let mut give_up_at = clock::now() + ANSWERED_WITHIN;
        let mut is_wanted = true;
        loop {
            tokio::select! {
                reply = self.replies.recv() => match reply {
                    Some(Reply::Rings) => drop(self.dialog.ringing(Some(abilities().into()), None)),
                    Some(Reply::Accept { sdp }) => return self.accept(sdp),
                    Some(Reply::Refuse { code, reason }) => {
                        self.refuse(code, reason);
                        return None;
                    }
                    None => {
                        self.refuse(500, "internal_error");
                        return None;
                    }
                },
                state = self.states.recv() => {
                    if matches!(state, None | Some(DialogState::Terminated(..))) {
                        self.gave_up.cancel();
                        let _ = self.events.send(SipEvent::HungUp).await;
                        return None;
                    }
                }
                _ = self.commands.recv(), if is_wanted => {
                    // Whoever knows why says so.
                    is_wanted = false;
                    give_up_at = clock::now() + REFUSED_WITHIN;
                }
                () = sleep_until(give_up_at.into()) => {
                    self.refuse(480, "no_answer");
                    self.gave_up.cancel();
                    return None;
                }
            }
        }
    }

    fn accept(&self, sdp: String) -> Option<String> {
        let mut headers = timer_headers(self.session);
        headers.push(Header::ContentType("application/sdp".into()));
        let accepted = self.dialog.accept(Some(headers), Some(sdp.clone().into_bytes()));
        accepted.is_ok().then_some(sdp)
    }

    /// RFC 3326.
    fn refuse(&self, code: u16, reason: &str) {
        let reason = format!("SIP;cause={code};text=\"{reason}\"");
        let _ = self.dialog.reject(Some(StatusCode::from(code)), Some(reason));
    }
}
