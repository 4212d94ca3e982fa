//! Placing: the application has us call a WhatsApp user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::destination::targets_of;
use super::origin::{Origin, Placement};
use super::pacing::Held;
use super::placements::Dialled;
use super::queued::Reservation;
use super::snapshot::CallSnapshot;
use super::{Calls, NewCall};
use crate::agent::{AgentTarget, CallingPhone};
use crate::call::command::Destination;
use crate::call::end::EndReason;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::egress::Hosts;
use crate::routes::{Number, PlacingLimits, Route};
use crate::settings::Settings;
use crate::store::{self, Written};
use crate::twilio::status::StatusCallback;
use crate::whatsapp::PhoneNumberId;
use crate::worker::{WorkerHandle, placement};

/// Until a call is placed again from a number with as many live ones as may be. Nobody knows when one of them ends.
const LIVE_AGAIN: Duration = Duration::from_secs(5);

/// A call to be placed, already read.
pub struct CallOrder {
    /// Whom to call, and how.
    pub placement: Placement,
    /// The business number to call from; None for the only one there is.
    pub phone_number_id: Option<PhoneNumberId>,
    /// Who talks to the callee.
    pub agents: Agents,
    /// For the agent's `start`, beside those of the route.
    pub parameters: BTreeMap<String, String>,
    /// Kept with the call.
    pub client_state: Option<String>,
    /// Told how the call stands, as Twilio does.
    pub status_callback: Option<StatusCallback>,
}

/// Who talks to a callee.
pub enum Agents {
    /// The agents of the number's route.
    OfNumber,
    /// These.
    Of(Destination),
    /// Nobody until the application connects somebody.
    Nobody,
    /// The phone that has asked for the call.
    Phone(CallingPhone),
}

/// How a call that we place begins.
pub(super) enum Start {
    /// At once, if there is room.
    Now,
    /// From the queue, which has found room for it and has written its first record.
    Queued { id: CallId, began_at: SystemTime, reservation: Reservation, worker: WorkerHandle },
}

impl Calls {
    /// Places a call. It is on disk, or late, when this returns; its outcome comes in events.
    pub async fn place(&self, order: CallOrder, hosts: Hosts) -> Result<CallSnapshot, Refusal> {
        let settings = self.0.options.settings.get();
        let number = number_of(order.phone_number_id.as_ref(), &settings)?;
        self.0.options.permissions.check_call(&number.phone_number_id, &order.placement.callee).await?;
        let route = route_of(&number.route, &order.agents, &order.parameters, &settings, hosts).await?;
        let (call, first_record) = self.begin_placing(order, number.on(route), Start::Now)?;
        // The store logs a disk that does not answer in time; the call goes on.
        let _ = first_record.confirmed().await;
        Ok(self.get(&call.facts.id).unwrap_or(call))
    }

    /// The first snapshot of the call, and the write of its first record.
    pub(super) fn begin_placing(
        &self,
        order: CallOrder,
        number: Arc<Number>,
        start: Start,
    ) -> Result<(CallSnapshot, Written), Refusal> {
        let now = clock::now();
        let mut table = self.table();
        table.directory.forget_old(now);
        table.placements.forget_old(now);
        let is_queued = matches!(start, Start::Queued { .. });
        let (id, began_at, worker) = match start {
            Start::Now => {
                let worker = placement::best(&self.0.options.workers, now);
                if let Some(reason) = self.refusal(&table, &number, &worker) {
                    return Err(no_room(&reason));
                }
                let live = table.placed_of(&number.phone_number_id);
                let started = table.pacing.start(&number.phone_number_id, &number.placing, live, now);
                started.map_err(|held| over_the_limit(held, &number.placing, now))?;
                (CallId::generate(), store::whole_ms(clock::wall()), worker)
            }
            Start::Queued { id, began_at, reservation, worker } => {
                reservation.begin(&mut table);
                (id, began_at, worker)
            }
        };
        let dialled = Dialled {
            number: number.phone_number_id.clone(),
            callee: order.placement.callee.clone(),
            callback_data: order.placement.callback_data(&id).as_str().to_owned(),
        };
        table.placements.begin(id.clone(), dialled);
        let origin = Origin::Placed(Box::new(order.placement));
        let new_call = NewCall {
            id: id.clone(),
            origin,
            number,
            worker,
            received_at: now,
            began_at,
            naming: self.0.naming.clone(),
        };
        let first_record = self.start(table, new_call, None, |session| {
            if let Some(client_state) = order.client_state {
                session.begin_with(client_state);
            }
            if let Some(callback) = &order.status_callback {
                session.name_status_callback(callback);
            }
            if is_queued {
                session.was_queued();
            }
            session.begin(false)
        });
        let ended = || Refusal::new(RefusalCode::CallEnded, "the call has ended already: look at its record");
        Ok((self.get(&id).ok_or_else(ended)?, first_record))
    }
}

pub(super) fn number_of(id: Option<&PhoneNumberId>, settings: &Settings) -> Result<Arc<Number>, Refusal> {
    match id {
        Some(id) => settings.numbers.get(id).ok_or_else(|| {
            let advice = "phone_number_id: no number has this id; give one of [[whatsapp.numbers]]";
            Refusal::new(RefusalCode::UnknownNumber, advice)
        }),
        None => settings.numbers.only().ok_or_else(|| {
            let advice = "phone_number_id: give the number to call from, as there is not exactly one";
            Refusal::new(RefusalCode::InvalidCommand, advice)
        }),
    }
}

/// The route of a call, with the agents that the order names.
pub(super) async fn route_of(
    of_number: &Route,
    agents: &Agents,
    parameters: &BTreeMap<String, String>,
    settings: &Settings,
    hosts: Hosts,
) -> Result<Route, Refusal> {
    let (base, mut targets) = match agents {
        Agents::OfNumber => (of_number.clone(), of_number.targets.clone()),
        Agents::Nobody => (of_number.clone(), Vec::new()),
        Agents::Phone(phone) => (of_number.clone(), vec![AgentTarget::CallingPhone(phone.clone())]),
        Agents::Of(to) => {
            to.check()?;
            let targets = targets_of(to, settings, hosts).await?;
            let named = to.route.as_deref().and_then(|name| settings.routes.get(name));
            (named.map_or_else(|| of_number.clone(), |route| (*route).clone()), targets)
        }
    };
    targets.iter_mut().for_each(|target| target.add_parameters(parameters));
    Ok(Route { targets, ..base })
}

fn over_the_limit(held: Held, limits: &PlacingLimits, now: Instant) -> Refusal {
    let until_then = |until: Instant| until.saturating_duration_since(now);
    let (code, limit, what, wait) = match held {
        Held::PerSecond { until } => {
            let what = format!("the number starts {} calls a second at most", limits.per_second);
            (RefusalCode::NumberRateLimited, "per_second", what, until_then(until))
        }
        Held::PerDay { until } => {
            let what = format!("the number has started {} calls within 24 h, which is the most", limits.per_day);
            (RefusalCode::NumberDayLimit, "per_day", what, until_then(until))
        }
        Held::Live => {
            let what = format!("{} calls that the number placed are live, which is the most", limits.live);
            (RefusalCode::NumberBusy, "live", what, LIVE_AGAIN)
        }
    };
    metrics::counter!("patchcord_placed_calls_refused_total", "limit" => limit).increment(1);
    let next_allowed_at = match held {
        Held::PerDay { .. } => Some(clock::wall() + wait),
        Held::PerSecond { .. } | Held::Live => None,
    };
    let refusal = Refusal::new(code, format!("{what}: try again after Retry-After")).retry_after(wait);
    Refusal { next_allowed_at, ..refusal }
}

pub(super) fn no_room(reason: &EndReason) -> Refusal {
    let is_stopping = *reason == EndReason::ShuttingDown;
    let code = if is_stopping { RefusalCode::ShuttingDown } else { RefusalCode::Overloaded };
    Refusal::new(code, format!("{reason}: try again later"))
}
