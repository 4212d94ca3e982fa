//! CallQueue: the task that places queued calls, each number at its own pace, and ends those that expire.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use super::turns::Turns;
use super::{Calls, StoredOrder};
use crate::call::end::EndReason;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::pacing::Held;
use crate::calls::placing::{Start, route_of};
use crate::calls::table::{CallTable, SharedTable};
use crate::clock;
use crate::routes::Number;
use crate::store::{self, QueuedCall, StoreError};
use crate::whatsapp::PhoneNumberId;
use crate::worker::{WorkerHandle, placement};

/// How often a number without room, or without a section of its own in the configuration, is tried.
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two looks for expired calls: the wall clock may be set.
const EXPIRY_LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often a number is tried that Meta has paused: Meta may lift the pause earlier than it said.
const PAUSE_LOOK_EVERY: Duration = Duration::from_secs(60);
/// Expired calls that are ended at once, so that no other write waits for long.
const EXPIRED_AT_ONCE: usize = 100;

/// Tells the task what has been queued. It holds numbers only, so it is as short as the configuration.
#[derive(Default)]
pub(in crate::calls) struct QueueSignal {
    numbers: Mutex<HashSet<PhoneNumberId>>,
    woken: Notify,
}

impl QueueSignal {
    /// A call of this number was queued.
    pub fn queued(&self, number: &PhoneNumberId) {
        self.numbers().insert(number.clone());
        self.wake();
    }

    /// Has the task look around.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    fn numbers(&self) -> MutexGuard<'_, HashSet<PhoneNumberId>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task. It ends once the service drains and no call is between queue and table.
pub struct CallQueue {
    calls: Calls,
    turns: Turns,
    /// At most one of each number.
    placing: JoinSet<(PhoneNumberId, Outcome)>,
    expiry_look_at: Instant,
}

/// What became of a number's turn.
enum Outcome {
    /// A call left the queue: it is placed, or has ended.
    Placed,
    /// No call of the number is queued.
    Emptied,
    /// No media port is free, or the store cannot be used.
    NoRoom,
    /// The number places no call before this time.
    Held(Instant),
}

/// A queued call's place in the pace of its number. Dropping it gives the place back, unless the call has begun.
pub(in crate::calls) struct Reservation {
    table: SharedTable,
    number: PhoneNumberId,
    has_begun: bool,
}

impl Reservation {
    /// The call is in the table from now on.
    pub fn begin(mut self, table: &mut CallTable) {
        self.has_begun = true;
        table.pacing.begin(&self.number);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.has_begun {
            self.table.lock().pacing.release(&self.number);
        }
    }
}

/// When a number that may not place a call is tried again.
enum Wait {
    Until(Instant),
    /// When a call ends, or after a while.
    ForRoom,
}

impl CallQueue {
    /// Places the queued calls of these calls' store.
    pub fn new(calls: Calls) -> Self {
        Self { calls, turns: Turns::default(), placing: JoinSet::new(), expiry_look_at: clock::now() }
    }

    /// Runs until the service drains.
    pub async fn run(mut self) {
        self.load().await;
        let calls = self.calls.clone();
        loop {
            // Registered before the look around, so that an end in between is not missed.
            let mut ended = pin!(calls.0.ended.notified());
            ended.as_mut().enable();
            if calls.is_draining() && self.placing.is_empty() {
                return;
            }
            self.look_around().await;
            let look_at = self.turns.poll_timeout().map_or(self.expiry_look_at, |at| at.min(self.expiry_look_at));
            tokio::select! {
                () = calls.0.queue.woken.notified() => {}
                () = ended => self.turns.room(clock::now()),
                Some(done) = self.placing.join_next() => self.turn_over(done),
                () = tokio::time::sleep_until(look_at.into()), if !calls.is_draining() => {}
            }
        }
    }

    /// The numbers of calls that an earlier process queued.
    async fn load(&mut self) {
        let summary = loop {
            match self.calls.0.options.store.queue_summary().await {
                Ok(summary) => break summary,
                Err(StoreError::Closed) => return,
                Err(error) => warn!("queued calls of an earlier run cannot be read: {error}"),
            }
            if self.calls.is_draining() {
                return;
            }
            tokio::time::sleep(TRIED_EVERY).await;
        };
        let queued: usize = summary.numbers.iter().map(|(_, count)| count).sum();
        metrics::gauge!("patchcord_queued_calls").increment(queued as f64);
        if queued > 0 {
            info!("{queued} calls of an earlier run are queued");
        }
        for (number, _) in summary.numbers {
            if let Ok(number) = PhoneNumberId::parse(&number) {
                self.turns.came(&number, clock::now());
            }
        }
    }

    async fn look_around(&mut self) {
        if self.calls.is_draining() {
            return;
        }
        let now = clock::now();
        for number in self.calls.0.queue.numbers().drain() {
            self.turns.came(&number, now);
            // It may be the next to expire.
            self.expiry_look_at = now;
        }
        if now >= self.expiry_look_at {
            self.expiry_look_at = now + self.end_expired().await;
        }
        let now = clock::now();
        while let Some(number) = self.turns.next(now) {
            match self.calls.reserve(&number, now) {
                Ok((reservation, configured, worker)) => {
                    let calls = self.calls.clone();
                    self.placing.spawn(async move {
                        let placed = AssertUnwindSafe(calls.place_next(reservation, configured, worker)).catch_unwind();
                        // A panic is logged with its place; the call is tried again if it is still queued.
                        (number, placed.await.unwrap_or(Outcome::NoRoom))
                    });
                }
                Err(Wait::Until(at)) => self.turns.held(&number, at),
                Err(Wait::ForRoom) => self.turns.no_room(&number, now + TRIED_EVERY),
            }
        }
    }

    fn turn_over(&mut self, done: Result<(PhoneNumberId, Outcome), JoinError>) {
        let now = clock::now();
        match done {
            Ok((number, Outcome::Placed)) => self.turns.placed(&number, now),
            Ok((number, Outcome::Emptied)) => self.turns.emptied(&number, now),
            Ok((number, Outcome::NoRoom)) => self.turns.no_room(&number, now + TRIED_EVERY),
            Ok((number, Outcome::Held(until))) => self.turns.held(&number, until),
            // The runtime stops.
            Err(_) => {}
        }
    }

    /// Gives the time until the next look.
    async fn end_expired(&self) -> Duration {
        let expired = self.calls.0.options.store.expired_queued(EXPIRED_AT_ONCE).await;
        let (expired, next) = match expired {
            Ok(found) => found,
            Err(error) => {
                warn!("expired calls of the queue cannot be read: {error}");
                return EXPIRY_LOOK_EVERY;
            }
        };
        let is_all = expired.len() < EXPIRED_AT_ONCE;
        for call in expired {
            // One that is placed meanwhile is not ended.
            if let Err(error) = self.calls.end_queued(&call, EndReason::QueueExpired).await {
                warn!("an expired call cannot be taken from the queue: {error}");
                return TRIED_EVERY;
            }
        }
        let next = next.map(|at| at.duration_since(clock::wall()).unwrap_or_default());
        match is_all {
            true => next.unwrap_or(EXPIRY_LOOK_EVERY).min(EXPIRY_LOOK_EVERY),
            false => Duration::ZERO,
        }
    }
}

impl Calls {
    /// A place for the next queued call of a number, and the worker that will have it.
    fn reserve(&self, id: &PhoneNumberId, now: Instant) -> Result<(Reservation, Number, WorkerHandle), Wait> {
        // The operator may put a number back that is not configured any more.
        let number = self.0.options.settings.get().numbers.get(id).ok_or(Wait::ForRoom)?;
        if let Some(until) = self.0.options.graph.slowed_until(id, now) {
            return Err(Wait::Until(until));
        }
        let worker = placement::best(&self.0.options.workers, now);
        let mut table = self.table();
        if self.refusal(&table, &number, &worker).is_some() {
            return Err(Wait::ForRoom);
        }
        let live = table.placed_of(id);
        table.pacing.reserve(id, &number.placing, live, now).map_err(|held| match held {
            Held::PerSecond { until } | Held::PerDay { until } => Wait::Until(until),
            Held::Live => Wait::ForRoom,
        })?;
        drop(table);
        let reservation = Reservation { table: self.0.table.clone(), number: id.clone(), has_begun: false };
        Ok((reservation, Number::clone(&number), worker))
    }

    /// Places the number's next call. Whatever can go wrong is found out before the call is taken from the queue.
    async fn place_next(&self, reservation: Reservation, number: Number, worker: WorkerHandle) -> Outcome {
        let call = match self.0.options.store.next_queued(number.phone_number_id.as_str()).await {
            Ok(Some(call)) => call,
            Ok(None) => return Outcome::Emptied,
            Err(error) => return cannot("read", &error),
        };
        if call.expires_at <= clock::wall() {
            return self.give_up(&call, EndReason::QueueExpired).await;
        }
        let Some((order, hosts)) = StoredOrder::read(&call) else {
            return self.give_up(&call, EndReason::OrderRefused("it cannot be read".to_owned())).await;
        };
        // It was queued up to a day ago.
        if let Err(refusal) =
            self.0.options.permissions.check_call(&number.phone_number_id, &order.placement.callee).await
        {
            return self.not_permitted(&call, refusal).await;
        }
        let settings = self.0.options.settings.get();
        let route = match route_of(&number.route, &order.agents, &order.parameters, &settings, hosts).await {
            Ok(route) => route,
            Err(refusal) => return self.give_up(&call, EndReason::OrderRefused(refusal.message)).await,
        };
        if !worker.has_port().await {
            return Outcome::NoRoom;
        }
        let began_at = store::whole_ms(clock::wall());
        match self.0.options.store.take_queued(call.clone(), began_at).await {
            Ok(true) => {}
            // It was cancelled.
            Ok(false) => return Outcome::Placed,
            Err(error) => return cannot("write", &error),
        }
        metrics::gauge!("patchcord_queued_calls").decrement(1.0);
        // A restart from here on finds an unfinished call, and ends it.
        let start = Start::Queued { id: call.call_id, began_at, reservation, worker };
        if let Err(refusal) = self.begin_placing(order, number.on(route), start) {
            warn!("a queued call ended as it began: {}", refusal.code.name());
        }
        Outcome::Placed
    }

    /// What stops the whole number for a time holds its queue; anything else ends the call.
    async fn not_permitted(&self, call: &QueuedCall, refusal: Refusal) -> Outcome {
        match (refusal.code, refusal.next_allowed_at) {
            (RefusalCode::CallingPaused, Some(until)) => {
                let wait = until.duration_since(clock::wall()).unwrap_or_default();
                Outcome::Held(clock::now() + wait.clamp(TRIED_EVERY, PAUSE_LOOK_EVERY))
            }
            (code, _) => self.give_up(call, EndReason::NotPermitted(code, refusal.message)).await,
        }
    }

    async fn give_up(&self, call: &QueuedCall, reason: EndReason) -> Outcome {
        match self.end_queued(&call.call_id, reason).await {
            Ok(_) => Outcome::Placed,
            Err(error) => cannot("write", &error),
        }
    }
}

fn cannot(what: &str, error: &StoreError) -> Outcome {
    warn!("the store cannot {what} queued calls, which wait: {error}");
    Outcome::NoRoom
}
