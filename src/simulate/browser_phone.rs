//! The phone page as somebody whom the business may call: its calls ring in a stream of events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use futures_util::Stream;
use patchcord_simulator::browser::incoming::{BrowserPhone, RingingCall};
use patchcord_simulator::call::CallerOptions;
use patchcord_simulator::callee::{CalleeOptions, Setup};
use serde::Deserialize;
use serde_json::json;

use super::Simulation;
use super::order::{CALLER_NAME, CALLER_NUMBER, check_caller};
use crate::http::error::ApiError;

/// Shows a page that has gone without closing its connection.
const COMMENT_EVERY: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Router<Arc<Simulation>> {
    Router::new().route("/api/phone", get(ring))
}

/// Who is called, and how Meta's relay behaves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PhoneQuery {
    number: String,
    name: String,
    relay: RelayRole,
}

impl Default for PhoneQuery {
    fn default() -> Self {
        Self { number: CALLER_NUMBER.to_owned(), name: CALLER_NAME.to_owned(), relay: RelayRole::Passive }
    }
}

/// The DTLS role in the answer to the business.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RelayRole {
    /// The service opens DTLS.
    #[default]
    Passive,
    /// The relay does.
    Active,
}

impl RelayRole {
    pub(super) fn setup(self) -> Setup {
        match self {
            Self::Passive => Setup::Passive,
            Self::Active => Setup::Active,
        }
    }
}

/// The person may be called as long as the stream is read.
async fn ring(
    State(simulation): State<Arc<Simulation>>,
    Query(query): Query<PhoneQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    check_caller(&query.number, &query.name)
        .map_err(|sentence| ApiError::new(StatusCode::BAD_REQUEST, "invalid_phone", sentence))?;
    let person = CallerOptions { from: Some(query.number), name: query.name, ..CallerOptions::default() };
    let callee = CalleeOptions { person, setup: query.relay.setup(), ..CalleeOptions::default() };
    let phone = simulation.meta.open_browser_phone(callee);
    let stream = futures_util::stream::unfold((phone, simulation), |(phone, simulation)| async move {
        let event = simulation.next_ring(&phone).await?;
        Some((Ok(event), (phone, simulation)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(COMMENT_EVERY)))
}

impl Simulation {
    /// None once the simulator stops.
    async fn next_ring(&self, phone: &BrowserPhone) -> Option<Event> {
        let mut stopping = self.stopping.subscribe();
        loop {
            let RingingCall { offer, call, .. } = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                ringing = phone.next_call() => ringing?,
            };
            let Ok(seat) = self.free.clone().try_acquire_owned() else {
                call.hang_up();
                continue;
            };
            let number = &self.meta.options().display_phone_number;
            let id = self.keep(call, seat);
            let data = json!({ "call": id, "sdp": offer, "from": number });
            return Some(Event::default().event("ring").data(data.to_string()));
        }
    }
}
