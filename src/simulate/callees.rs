//! People whom the business may call, who do what one request says, `POST /callees`: they pick up, decline, or let it ring.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions};
use patchcord_simulator::speech::Speech;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::browser_phone::RelayRole;
use super::order::{
    CALLER_NAME, CALLER_NUMBER, LONGEST_CALL, check_caller, check_digits, read_speech, report, user_id,
};
use super::{CALLS_AT_ONCE, Simulation};

/// People at once; one more is refused.
const MOST_CALLEES: usize = 64;
/// Reports of one person's calls; the oldest is forgotten.
const REPORTS: usize = 64;
/// Somebody who lets it ring does so for longer than any phone rings.
const RINGS_FOR: Duration = Duration::from_secs(180);

pub(super) fn routes() -> Router<Arc<Simulation>> {
    Router::new().route("/callees", post(add)).route("/callees/{number}", get(show).delete(remove))
}

/// The body of `POST /callees`; every field is optional.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CalleeOrder {
    /// The person's number, digits.
    number: String,
    /// The person's profile name.
    name: String,
    /// What becomes of each call.
    does: Does,
    /// How long it rings before that.
    after_seconds: f64,
    /// A local WAV file with what the person says, as of `POST /calls`.
    speech: Option<PathBuf>,
    /// Repeats the speech.
    repeat: bool,
    /// The person hangs up this many seconds after picking up.
    seconds: f64,
    /// Keys pressed a second after picking up.
    digits: String,
    /// The DTLS role of Meta's relay.
    relay: RelayRole,
}

/// What somebody does with a call.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Does {
    PicksUp,
    Declines,
    LetsItRing,
}

impl Default for CalleeOrder {
    fn default() -> Self {
        Self {
            number: CALLER_NUMBER.to_owned(),
            name: CALLER_NAME.to_owned(),
            does: Does::PicksUp,
            after_seconds: 2.0,
            speech: None,
            repeat: false,
            seconds: 15.0,
            digits: String::new(),
            relay: RelayRole::default(),
        }
    }
}

/// The people, by number.
#[derive(Default)]
pub(super) struct Callees(Mutex<BTreeMap<String, Person>>);

/// Somebody who waits for calls until this is dropped.
struct Person {
    reports: Arc<Mutex<VecDeque<Value>>>,
    waiting: AbortHandle,
}

impl Drop for Person {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

impl Callees {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Person>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refused request, with a sentence for the developer.
type Refused = (StatusCode, String);

fn refused(status: StatusCode, sentence: &str) -> Refused {
    (status, format!("{sentence}\n"))
}

async fn add(State(simulation): State<Arc<Simulation>>, body: String) -> Result<(StatusCode, Json<Value>), Refused> {
    let order = CalleeOrder::read(&body).map_err(|sentence| refused(StatusCode::BAD_REQUEST, &sentence))?;
    let path = order.speech.clone();
    // Reading the file may block, and encoding takes time.
    let speech = tokio::task::spawn_blocking(move || path.map_or(Ok(Speech::caller()), |path| read_speech(&path)));
    let speech = speech.await.unwrap_or_else(|error| Err(error.into()));
    let speech = speech.map_err(|error| refused(StatusCode::BAD_REQUEST, &format!("speech: {error:#}")))?;
    let speech = if order.repeat { speech.looped() } else { speech };
    let person = CallerOptions {
        from: Some(order.number.clone()),
        user_id: Some(user_id(&order.number)),
        name: order.name.clone(),
        speech,
        ..CallerOptions::default()
    };
    let options = CalleeOptions { person, setup: order.relay.setup(), webhooks: AnswerWebhooks::AfterReply };
    let mut callees = simulation.callees.lock();
    if callees.len() >= MOST_CALLEES && !callees.contains_key(&order.number) {
        let sentence = format!("{MOST_CALLEES} people wait for calls: DELETE /callees/NUMBER removes one");
        return Err(refused(StatusCode::TOO_MANY_REQUESTS, &sentence));
    }
    let (number, reports) = (order.number.clone(), Arc::<Mutex<VecDeque<Value>>>::default());
    let callee = simulation.meta.permit(options);
    let waiting = tokio::spawn(wait(simulation.clone(), callee, order, reports.clone())).abort_handle();
    callees.insert(number.clone(), Person { reports, waiting });
    Ok((StatusCode::CREATED, Json(json!({ "number": number }))))
}

/// The reports of the person's calls that are over, the first one first.
async fn show(State(simulation): State<Arc<Simulation>>, Path(number): Path<String>) -> Result<Json<Value>, Refused> {
    let callees = simulation.callees.lock();
    let person = callees.get(&number).ok_or_else(|| nobody(&number))?;
    let reports = person.reports.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Json(json!({ "number": number, "calls": *reports })))
}

async fn remove(State(simulation): State<Arc<Simulation>>, Path(number): Path<String>) -> Result<StatusCode, Refused> {
    let person = simulation.callees.lock().remove(&number);
    [&number, &user_id(&number)].into_iter().for_each(|key| simulation.meta.withdraw(key));
    person.map(|_| StatusCode::NO_CONTENT).ok_or_else(|| nobody(&number))
}

fn nobody(number: &str) -> Refused {
    let shown: String = number.chars().filter(char::is_ascii_digit).take(15).collect();
    refused(StatusCode::NOT_FOUND, &format!("nobody with the number {shown:?} waits for calls: POST /callees adds one"))
}

/// Takes the calls of one person, one after the other.
async fn wait(simulation: Arc<Simulation>, callee: Callee, order: CalleeOrder, reports: Arc<Mutex<VecDeque<Value>>>) {
    while let Some(call) = callee.call().await {
        let Ok(_seat) = simulation.free.try_acquire() else {
            tracing::warn!("{CALLS_AT_ONCE} calls are under way: a call to a callee is declined");
            // The service learns of it, or of the end of its media.
            let _ = call.decline().await;
            continue;
        };
        let report =
            match order.take(&call).await.and_then(|()| report(&call, &simulation.output, &simulation.agent_news)) {
                Ok(report) => report,
                Err(error) => json!({ "error": format!("{error:#}") }),
            };
        let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= REPORTS {
            reports.pop_front();
        }
        reports.push_back(report);
    }
}

impl CalleeOrder {
    /// The error is a sentence.
    fn read(body: &str) -> Result<Self, String> {
        let order: Self = match body.trim() {
            "" => Self::default(),
            text => serde_json::from_str(text).map_err(|error| format!("the body: {error}"))?,
        };
        check_caller(&order.number, &order.name).map_err(|sentence| sentence.replacen("from:", "number:", 1))?;
        check_digits(&order.digits)?;
        // Not a number is in no range.
        if order.seconds <= 0.0 || !(0.0..=LONGEST_CALL).contains(&order.seconds) {
            return Err(format!("seconds: give a number above 0, at most {LONGEST_CALL}"));
        }
        let longest = RINGS_FOR.as_secs_f64();
        if !(0.0..=longest).contains(&order.after_seconds) {
            return Err(format!("after_seconds: give a number from 0 to {longest}"));
        }
        Ok(order)
    }

    /// One call to its end.
    async fn take(&self, call: &Call) -> anyhow::Result<()> {
        let rings_for = match self.does {
            Does::PicksUp | Does::Declines => Duration::from_secs_f64(self.after_seconds),
            Does::LetsItRing => RINGS_FOR,
        };
        if call.wait_until_within(Stage::Ended, rings_for).await.is_ok() {
            return Ok(());
        }
        match self.does {
            Does::PicksUp => call.pick_up().await?,
            Does::Declines | Does::LetsItRing => return call.decline().await.map(drop),
        };
        if !self.digits.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            call.send_dtmf(&self.digits).await;
        }
        if call.wait_until_within(Stage::Ended, Duration::from_secs_f64(self.seconds)).await.is_err() {
            call.hang_up().await?;
        }
        Ok(())
    }
}
