//! Queued calls: the application has us place calls as soon as the pace of their number allows it.

mod order;
mod turns;
mod dispatch;

use std::time::{Duration, SystemTime};

use serde_json::json;
use tracing::{info, warn};

use super::Calls;
use super::placing::{CallOrder, number_of, route_of};
use crate::call::end::EndReason;
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::egress::Hosts;
use crate::store::{self, EventRecord, QUEUED_FOR, QueuedCall, StoreError};
pub use dispatch::CallQueue;
pub(super) use dispatch::{QueueSignal, Reservation};
use order::StoredOrder;

/// For the store to write a queued call. Later than this it may still be queued.
const QUEUED_WITHIN: Duration = Duration::from_secs(10);
/// Until a call is queued again at a number whose queue is full.
const FULL_AGAIN: Duration = Duration::from_secs(30);

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queueing {
    /// From 0 to [`Queueing::HIGHEST`]; the higher, the earlier.
    pub priority: u8,
    /// When it is given up.
    pub expiry: Expiry,
}

/// When a queued call is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// So long after it was queued.
    In(Duration),
    /// At this time.
    At(SystemTime),
}

impl Queueing {
    /// The highest priority.
    pub const HIGHEST: u8 = 9;
    /// The priority of a call without one.
    pub const USUAL: u8 = 5;
    /// The longest time in the queue, and the time of a call without one.
    pub const LONGEST: Duration = QUEUED_FOR;

    /// When a call that is queued now expires; the error says what to give.
    fn expires_at(&self, now: SystemTime) -> Result<SystemTime, Refusal> {
        let (key, at) = match self.expiry {
            Expiry::In(wait) => ("expires_in", now.checked_add(wait)),
            Expiry::At(at) => ("expires_at", Some(at)),
        };
        let wait = at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
        match (Duration::from_secs(1)..=Self::LONGEST).contains(&wait) {
            true => Ok(now + wait),
            false => Err(Refusal::new(RefusalCode::InvalidCommand, format!("{key}: give a time from 1s to 24h ahead"))),
        }
    }
}

impl Default for Queueing {
    fn default() -> Self {
        Self { priority: Self::USUAL, expiry: Expiry::In(Self::LONGEST) }
    }
}

impl Calls {
    /// Queues a call. It is on disk when this returns.
    pub async fn queue(&self, order: CallOrder, hosts: Hosts, queueing: Queueing) -> Result<QueuedCall, Refusal> {
        if self.is_draining() {
            return Err(Refusal::new(RefusalCode::ShuttingDown, "the service is stopping: try again later"));
        }
        let settings = self.0.options.settings.get();
        let number = number_of(order.phone_number_id.as_ref(), &settings)?;
        self.0.options.permissions.check_call(&number.phone_number_id, &order.placement.callee).await?;
        // Resolved again when its turn comes; what is wrong with it now is said now.
        let route = route_of(&number.route, &order.agents, &order.parameters, &settings, hosts).await?;
        let stored = StoredOrder::of(&order, hosts).ok_or_else(|| {
            Refusal::new(RefusalCode::InvalidCommand, "a phone that waits for its call cannot be queued")
        })?;
        let queued_at = store::whole_ms(clock::wall());
        let call = QueuedCall {
            call_id: CallId::generate(),
            phone_number_id: number.phone_number_id.as_str().to_owned(),
            route: route.name,
            to: order.placement.to_json(),
            tracker: order.placement.tracker.as_ref().map(|data| data.as_str().to_owned()),
            client_state: order.client_state.clone(),
            priority: queueing.priority,
            queued_at,
            expires_at: queueing.expires_at(queued_at)?,
            order: stored.to_json(),
        };
        let event = queued_event(&call);
        let write = self.0.options.store.queue_call(call.clone(), EventRecord::of(&event), number.placing.queued);
        match tokio::time::timeout(QUEUED_WITHIN, write).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(full(number.placing.queued)),
            Ok(Err(error)) => return Err(unavailable(&error)),
            Err(_) => {
                let advice = "the call may still be queued: look for it under /v1/queued_calls";
                return Err(Refusal::new(RefusalCode::NoAnswer, advice));
            }
        }
        metrics::gauge!("patchcord_queued_calls").increment(1.0);
        self.publish(event);
        self.0.queue.queued(&number.phone_number_id);
        Ok(call)
    }

    /// Takes a call from the queue; it ends as hung up by the application.
    pub async fn cancel_queued(&self, call: &CallId) -> Result<(), Refusal> {
        match self.end_queued(call, EndReason::HungUpByApi).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.why_not_queued(call).await),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// What has become of a call that is not queued.
    pub async fn why_not_queued(&self, call: &CallId) -> Refusal {
        if self.get(call).is_some() {
            return placed();
        }
        match self.0.options.store.call(call.as_str()).await {
            Ok(Some(record)) if record.end.is_none() => placed(),
            Ok(Some(_)) => Refusal::new(RefusalCode::CallEnded, "the call has ended: GET /v1/calls/{call_id} says how"),
            Ok(None) => Refusal::new(RefusalCode::CallNotFound, "no queued call has this id"),
            Err(error) => unavailable(&error),
        }
    }

    /// Ends a queued call, with its event. False if it is not queued any more.
    async fn end_queued(&self, call: &CallId, reason: EndReason) -> Result<bool, StoreError> {
        let (name, fault) = (reason.name(), reason.fault().name());
        let Some(event) = self.0.options.store.end_queued(call.as_str(), reason).await? else { return Ok(false) };
        metrics::gauge!("patchcord_queued_calls").decrement(1.0);
        metrics::counter!("patchcord_calls_total", "reason" => name, "fault" => fault).increment(1);
        info!(call.end_reason = name, call.fault = fault, "call {call} ended in the queue: {name}");
        self.publish(event);
        Ok(true)
    }

    /// To listeners, once it is stored.
    fn publish(&self, event: CallEvent) {
        // There may be no listener.
        let _ = self.0.options.events.send(event);
    }
}

fn queued_event(call: &QueuedCall) -> CallEvent {
    let data = json!({
        "from": call.to,
        "to": { "phone_number_id": call.phone_number_id },
        "route": call.route,
        "tracker": call.tracker,
        "priority": call.priority,
        "expires_at": humantime::format_rfc3339_millis(call.expires_at).to_string(),
    });
    CallEvent::new(call.call_id.clone(), 1, "call.queued", call.client_state.clone(), data, call.queued_at)
}

fn placed() -> Refusal {
    Refusal::new(RefusalCode::AlreadyPlaced, "the call is being placed: hangup gives it up")
}

fn full(most: usize) -> Refusal {
    metrics::counter!("patchcord_placed_calls_refused_total", "limit" => "queued").increment(1);
    let advice = format!("{most} calls of the number are queued, which is the most: try again after Retry-After");
    Refusal::new(RefusalCode::QueueFull, advice).retry_after(FULL_AGAIN)
}

fn unavailable(error: &StoreError) -> Refusal {
    warn!("the queue of calls cannot be used: {error}");
    Refusal::new(RefusalCode::StoreUnavailable, format!("{error}: try again later"))
}
