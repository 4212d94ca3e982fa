//! A fake Meta, a WhatsApp phone, agents and a bad network, to test Patchcord against.
//!
//! The simulator speaks HTTP, WebSocket and RTP, and shares no types with the service.
//!
//! ```no_run
//! use patchcord_simulator::{CallerOptions, Meta, MetaOptions, Speech, Stage};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let meta = Meta::start(MetaOptions::default()).await?;
//! // … start the service with `meta.graph_url()`, then tell Meta where it listens:
//! meta.set_webhook_url("http://127.0.0.1:8080/webhooks/whatsapp");
//! let call = meta.place_call(CallerOptions { speech: Speech::caller(), ..CallerOptions::default() }).await?;
//! call.wait_until(Stage::FirstSound).await?;
//! call.hang_up().await?;
//! assert_eq!(call.objections(), []);
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "its shells have a clock of their own: it shares nothing with the service"
)]

pub mod agent;
pub mod audiosocket;
pub mod answerer;
pub mod browser;
pub mod call;
pub mod callee;
mod cut;
pub mod dns;
pub mod foreign_agent;
pub mod load;
pub mod meta;
pub mod model;
pub mod network;
pub mod objection;
pub mod page;
pub mod phone;
mod relay;
pub mod sip_phone;
pub mod sound;
pub mod speech;
pub mod twiml_app;
mod watched;
pub mod web_phone;

use std::time::Duration;

pub use agent::{Agent, AgentAudio, AgentOptions, AgentSession, Behaviour, Encoding, Junk, Pace};
pub use browser::{BrowserCall, BrowserCaller, Faults, GraphFault, WebhookFault};
pub use call::{Announce, Call, CallerOptions, EndedBy, Stage};
pub use callee::{AnswerWebhooks, Callee, CalleeOptions, Setup};
pub use load::{LoadOptions, LoadReport, Spread};
pub use meta::{GraphRequest, Meta, MetaOptions, Reply};
pub use network::{Conditions, NetworkOptions};
pub use objection::Objection;
pub use phone::ear::HeardPacket;
pub use phone::offer::OfferQuirks;
pub use speech::Speech;

/// The default deadline of every wait.
pub const DEADLINE: Duration = Duration::from_secs(10);
