//! The task of one endpoint: posts due deliveries and stores their outcomes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::attempt::{self, Outcome};
use super::backoff::{self, Gate};
use super::{EventsOptions, Format, Webhook, status_of_calls};
use crate::store::{Delivery, Settlement, Store};

/// Between two looks while nothing is due.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// After the store could not be read.
const AFTER_READ_ERROR: Duration = Duration::from_secs(1);

pub(super) struct Deliverer {
    store: Store,
    options: Arc<EventsOptions>,
    webhook: Arc<Webhook>,
    http: reqwest::Client,
    /// Positions in flight, or whose outcome is not committed yet; at most `options.parallel`.
    in_flight: HashSet<i64>,
    steps: JoinSet<Step>,
    gate: Gate,
    chance: StdRng,
    wake_at: Instant,
    news: watch::Receiver<i64>,
    stopped: watch::Receiver<bool>,
}

enum Step {
    Tried {
        delivery: Delivery,
        left_at: Instant,
        outcome: Outcome,
    },
    Settled {
        position: i64,
    },
    /// Housekeeping in the store is done.
    Kept,
}

impl Deliverer {
    pub(super) fn new(
        store: Store,
        options: Arc<EventsOptions>,
        index: usize,
        http: reqwest::Client,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let webhook = Arc::new(options.webhooks[index].clone());
        let news = store.last_position();
        Self {
            store,
            webhook,
            http,
            in_flight: HashSet::new(),
            steps: JoinSet::new(),
            gate: Gate::default(),
            chance: StdRng::seed_from_u64(options.jitter_seed.wrapping_add(index as u64)),
            wake_at: Instant::now(),
            news,
            stopped,
            options,
        }
    }

    pub(super) async fn run(mut self) {
        self.bring_near().await;
        while !*self.stopped.borrow() {
            self.fill().await;
            tokio::select! {
                Some(step) = self.steps.join_next() => self.take(step),
                _ = self.news.changed() => {}
                () = tokio::time::sleep_until(self.wake_at) => {}
                _ = self.stopped.changed() => break,
            }
            while let Some(step) = self.steps.try_join_next() {
                self.take(step);
            }
        }
        while let Some(step) = self.steps.join_next().await {
            self.take(step);
        }
    }

    /// The previous process may have scheduled deliveries by a clock that has been set back since.
    async fn bring_near(&self) {
        let now = self.store.delivery_ms();
        let latest = now + ms(self.options.longest_backoff);
        if let Err(error) = self.store.bring_near(&self.webhook.name, now, latest).await {
            warn!(webhook = %self.webhook.name, "cannot reschedule deliveries to {}: {error}", self.webhook.name);
        }
    }

    /// Sends due deliveries, up to the number allowed in flight.
    async fn fill(&mut self) {
        self.wake_at = Instant::now() + IDLE;
        if let Some(opens_at) = self.gate.closed_until(Instant::now()) {
            self.wake_at = opens_at;
            return;
        }
        let free = self.gate.seats(self.options.parallel).saturating_sub(self.in_flight.len());
        if free == 0 {
            return;
        }
        let now = self.store.delivery_ms();
        match self.store.due(&self.webhook.name, now, self.options.parallel).await {
            Ok((due, next_due_at)) => {
                if let Some(at) = next_due_at {
                    self.wake_at = Instant::now() + IDLE.min(Duration::from_millis(at.abs_diff(now)));
                }
                let due = due.into_iter().filter(|delivery| !self.in_flight.contains(&delivery.position));
                let due: Vec<Delivery> = due.take(free).collect();
                due.into_iter().for_each(|delivery| self.send(delivery));
            }
            Err(error) => {
                warn!(webhook = %self.webhook.name, "deliveries to {} are paused: {error}", self.webhook.name);
                self.wake_at = Instant::now() + AFTER_READ_ERROR;
            }
        }
    }

    fn send(&mut self, delivery: Delivery) {
        self.in_flight.insert(delivery.position);
        let (http, webhook, timeout) = (self.http.clone(), self.webhook.clone(), self.options.attempt_timeout);
        let (store, settings) = (self.store.clone(), self.options.settings.clone());
        self.steps.spawn(async move {
            let left_at = Instant::now();
            let outcome = match (&webhook.format, settings) {
                (Format::TwilioStatusOfCalls, Some(settings)) => {
                    let posted = status_of_calls::post(&store, &settings, &delivery);
                    match tokio::time::timeout(timeout, posted).await {
                        Ok(outcome) => outcome,
                        Err(_) => Outcome::Lost { error: "no answer in time".to_owned() },
                    }
                }
                _ => attempt::post(&http, &store, &webhook, &delivery, timeout).await,
            };
            Step::Tried { delivery, left_at, outcome }
        });
    }

    fn take(&mut self, step: Result<Step, JoinError>) {
        match step {
            Ok(Step::Tried { delivery, left_at, outcome }) => self.tried(&delivery, left_at, outcome),
            Ok(Step::Settled { position }) => drop(self.in_flight.remove(&position)),
            Ok(Step::Kept) => {}
            // The event stays in flight until a restart; nothing else is affected.
            Err(failure) => error!("bug: a delivery ended after a panic: {failure}"),
        }
    }

    fn tried(&mut self, delivery: &Delivery, left_at: Instant, outcome: Outcome) {
        let settlement = match outcome {
            Outcome::Acknowledged => self.acknowledged(),
            Outcome::Lost { error } => Settlement::Dead { error },
            Outcome::Failed { error, retry_after } => self.failed(delivery, left_at, error, retry_after),
        };
        let result = match settlement {
            Settlement::Delivered => "delivered",
            Settlement::Again { .. } => "failed",
            Settlement::Dead { .. } => "dead",
        };
        metrics::counter!("patchcord_event_deliveries_total", "result" => result).increment(1);
        let (store, webhook, position) = (self.store.clone(), self.webhook.clone(), delivery.position);
        self.steps.spawn(async move {
            if let Err(error) = store.settle(&webhook.name, position, settlement).await {
                warn!(webhook = %webhook.name, "an event may be delivered twice: {error}");
            }
            Step::Settled { position }
        });
    }

    fn acknowledged(&mut self) -> Settlement {
        if self.gate.succeeded() {
            info!(webhook = %self.webhook.name, "webhook {} answers again", self.webhook.name);
            let (store, webhook) = (self.store.clone(), self.webhook.clone());
            self.steps.spawn(async move {
                // On an error, waiting events leave at their own times.
                let _ = store.hurry(&webhook.name, store.delivery_ms()).await;
                Step::Kept
            });
        }
        Settlement::Delivered
    }

    fn failed(
        &mut self,
        delivery: &Delivery,
        left_at: Instant,
        error: String,
        retry_after: Option<Duration>,
    ) -> Settlement {
        let options = self.options.clone();
        let retry_after = retry_after.map(|wish| wish.min(options.longest_backoff));
        if let Some(closing) = self.gate.failed(left_at) {
            self.close(closing, &error);
        }
        if let Some(wish) = retry_after {
            self.gate.close(Instant::now(), Instant::now() + wish);
        }
        let now = self.store.delivery_ms();
        if now - delivery.queued_at >= ms(options.give_up_after) {
            warn!(
                webhook = %self.webhook.name,
                "event {} is a dead letter after {} attempts: {error}", delivery.id, delivery.attempts + 1
            );
            return Settlement::Dead { error };
        }
        let wait =
            backoff::wait(options.first_backoff, options.longest_backoff, delivery.attempts + 1, &mut self.chance);
        Settlement::Again { due_at: now + ms(wait.max(retry_after.unwrap_or_default())), error }
    }

    /// The endpoint is down: it is probed now and then, and events that have waited for too long become dead letters.
    fn close(&mut self, closing: u32, error: &str) {
        let options = &self.options;
        let wait = backoff::wait(options.first_backoff, options.longest_probe, closing, &mut self.chance);
        self.gate.close(Instant::now(), Instant::now() + wait);
        if closing == 1 {
            warn!(
                webhook = %self.webhook.name,
                "webhook {} is down ({error}): events wait while it is probed", self.webhook.name
            );
        }
        let (store, webhook, error) = (self.store.clone(), self.webhook.clone(), error.to_owned());
        let queued_before = store.delivery_ms() - ms(options.give_up_after);
        self.steps.spawn(async move {
            match store.give_up(&webhook.name, queued_before, &error).await {
                Ok(0) | Err(_) => {}
                Ok(dead) => warn!(webhook = %webhook.name, "{dead} events are dead letters: {error}"),
            }
            Step::Kept
        });
    }
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
