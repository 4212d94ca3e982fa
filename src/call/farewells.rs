//! Farewells: Meta is told of every ending until it knows, however long it or we are away, within an hour.
//!
//! What is to be said stands in the store before it is said the first time, so the next process says it as well. The
//! session says it at once; what fails is said again from here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::settings::CurrentSettings;
use crate::store::{Farewell, FarewellAction, FarewellBook, Store, WaitingFarewell};
use crate::whatsapp::graph::{Done, GraphClient, GraphFailure, NumberCredentials};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// Meta ends a call by itself long before.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60 * 60);
/// Wait before the second try, from which on it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// The session's own try takes no longer than this.
const FIRST_TRY: Duration = Duration::from_secs(90);
/// Meta is told of so many at once.
const AT_ONCE: usize = 32;
/// How often the figures are brought up to date while some wait.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Before the store is asked again after it could not be read.
const AFTER_READ_ERROR: Duration = Duration::from_secs(1);

/// The way to tell Meta that calls are over. Clones share it.
#[derive(Clone)]
pub struct Farewells(Arc<Shared>);

struct Shared {
    store: Store,
    graph: GraphClient,
    /// With the number's token of the moment.
    settings: CurrentSettings,
    wake: Notify,
}

/// What came of one try.
enum Outcome {
    /// Meta knows.
    Said,
    /// It may be said later.
    Failed,
    /// Saying it again cannot help.
    Refused,
}

impl Farewells {
    /// To Meta by `graph`, and by `store` over the end of the process.
    pub fn new(store: Store, graph: GraphClient, settings: CurrentSettings) -> Self {
        Self(Arc::new(Shared { store, graph, settings, wake: Notify::new() }))
    }

    /// Notes what is to be said before anything else is written of the call's end, and gives what says it.
    pub fn begin(&self, farewell: Farewell) -> impl Future<Output = ()> + use<> {
        self.0.store.farewell_began(farewell.clone(), SystemTime::now() + FIRST_TRY);
        let farewells = self.clone();
        async move { farewells.say(WaitingFarewell { farewell, began_at: SystemTime::now(), attempts: 0 }).await }
    }

    /// Notes what is to be said; it is said as soon as may be.
    pub fn leave(&self, farewell: Farewell) {
        self.0.store.farewell_began(farewell, SystemTime::now());
    }

    /// Looks at once for what was left.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Says what is due, until the task is ended.
    pub async fn run(self) {
        loop {
            let wait = match self.0.store.farewells(AT_ONCE, LONGEST_WAIT.max(FIRST_TRY)).await {
                Ok(book) => self.say_all(book).await,
                Err(error) => {
                    warn!("endings that Meta does not know of cannot be read: {error}");
                    AFTER_READ_ERROR
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.0.wake.notified() => {}
            }
        }
    }

    /// Gives the time until it is to be looked again.
    async fn say_all(&self, book: FarewellBook) -> Duration {
        let age = book.oldest.and_then(|oldest| oldest.elapsed().ok()).unwrap_or_default();
        metrics::gauge!("patchcord_terminates_waiting").set(book.waiting as f64);
        metrics::gauge!("patchcord_terminates_oldest_seconds").set(age.as_secs_f64());
        if book.due.is_empty() {
            let next = book.next_due_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            // Nothing new comes without a wake-up, or before the session's own try is over.
            return next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
        }
        let mut saying = JoinSet::new();
        for waiting in book.due {
            let farewells = self.clone();
            saying.spawn(async move { farewells.say(waiting).await });
        }
        while saying.join_next().await.is_some() {}
        // What was done is committed behind this, so that it is not read again.
        let _ = self.0.store.flush().await;
        Duration::ZERO
    }

    async fn say(&self, waiting: WaitingFarewell) {
        let WaitingFarewell { farewell, began_at, attempts } = waiting;
        let call = &farewell.call_id;
        match self.try_once(&farewell).await {
            Outcome::Said => {
                if attempts > 0 {
                    info!("Meta knows now that call {call} is over");
                }
                self.0.store.farewell_done(call);
            }
            Outcome::Refused => self.give_up(call, "it refuses to be told"),
            Outcome::Failed if began_at.elapsed().unwrap_or_default() >= GIVE_UP_AFTER => {
                self.give_up(call, "an hour is over");
            }
            Outcome::Failed => {
                let wait = wait_before(attempts + 1);
                if attempts == 0 {
                    warn!("Meta does not know yet that call {call} is over; it is told again");
                }
                if let Err(error) = self.0.store.farewell_failed(call, SystemTime::now() + wait).await {
                    warn!("when Meta is told again of the end of call {call} cannot be noted: {error}");
                }
                self.wake();
            }
        }
    }

    fn give_up(&self, call: &str, why: &str) {
        metrics::counter!("patchcord_terminates_given_up_total").increment(1);
        error!("Meta was never told that call {call} is over: {why}; Meta ends it when it hears no sound");
        self.0.store.farewell_done(call);
    }

    async fn try_once(&self, farewell: &Farewell) -> Outcome {
        let number = PhoneNumberId::parse(&farewell.phone_number_id).ok();
        let number = number.and_then(|id| self.0.settings.get().numbers.get(&id));
        let (Some(number), Ok(wacid)) = (number, WaCallId::parse(&farewell.wacid)) else {
            // The operator may put it back.
            return Outcome::Failed;
        };
        let credentials = NumberCredentials {
            phone_number_id: number.phone_number_id.clone(),
            access_token: number.access_token.clone(),
        };
        let graph = &self.0.graph;
        match farewell.action {
            FarewellAction::Terminate => outcome(graph.terminate(&credentials, &wacid).await),
            FarewellAction::Reject => match outcome(graph.reject(&credentials, &wacid).await) {
                // Meta may have an answer after all.
                Outcome::Refused => outcome(graph.terminate(&credentials, &wacid).await),
                other => other,
            },
        }
    }
}

fn outcome(result: Result<Done, GraphFailure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Said,
        Err(failure) if failure.may_pass() => Outcome::Failed,
        Err(_) => Outcome::Refused,
    }
}

/// Half of it for sure, the other half by chance, so that calls that ended together spread out.
fn wait_before(attempt: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << attempt.min(8)).min(LONGEST_WAIT);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}
