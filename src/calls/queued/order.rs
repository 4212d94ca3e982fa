//! StoredOrder: what the store keeps of a queued call, so that any later process can place it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::call::command::Destination;
use crate::calls::origin::Placement;
use crate::calls::placing::{Agents, CallOrder};
use crate::egress::Hosts;
use crate::store::QueuedCall;
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::{CallbackData, Callee};

/// The parts of an order that the store does not know by name. A key is never removed, and a new one has a default: the
/// file may have been written by an earlier version.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredOrder {
    wa_id: Option<String>,
    user_id: Option<String>,
    ring_timeout_ms: u64,
    /// None for the number's route.
    destination: Option<Destination>,
    without_agent: bool,
    parameters: BTreeMap<String, String>,
    /// Whether its URL may name any host.
    any_host: bool,
}

impl StoredOrder {
    /// None for the order of a phone, which waits for its call.
    pub fn of(order: &CallOrder, hosts: Hosts) -> Option<Self> {
        let (wa_id, user_id) = match &order.placement.callee {
            Callee::WaId(digits) => (Some(digits.clone()), None),
            Callee::UserId(id) => (None, Some(id.clone())),
        };
        let (destination, without_agent) = match &order.agents {
            Agents::OfNumber => (None, false),
            Agents::Of(to) => (Some(to.clone()), false),
            Agents::Nobody => (None, true),
            Agents::Phone(_) => return None,
        };
        Some(Self {
            wa_id,
            user_id,
            ring_timeout_ms: order.placement.ring_timeout.as_millis() as u64,
            destination,
            without_agent,
            parameters: order.parameters.clone(),
            any_host: match hosts {
                Hosts::Any => true,
                Hosts::Listed => false,
            },
        })
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an order is texts and numbers")
    }

    /// The order of a queued call. None if it cannot be read.
    pub fn read(call: &QueuedCall) -> Option<(CallOrder, Hosts)> {
        let stored: Self = serde_json::from_str(&call.order).ok()?;
        let callee = match (stored.wa_id, stored.user_id) {
            (Some(digits), _) => Callee::WaId(digits),
            (None, Some(id)) => Callee::UserId(id),
            (None, None) => return None,
        };
        let agents = match (stored.destination, stored.without_agent) {
            (Some(to), _) => Agents::Of(to),
            (None, true) => Agents::Nobody,
            (None, false) => Agents::OfNumber,
        };
        let order = CallOrder {
            placement: Placement {
                callee,
                tracker: call.tracker.as_deref().and_then(|text| CallbackData::parse(text).ok()),
                ring_timeout: Duration::from_millis(stored.ring_timeout_ms),
            },
            phone_number_id: Some(PhoneNumberId::parse(&call.phone_number_id).ok()?),
            agents,
            parameters: stored.parameters,
            client_state: call.client_state.clone(),
            status_callback: None,
        };
        Some((order, if stored.any_host { Hosts::Any } else { Hosts::Listed }))
    }
}
