//! SIP: our user agent, which calls phones. Nothing outside of this folder names the library that it is built on.
//!
//! The user agent runs with the control plane; audio never passes it. An agent's task, on its worker, has a [`SipLeg`] for
//! each call to a phone: events come from it, and dropping it ends the call.

mod uri;
mod listen;
mod edge;
mod gate;
mod names;
mod udp;
mod streams;
pub(crate) mod tls;
mod user_agent;
mod leg;
mod outgoing;
mod in_dialog;
mod info;
mod refer;
mod session_timer;
mod status;
pub mod digest;

pub use leg::{Invite, Refused, SipEvent, SipLeg};
pub use listen::Listen;
pub use refer::ReferRule;
pub use uri::{Host, SipUri, Transport};
pub use user_agent::{UserAgent, UserAgentOptions};
