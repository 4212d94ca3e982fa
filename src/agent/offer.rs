//! An agent behind an HTTP endpoint that answers WebRTC offers: we offer, it answers, and audio and keys flow as with a page.
//!
//! The endpoint has no way to leave but to close the connection (DTLS), so that is its hang-up.

mod options;
mod exchange;

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::SocketOptions;
use super::browser::seat::{Occupant, Seat};
use super::browser::{self, BrowserId};
use super::port::AgentPort;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use exchange::exchange;
pub use options::{OfferFormat, OfferOptions};

/// Offers to the agent and carries its audio until one side leaves.
pub(super) async fn run(agent: OfferOptions, port: Rc<AgentPort>, options: SocketOptions) {
    match port.offer_browser() {
        Ok((id, offer)) => {
            let connected = connect(&agent, &port, &options, id, offer).await;
            match connected {
                Some(Ok(seat)) => return browser::carry(id, &port, seat).await,
                Some(Err(failure)) => port.failed(failure),
                None => {}
            }
            port.release_browser(id);
        }
        Err(refusal) => port.failed(AgentFailureKind::Refused.because(refusal.message)),
    }
}

/// Hands the offer in and takes the answer. None if the call dismisses the agent meanwhile.
async fn connect(
    agent: &OfferOptions,
    port: &AgentPort,
    options: &SocketOptions,
    id: BrowserId,
    offer: String,
) -> Option<Result<Seat, AgentFailure>> {
    let (began, limit) = (clock::now(), options.connect_timeout);
    let facts = request_data(port, agent);
    let exchanged = tokio::select! {
        biased;
        _ = port.dismissed() => return None,
        exchanged = exchange(agent, offer, &facts, agent.tls.as_ref().unwrap_or(&options.tls), limit, port.standstills()) => exchanged,
    };
    let answer = match exchanged {
        Ok(answer) => answer,
        Err(error) => return Some(Err(error.into())),
    };
    if let Err(refusal) = port.accept_answer(id, &answer) {
        return Some(Err(AgentFailureKind::ProtocolError.because(refusal.message)));
    }
    let left = limit.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
    Some(Ok(Seat::new(Occupant::Answerer, left, clock::now())))
}

/// The facts of the call, as the native protocol's `start` has them.
fn request_data(port: &AgentPort, agent: &OfferOptions) -> Value {
    let mut facts = port.facts();
    facts["parameters"] = json!(agent.parameters);
    facts
}
