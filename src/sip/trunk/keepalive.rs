//! Keepalive: OPTIONS to each server of a trunk, so that a dead one is known before a call needs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rsipstack::sip::{Method, Param, Scheme, SipMessage, StatusCodeKind, typed};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transaction::make_tag;
use rsipstack::transaction::transaction::Transaction;
use rsipstack::transport::SipAddr;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::Trunk;
use crate::clock;
use crate::sip::leg::Callee;
use crate::sip::outgoing::{Way, new_call_id, uri};
use crate::sip::user_agent::Stack;

/// As long as a call waits for a first response.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// Asks one server whether it is there, until the user agent stops.
pub(in crate::sip) async fn keep_alive(stack: Arc<Stack>, trunk: Arc<Trunk>, index: usize, every: Duration) {
    let labels = [("trunk", trunk.name().to_owned()), ("target", trunk.options.targets[index].to_string())];
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Held between two questions, so that calls find a connection open.
    let mut way = None;
    loop {
        clock.tick().await;
        let asked_at = clock::now();
        let answered = timeout(ANSWERED_WITHIN, ask(&stack, &trunk, index, &mut way)).await.unwrap_or(None);
        let is_up = answered.is_some();
        metrics::gauge!("patchcord_sip_trunk_up", &labels).set(f64::from(u8::from(is_up)));
        match answered {
            Some(answered_at) => {
                let round_trip = answered_at.saturating_duration_since(asked_at).as_secs_f64();
                metrics::gauge!("patchcord_sip_trunk_round_trip_seconds", &labels).set(round_trip);
            }
            None => way = None,
        }
        if trunk.targets().kept_alive(index, is_up) {
            let (name, target) = (trunk.name(), index + 1);
            match is_up {
                true => info!("target {target} of trunk {name} answers again"),
                false => warn!("target {target} of trunk {name} does not answer: calls try it last"),
            }
        }
    }
}

/// When the answer came; None if none did. 503 says that it takes no calls.
async fn ask(stack: &Stack, trunk: &Trunk, index: usize, held: &mut Option<Way>) -> Option<Instant> {
    let to = Callee::Address(trunk.options.targets[index].clone());
    let mut found = None;
    for hop in Way::all(stack, &to).await.ok()? {
        // The first of its servers that takes a connection, as a call would.
        found = Way::find(stack, &to, hop).await.ok();
        if found.is_some() {
            break;
        }
    }
    let way = found?;
    let call_id = new_call_id();
    let _open = stack.gate.open(&call_id, clock::now);
    let endpoint = &stack.dialogs.endpoint;
    // As the library does for an INVITE.
    let listens = endpoint.transport_layer.get_listen_addrs();
    let same = listens.iter().find(|address| address.r#type == way.destination.r#type).or(listens.first())?;
    let local = SipAddr { r#type: way.destination.r#type, ..same.clone() };
    let via = endpoint.get_via(Some(local), None).ok()?;
    let ours = uri(Scheme::Sip, Some("patchcord"), way.contact.host_with_port.clone(), None);
    let from = typed::From { display_name: None, uri: ours, params: vec![Param::Tag(make_tag())] };
    let to = typed::To { display_name: None, uri: way.callee.clone(), params: Vec::new() };
    let request =
        endpoint.make_request(Method::Options, way.callee.clone(), via, from, to, 1, Some(call_id.clone().into()));
    let key = TransactionKey::from_request(&request, TransactionRole::Client).ok()?;
    let mut transaction = Transaction::new_client(key, request, endpoint.clone(), None);
    transaction.destination = Some(way.destination.clone());
    *held = Some(way);
    transaction.send().await.ok()?;
    while let Some(message) = transaction.receive().await {
        let SipMessage::Response(response) = message else { continue };
        let is_last = response.status_code.kind() != StatusCodeKind::Provisional;
        if is_last {
            return Some(clock::now()).filter(|_| !matches!(response.status_code.code(), 408 | 503));
        }
    }
    None
}
