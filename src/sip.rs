//! SIP: our user agent, which calls phones and takes their calls. Nothing outside of this folder names the library that it is built on.
//!
//! The user agent runs with the control plane; audio never passes it. An agent's task, on its worker, has a [`SipLeg`] for
//! each call to a phone: events come from it, and dropping it ends the call.

mod uri;
mod srtp;
mod listen;
mod edge;
pub mod foreign;
mod gate;
mod flow;
mod connection_limits;
mod locate;
mod names;
mod udp;
mod streams;
mod websocket;
pub(crate) mod tls;
mod user_agent;
pub mod digest;
mod client_auth;
mod trunk;
mod contact;
mod authenticator;
mod registrar;
mod registering;
mod nat;
mod leg;
mod amend;
mod reason;
mod outgoing;
mod incoming;
mod in_dialog;
mod info;
mod refer;
mod session_timer;
mod status;

pub use client_auth::{Account, Secret};
pub use incoming::{IncomingCall, PhoneCaller, Responder, WaitingPhone};
pub use leg::{Answered, CALL_ID, Callee, Invite, Refused, RegisteredPhone, SipEvent, SipLeg};
pub use listen::Listen;
pub use refer::ReferRule;
pub use srtp::{Srtp, SrtpRules};
pub use trunk::{Trunk, TrunkCall, TrunkNumber, TrunkOptions, trunk_name};
pub use uri::{Host, SipUri, Transport};
pub use user_agent::{RegistrarOptions, UserAgent, UserAgentOptions};
pub use websocket::{NoPermit, WebSocketPermit};
