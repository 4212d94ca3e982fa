//! What the calls do with Meta's webhooks: each `connect` is admitted once, each `terminate` reaches its call.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::{info, warn};

use super::naming::{Taken, input_of};
use super::table::CallTable;
use super::{Calls, NewCall, Origin, WRITTEN_WITHIN};
use crate::call::end::{EndReason, Shortage};
use crate::call::event::CallId;
use crate::clock;
use crate::directory::Owner;
use crate::routes::Number;
use crate::store::{self, Written};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::permission::{CallsPaused, PermissionReply};
use crate::whatsapp::signature::Signer;
use crate::whatsapp::webhook::{Connect, Direction, Notice, Terminate};
use crate::worker::{WorkerHandle, placement};

/// The outcome of one notice; the names are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new call.
    Admitted,
    /// It reached its call.
    Delivered,
    /// The call lives already, or has ended.
    Duplicate,
    /// Its `terminate` came first.
    AlreadyTerminated,
    /// Of a call that we place, before Meta's reply has named it.
    Early,
    /// Too old to be answered.
    Stale,
    /// Signed with an app secret that is not the number's.
    WrongSecret,
    /// Not for a call of ours: another number, another direction.
    NotOurs,
    /// Of an unknown kind.
    Unknown,
    /// It lacks a field that its kind needs.
    Malformed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::AlreadyTerminated => "already_terminated",
            Self::Early => "early",
            Self::Stale => "stale",
            Self::WrongSecret => "wrong_secret",
            Self::NotOurs => "not_ours",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
        }
    }
}

impl Calls {
    /// Takes all notices of one webhook, in their order. Those of numbers that the signer does not speak for are counted
    /// and skipped. Returns at once; Meta gets its 200 when the writes are done.
    pub fn take(&self, notices: Vec<Notice>, signer: &Signer) -> Vec<Written> {
        let received_at = clock::now();
        notices.iter().filter_map(Notice::timestamp).for_each(|stamp| self.0.clock.observe(stamp, received_at));
        let mut writes = Vec::new();
        for notice in notices {
            let (outcome, written) = self.take_one(notice, signer, received_at);
            writes.extend(written);
            metrics::counter!("patchcord_webhook_events_total", "outcome" => outcome.name()).increment(1);
        }
        writes
    }

    /// Whether a notice is of a call of ours: a user calls one of our numbers, or we placed it.
    pub fn owns(&self, notice: &Notice) -> bool {
        if is_business_initiated(notice) {
            return self.0.naming.owns(notice);
        }
        let (direction, number) = match notice {
            Notice::Connect(connect) => (Some(connect.direction), &connect.phone_number_id),
            Notice::Terminate(terminate) => (terminate.direction, &terminate.phone_number_id),
            // The app that has the number's messages gets these too.
            Notice::PermissionReply(_) | Notice::CallsPaused(_) => return false,
            Notice::Status(_) | Notice::NotOurs { .. } | Notice::Unknown { .. } | Notice::Malformed { .. } => {
                return false;
            }
        };
        let is_known = number.as_ref().is_none_or(|id| self.0.options.settings.get().numbers.get(id).is_some());
        is_known && direction != Some(Direction::BusinessInitiated)
    }

    fn take_one(&self, notice: Notice, signer: &Signer, received_at: Instant) -> (Outcome, Option<Written>) {
        let outcome = match notice {
            Notice::Connect(connect) if is_foreign(signer, connect.phone_number_id.as_ref()) => Outcome::WrongSecret,
            Notice::Terminate(terminate) if is_foreign(signer, terminate.phone_number_id.as_ref()) => {
                Outcome::WrongSecret
            }
            Notice::Status(status) if is_foreign(signer, status.phone_number_id.as_ref()) => Outcome::WrongSecret,
            Notice::PermissionReply(reply) if is_foreign(signer, reply.phone_number_id.as_ref()) => {
                Outcome::WrongSecret
            }
            Notice::PermissionReply(reply) => return self.permission_replied(&reply),
            Notice::CallsPaused(pause) => return self.calls_paused(&pause, signer),
            notice if is_business_initiated(&notice) || self.ends_placed(&notice) => return self.take_placed(&notice),
            Notice::Connect(connect) => return self.admit(connect, received_at),
            Notice::Terminate(terminate) => return self.terminate(&terminate, signer),
            Notice::Status(_) | Notice::NotOurs { .. } => Outcome::NotOurs,
            Notice::Unknown { field, event } => {
                info!(webhook.field = field, webhook.event = event, "a webhook of an unknown kind is skipped");
                Outcome::Unknown
            }
            Notice::Malformed { why } => {
                warn!("a webhook entry cannot be read and is skipped: {why}");
                Outcome::Malformed
            }
        };
        (outcome, None)
    }

    fn permission_replied(&self, reply: &PermissionReply) -> (Outcome, Option<Written>) {
        match self.0.options.permissions.replied(reply) {
            Some(written) => (Outcome::Delivered, Some(written)),
            None => (Outcome::NotOurs, None),
        }
    }

    fn calls_paused(&self, pause: &CallsPaused, signer: &Signer) -> (Outcome, Option<Written>) {
        let permissions = &self.0.options.permissions;
        if is_foreign(signer, permissions.id_of(&pause.display_phone_number).as_ref()) {
            return (Outcome::WrongSecret, None);
        }
        permissions.calls_paused(pause);
        (Outcome::Delivered, None)
    }

    fn admit(&self, connect: Box<Connect>, received_at: Instant) -> (Outcome, Option<Written>) {
        let mut table = self.table();
        table.directory.forget_old(received_at);
        match table.directory.owner(&connect.call_id) {
            Owner::Nobody => {}
            // Its first webhook may have had no reply yet.
            Owner::Call(call) => {
                return (Outcome::Duplicate, table.live.get(&call).map(|live| live.first_record.clone()));
            }
            Owner::Ended => return (Outcome::AlreadyTerminated, None),
        }
        if self.0.clock.is_stale(connect.timestamp, received_at) {
            return (Outcome::Stale, None);
        }
        let settings = self.0.options.settings.get();
        let Some(number) = connect.phone_number_id.as_ref().and_then(|id| settings.numbers.get(id)) else {
            warn!("a call came for a number that is not configured; add it under [[whatsapp.numbers]]");
            return (Outcome::NotOurs, None);
        };
        if let Some(shown) = &connect.display_phone_number {
            self.0.options.permissions.number_shown(&number.phone_number_id, shown);
        }
        let id = CallId::generate();
        if table.directory.claim(&connect.call_id, &id).is_err() {
            return (Outcome::Duplicate, None);
        }
        let worker = placement::best(&self.0.options.workers, clock::now());
        let refusal = self.refusal(&table, &number, &worker);
        let is_refused = refusal.is_some();
        let began_at = store::whole_ms(clock::wall());
        let (origin, naming) = (Origin::Offered(connect), self.0.naming.clone());
        let new_call = NewCall { id, origin, number, worker, received_at, began_at, naming };
        let first_record = self.start(table, new_call, refusal, |session| session.begin(is_refused));
        (Outcome::Admitted, Some(first_record))
    }

    /// Why a new call is rejected at Meta at once, or not placed.
    pub(super) fn refusal(&self, table: &CallTable, number: &Number, worker: &WorkerHandle) -> Option<EndReason> {
        if self.0.draining.load(Ordering::Relaxed) {
            Some(EndReason::ShuttingDown)
        } else if table.live.len() >= self.0.options.max_calls {
            Some(EndReason::Overloaded(Shortage::Calls))
        } else if number.max_calls.is_some_and(|most| table.count_of(&number.phone_number_id) >= most) {
            Some(EndReason::NumberOverloaded)
        } else if self.0.options.store.is_low() {
            Some(EndReason::Overloaded(Shortage::Disk))
        } else {
            worker.shortage().map(EndReason::Overloaded)
        }
    }

    /// A `terminate` may lack its direction, also of a call that we place and Meta has not named yet.
    fn ends_placed(&self, notice: &Notice) -> bool {
        match notice {
            Notice::Terminate(terminate) => terminate.direction.is_none() && self.0.naming.is_of_unnamed(notice),
            Notice::Connect(_)
            | Notice::Status(_)
            | Notice::PermissionReply(_)
            | Notice::CallsPaused(_)
            | Notice::NotOurs { .. }
            | Notice::Unknown { .. }
            | Notice::Malformed { .. } => false,
        }
    }

    /// A webhook of a call that a business placed: we, or another program with the same number.
    fn take_placed(&self, notice: &Notice) -> (Outcome, Option<Written>) {
        let outcome = match self.0.naming.take(notice) {
            Some(Taken::Delivered) => Outcome::Delivered,
            Some(Taken::Late) => Outcome::Duplicate,
            Some(Taken::Early) => Outcome::Early,
            None => return (Outcome::NotOurs, None),
        };
        let over = match notice {
            Notice::Terminate(terminate) => Some(terminate).filter(|_| outcome != Outcome::Early),
            Notice::Connect(_)
            | Notice::Status(_)
            | Notice::PermissionReply(_)
            | Notice::CallsPaused(_)
            | Notice::NotOurs { .. }
            | Notice::Unknown { .. }
            | Notice::Malformed { .. } => None,
        };
        let store = &self.0.options.store;
        let written = over.map(|terminate| store.call_terminated(terminate.call_id.as_str(), WRITTEN_WITHIN));
        (outcome, written)
    }

    /// The store keeps that the call is over, so that the next process does not answer its late `connect` either.
    fn terminate(&self, terminate: &Terminate, signer: &Signer) -> (Outcome, Option<Written>) {
        let mut table = self.table();
        let outcome = match table.directory.owner(&terminate.call_id) {
            Owner::Call(call) => match table.live.get(&call) {
                Some(live) if is_foreign(signer, Some(&live.number)) => return (Outcome::WrongSecret, None),
                Some(live) => match live.session.end(input_of(live, terminate)) {
                    true => Outcome::Delivered,
                    // An earlier end is on its way to the session.
                    false => Outcome::Duplicate,
                },
                None => Outcome::Duplicate,
            },
            Owner::Ended => Outcome::Duplicate,
            Owner::Nobody => {
                table.directory.end_unclaimed(&terminate.call_id, clock::now());
                Outcome::AlreadyTerminated
            }
        };
        drop(table);
        (outcome, Some(self.0.options.store.call_terminated(terminate.call_id.as_str(), WRITTEN_WITHIN)))
    }
}

/// Statuses exist only of these.
fn is_business_initiated(notice: &Notice) -> bool {
    match notice {
        Notice::Connect(connect) => connect.direction == Direction::BusinessInitiated,
        Notice::Terminate(terminate) => terminate.direction == Some(Direction::BusinessInitiated),
        Notice::Status(_) => true,
        Notice::PermissionReply(_) | Notice::CallsPaused(_) => false,
        Notice::NotOurs { .. } | Notice::Unknown { .. } | Notice::Malformed { .. } => false,
    }
}

fn is_foreign(signer: &Signer, number: Option<&PhoneNumberId>) -> bool {
    let is_foreign = number.is_some_and(|number| !signer.speaks_for(number));
    if is_foreign {
        warn!(
            "a webhook about a call of a number that another app secret signs for is skipped: are the app_secrets of \
             that number right?"
        );
    }
    is_foreign
}
