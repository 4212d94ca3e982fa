//! SipLeg: one call to a phone, as its agent sees it. The SIP library is behind it.

use std::net::IpAddr;

use rsipstack::sip::Transport as LibraryTransport;
use tokio::sync::{mpsc, oneshot};

use super::contact::ContactUri;
use super::flow::Flow;
use super::trunk::TrunkCall;
use super::uri::{Host, SipUri, Transport};
use crate::call::agent_failure::AgentFailure;

/// Events of a leg that wait for its agent; a phone that sends more of them is told to wait.
pub(super) const EVENTS: usize = 16;
/// An agent hangs up once.
const COMMANDS: usize = 1;

/// The header that names the call.
pub const CALL_ID: &str = "X-WhatsApp-Call-Id";

/// A call to a phone. Dropping it cancels the call, or hangs up.
pub struct SipLeg {
    events: mpsc::Receiver<SipEvent>,
    commands: mpsc::Sender<HangUp>,
}

/// Whom we call.
#[derive(Clone)]
pub enum Callee {
    /// A phone or proxy at an address.
    Address(SipUri),
    /// A phone that is registered.
    Phone(RegisteredPhone),
    /// A number behind a trunk.
    Trunk(TrunkCall),
}

/// A phone of one of our users.
#[derive(Clone)]
pub struct RegisteredPhone {
    pub(super) uri: ContactUri,
    pub(super) flow: Flow,
    /// How much its user prefers it, from 0 to 1000.
    pub q: u16,
}

impl RegisteredPhone {
    /// Whether its SIP is.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.flow.transport(), LibraryTransport::Tls | LibraryTransport::Wss)
    }
}

impl Callee {
    /// Whether it is a phone in a browser: it came over a WebSocket.
    pub fn is_in_browser(&self) -> bool {
        match self {
            Self::Address(to) => to.transport() == Transport::Ws,
            Self::Phone(phone) => phone.flow.is_websocket(),
            Self::Trunk(_) => false,
        }
    }

    /// Whether it is reached over IPv6, as far as its address says.
    pub fn is_ipv6(&self) -> bool {
        let is_ipv6 = |uri: &SipUri| matches!(uri.host, Host::Address(address) if address.is_ipv6());
        match self {
            Self::Address(uri) => is_ipv6(uri),
            Self::Phone(phone) => phone.flow.ip().is_ipv6(),
            Self::Trunk(call) => call.trunk.options.targets.first().is_some_and(is_ipv6),
        }
    }

    /// Headers that its INVITE needs.
    pub fn headers(&self) -> &[(&'static str, String)] {
        match self {
            Self::Address(uri) => &uri.headers,
            Self::Phone(_) | Self::Trunk(_) => &[],
        }
    }
}

/// What is said to the phone at first.
#[derive(Clone)]
pub struct Invite {
    /// Whom we call.
    pub to: Callee,
    /// Our SDP.
    pub offer: String,
    /// Further headers, such as `X-WhatsApp-Call-Id`: names and values without control characters.
    pub headers: Vec<(String, String)>,
    /// The number of the person on WhatsApp in digits, for a trunk that learns it.
    pub number: Option<String>,
}

impl Invite {
    /// The call's id in API and events, by the header in which the phone learns it.
    pub(super) fn call_id(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == CALL_ID).map(|(_, value)| value.as_str())
    }
}

/// What the phone does.
#[derive(Debug)]
pub enum SipEvent {
    /// It rings. Its SDP, if any, is not used: the caller hears nothing before accept.
    Ringing,
    /// It answered, and our ACK is on its way.
    Answered(Answered),
    /// It changes the session: hold, another address, another codec.
    Offered {
        /// Its SDP; None asks us to offer, and [`SipEvent::LateAnswer`] follows.
        sdp: Option<String>,
        /// Our answer or offer, or the code of a refusal. Without one in time it is refused.
        reply: oneshot::Sender<Result<String, Refused>>,
    },
    /// The answer to what we offered at its request.
    LateAnswer {
        /// Its SDP.
        sdp: String,
    },
    /// It pressed a key, and sent it as INFO.
    Digit(char),
    /// It hands its caller over. [`SipLeg`] has accepted it and tells the phone of the progress.
    Referred {
        /// To whom.
        to: SipUri,
        /// The final code of the new agent, 200 if it has the caller.
        outcome: oneshot::Sender<u16>,
    },
    /// It hung up.
    HungUp,
    /// It could not be reached or refused, or its session was lost.
    Failed(AgentFailure),
}

/// A phone's answer to our INVITE.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its SDP.
    pub sdp: String,
    /// Where its SIP comes from; audio of a phone behind a NAT comes from there too.
    pub signalling: IpAddr,
}

/// How a change of the session is refused. The session goes on as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 488: nothing in the offer can be used.
    NotAcceptable,
    /// 491: another change goes on.
    Pending,
}

/// Ends a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HangUp {
    /// The stable name of why.
    pub reason: &'static str,
}

impl SipLeg {
    pub(super) fn new() -> (Self, mpsc::Sender<SipEvent>, mpsc::Receiver<HangUp>) {
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        (Self { events, commands }, event_sender, command_receiver)
    }

    /// The next event; none follow after [`SipEvent::HungUp`] and [`SipEvent::Failed`].
    pub async fn next(&mut self) -> Option<SipEvent> {
        self.events.recv().await
    }

    /// Cancels the call, or hangs up, for this reason.
    pub fn hang_up(self, reason: &'static str) {
        // A leg that has ended has no use for it.
        let _ = self.commands.try_send(HangUp { reason });
    }
}
