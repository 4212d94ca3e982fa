//! Terminations: `terminate` and `reject` requests, retried until Meta confirms them, for an hour.
//!
//! A request is stored before its first attempt, so it survives the process. The session makes the first attempt; this
//! module makes all later ones.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::clock;
use crate::settings::CurrentSettings;
use crate::store::{PendingTermination, Store, Termination, TerminationAction, TerminationQueue};
use crate::whatsapp::graph::{Done, GraphClient, GraphFailure, NumberCredentials};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// Meta ends a call by itself long before.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60 * 60);
/// Before the second attempt; doubles up to `LONGEST_WAIT`.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// The session's attempt takes no longer than this.
const FIRST_TRY: Duration = Duration::from_secs(90);
/// Requests at once.
const AT_ONCE: usize = 32;
/// How often the metrics are updated while requests are pending.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Before the store is asked again after it could not be read.
const AFTER_READ_ERROR: Duration = Duration::from_secs(1);

/// The pending requests. Clones share them.
#[derive(Clone)]
pub struct Terminations(Arc<Shared>);

struct Shared {
    store: Store,
    graph: GraphClient,
    /// Has the numbers' current access tokens.
    settings: CurrentSettings,
    wake: Notify,
}

/// The outcome of one attempt.
enum Outcome {
    /// Meta has confirmed it.
    Confirmed,
    /// A later attempt may succeed.
    Failed,
    /// No later attempt can succeed.
    Refused,
}

impl Terminations {
    /// Sends by `graph`, and keeps what is pending in `store`.
    pub fn new(store: Store, graph: GraphClient, settings: CurrentSettings) -> Self {
        Self(Arc::new(Shared { store, graph, settings, wake: Notify::new() }))
    }

    /// Stores a request before anything else of the call's end is stored, and gives its first attempt.
    pub fn begin(&self, termination: Termination) -> impl Future<Output = ()> + use<> {
        self.0.store.termination_began(termination.clone(), clock::wall() + FIRST_TRY);
        let terminations = self.clone();
        async move { terminations.send(PendingTermination { termination, began_at: clock::wall(), attempts: 0 }).await }
    }

    /// Stores a request whose first attempt is due at once.
    pub fn leave(&self, termination: Termination) {
        self.0.store.termination_began(termination, clock::wall());
    }

    /// Looks at once for requests that are due.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Sends what is due, until the task is aborted.
    pub async fn run(self) {
        loop {
            let wait = match self.0.store.terminations(AT_ONCE, LONGEST_WAIT.max(FIRST_TRY)).await {
                Ok(queue) => self.send_all(queue).await,
                Err(error) => {
                    warn!("pending terminations cannot be read: {error}");
                    AFTER_READ_ERROR
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A request that has just been left is read only once it is written.
                () = self.0.wake.notified() => drop(self.0.store.flush().await),
            }
        }
    }

    /// Sends all that are due; gives the time until the next look.
    async fn send_all(&self, queue: TerminationQueue) -> Duration {
        let age = queue.oldest.and_then(|oldest| oldest.elapsed().ok()).unwrap_or_default();
        metrics::gauge!("patchcord_terminates_waiting").set(queue.waiting as f64);
        metrics::gauge!("patchcord_terminates_oldest_seconds").set(age.as_secs_f64());
        if queue.due.is_empty() {
            let next = queue.next_due_at.map(|at| at.duration_since(clock::wall()).unwrap_or_default());
            // A new one wakes us, or is due only after the session's attempt.
            return next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
        }
        let mut sending = JoinSet::new();
        for waiting in queue.due {
            let terminations = self.clone();
            sending.spawn(async move { terminations.send(waiting).await });
        }
        while sending.join_next().await.is_some() {}
        // Confirmations are committed before this returns, so they are not read again.
        let _ = self.0.store.flush().await;
        Duration::ZERO
    }

    async fn send(&self, waiting: PendingTermination) {
        let PendingTermination { termination, began_at, attempts } = waiting;
        let call = &termination.call_id;
        match self.try_once(&termination).await {
            Outcome::Confirmed => {
                if attempts > 0 {
                    info!("Meta has confirmed the end of call {call}");
                }
                self.0.store.termination_done(call);
            }
            Outcome::Refused => self.give_up(call, "Meta refused the request"),
            Outcome::Failed if began_at.elapsed().unwrap_or_default() >= GIVE_UP_AFTER => {
                self.give_up(call, "no attempt succeeded within an hour");
            }
            Outcome::Failed => {
                let wait = wait_before(attempts + 1);
                if attempts == 0 {
                    warn!("Meta has not confirmed the end of call {call}; retrying");
                }
                if let Err(error) = self.0.store.termination_failed(call, clock::wall() + wait).await {
                    warn!("the next attempt to end call {call} at Meta cannot be stored: {error}");
                }
                self.wake();
            }
        }
    }

    fn give_up(&self, call: &str, why: &str) {
        metrics::counter!("patchcord_terminates_given_up_total").increment(1);
        error!("gave up ending call {call} at Meta: {why}; Meta ends it when no media arrives");
        self.0.store.termination_done(call);
    }

    async fn try_once(&self, termination: &Termination) -> Outcome {
        let number = PhoneNumberId::parse(&termination.phone_number_id).ok();
        let number = number.and_then(|id| self.0.settings.get().numbers.get(&id));
        let (Some(number), Ok(wacid)) = (number, WaCallId::parse(&termination.wacid)) else {
            // The operator may put it back.
            return Outcome::Failed;
        };
        let credentials = NumberCredentials {
            phone_number_id: number.phone_number_id.clone(),
            access_token: number.access_token.clone(),
        };
        let graph = &self.0.graph;
        match termination.action {
            TerminationAction::Terminate => outcome(graph.terminate(&credentials, &wacid).await),
            TerminationAction::Reject => match outcome(graph.reject(&credentials, &wacid).await) {
                // Meta may have an answer after all.
                Outcome::Refused => outcome(graph.terminate(&credentials, &wacid).await),
                settled @ (Outcome::Confirmed | Outcome::Failed) => settled,
            },
        }
    }
}

fn outcome(result: Result<Done, GraphFailure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Confirmed,
        Err(failure) if failure.may_pass() => Outcome::Failed,
        Err(_) => Outcome::Refused,
    }
}

/// With jitter of one half, so that calls that ended together spread out.
fn wait_before(attempt: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << attempt.min(8)).min(LONGEST_WAIT);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}
