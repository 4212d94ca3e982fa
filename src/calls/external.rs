//! External signalling: calls whose application exchanges the messages with Meta itself and has us carry the media.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::origin::{ExternalCall, Origin};
use super::placing::{Agents, no_room, route_of};
use super::session::SdpReply;
use super::snapshot::CallSnapshot;
use super::{Calls, NewCall, PERFORMED_WITHIN, has_ended};
use crate::call::AnswerWhen;
use crate::call::end::EndReason;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::directory::Owner;
use crate::egress::Hosts;
use crate::routes::{Number, PlacingLimits, Route};
use crate::settings::Settings;
use crate::store;
use crate::whatsapp::PhoneNumberId;
use crate::worker::placement;

/// A call that an application signals, already read.
pub struct ExternalOrder {
    /// Who calls whom.
    pub call: ExternalCall,
    /// The business number, which need not be configured; None for the only one that is.
    pub phone_number_id: Option<PhoneNumberId>,
    /// Who talks to the person.
    pub agents: Agents,
    /// For the agent's `start`, beside those of the route.
    pub parameters: BTreeMap<String, String>,
    /// Kept with the call.
    pub client_state: Option<String>,
}

/// Why a call was not taken.
#[derive(Debug)]
pub struct NotTaken {
    /// What to do about it.
    pub refusal: Refusal,
    /// The live call that has the wacid.
    pub in_the_way: Option<CallId>,
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, in_the_way: None }
    }
}

impl Calls {
    /// Takes a call that the application signals. Gives our SDP for Meta: the answer to its offer, or an offer. This does not
    /// wait for the disk, but the call's events do, and `call.ready_to_accept` among them.
    pub async fn take_external(
        &self,
        order: ExternalOrder,
        hosts: Hosts,
    ) -> Result<(CallSnapshot, Arc<str>), NotTaken> {
        let number = number_of(&order, &self.0.options.settings.get(), hosts).await?;
        let (reply, made) = oneshot::channel();
        let call = self.begin_external(order, Arc::new(number), reply)?;
        let made = tokio::time::timeout(PERFORMED_WITHIN, made).await;
        let sdp = match made {
            Ok(Ok(made)) => made.map_err(|reason| not_made(&reason))?,
            Ok(Err(_)) => return Err(has_ended().into()),
            Err(_) => return Err(Refusal::new(RefusalCode::NoAnswer, "the call does not answer").into()),
        };
        Ok((self.get(&call.facts.id).unwrap_or(call), sdp))
    }

    /// The first snapshot of the call.
    fn begin_external(
        &self,
        order: ExternalOrder,
        number: Arc<Number>,
        reply: SdpReply,
    ) -> Result<CallSnapshot, NotTaken> {
        let now = clock::now();
        let worker = placement::best(&self.0.options.workers, now);
        let mut table = self.table();
        table.directory.forget_old(now);
        let id = CallId::generate();
        let origin = Origin::External(Box::new(order.call));
        let wacid = origin.wacid().cloned();
        if let Some(owner) = wacid.as_ref().map(|wacid| table.directory.owner(wacid)) {
            is_free(owner)?;
        }
        if let Some(reason) = self.refusal(&table, &number, &worker) {
            return Err(no_room(&reason).into());
        }
        if let Some(wacid) = &wacid {
            table.directory.claim(wacid, &id).map_or_else(is_free, Ok)?;
        }
        let began_at = store::whole_ms(clock::wall());
        let naming = self.0.naming.clone();
        let new_call = NewCall { id: id.clone(), origin, number, worker, received_at: now, began_at, naming };
        // The events wait for it.
        let _first_record = self.start(table, new_call, None, |session| {
            if let Some(client_state) = order.client_state {
                session.begin_with(client_state);
            }
            session.hand_sdp_to(reply);
            session.begin(false)
        });
        Ok(self.get(&id).ok_or_else(has_ended)?)
    }
}

fn is_free(owner: Owner) -> Result<(), NotTaken> {
    match owner {
        Owner::Nobody => Ok(()),
        Owner::Ended => Err(Refusal::new(RefusalCode::CallEnded, "the call with this wacid has ended").into()),
        Owner::Call(call) => Err(NotTaken {
            refusal: Refusal::new(RefusalCode::WacidInUse, format!("call {call} has this wacid and is live")),
            in_the_way: Some(call),
        }),
    }
}

/// The number as it is configured, or one of which nothing but its id is known, with the route of this call.
async fn number_of(order: &ExternalOrder, settings: &Settings, hosts: Hosts) -> Result<Number, Refusal> {
    let configured = match &order.phone_number_id {
        Some(id) => settings.numbers.get(id),
        None => settings.numbers.only(),
    };
    let base = match (&configured, &order.agents) {
        (Some(number), _) => number.route.clone(),
        (None, Agents::OfNumber) => {
            let advice = "route: give one, or queue, agent or url, as the number is none of [[whatsapp.numbers]]";
            return Err(Refusal::new(RefusalCode::InvalidCommand, advice));
        }
        // A phone rings for half a minute at most, and a queue may take longer.
        (None, Agents::Of(to)) if to.queue.is_some() => {
            Arc::new(Route { answer: AnswerWhen::AtOnce, ..Route::unnamed() })
        }
        (None, Agents::Of(_) | Agents::Nobody | Agents::Phone(_)) => Arc::new(Route::unnamed()),
    };
    let route = Arc::new(route_of(&base, &order.agents, &order.parameters, settings, hosts).await?);
    match (configured, &order.phone_number_id) {
        (Some(number), _) => Ok(Number { route, ..(*number).clone() }),
        // No request of ours names it, so it needs no token.
        (None, Some(id)) => Ok(Number {
            phone_number_id: id.clone(),
            access_token: String::new().into(),
            max_calls: None,
            placing: PlacingLimits::default(),
            route,
        }),
        (None, None) => {
            let advice =
                "to.phone_number_id: give Meta's id of the business number, as there is not exactly one configured";
            Err(Refusal::new(RefusalCode::InvalidCommand, advice))
        }
    }
}

/// The call ended before its SDP was made.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other endings say it in their own words")]
fn not_made(reason: &EndReason) -> Refusal {
    match reason {
        EndReason::OfferRefused(why) => Refusal::new(RefusalCode::OfferRefused, format!("offer: {why}")),
        EndReason::Overloaded(_) | EndReason::NumberOverloaded | EndReason::ShuttingDown => no_room(reason),
        EndReason::InternalError => Refusal::new(RefusalCode::InternalError, "internal error: see the log"),
        _ => Refusal::new(RefusalCode::CallEnded, format!("the call has ended already: {reason}")),
    }
}
