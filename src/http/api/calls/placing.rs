//! `POST /v1/calls`: call a WhatsApp user.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::auth::Caller;
use super::super::queued_calls::QueuedCallView;
use super::super::{Api, read_object};
use super::external::{self, NewCall, NewCallView};
use super::order::{self, USUAL_RING, order_body};
use super::problem;
use super::view::CallView;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::signaling::Signaling;
use crate::calls::origin::Placement;
use crate::calls::{CallOrder, Expiry, Queueing};
use crate::http::error::{ApiError, Problem};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::Callee;

order_body! {
    /// A call to be placed.
    PlaceCall {
        /// The phone number of the person, with its country code. Give this or `to_user_id`.
        #[schema(example = "12025550143", pattern = r"^\+?[1-9][0-9]{4,14}$")]
        to: Option<String>,
        /// The person by Meta's business-scoped user id.
        #[schema(example = "US.13491208655302741918")]
        to_user_id: Option<String>,
        /// The business number to call from, by Meta's id. May be left out if there is only one.
        phone_number_id: Option<String>,
        /// `now`, or `queued`: as soon as the limits of the number allow it; `now` if left out.
        #[schema(inline, value_type = Option<WhenName>)]
        when: Option<String>,
        /// For a queued call: from 0 to 9, the higher the earlier; 5 if left out.
        #[schema(maximum = 9)]
        priority: Option<u8>,
        /// For a queued call: how long it may wait, from `1s` to `24h`; `24h` if left out.
        #[schema(example = "2h", pattern = "^[0-9]+[smh]$")]
        expires_in: Option<String>,
        /// For a queued call, instead of `expires_in`: until when it may wait, at most a day ahead. RFC 3339, UTC.
        #[schema(example = "2026-01-31T18:00:00Z", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
        expires_at: Option<String>,
    }
}

/// When a call is placed.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "used by the OpenAPI document only")]
enum WhenName {
    Now,
    Queued,
}

/// The response: the call, or the place in the queue.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::http::api) enum Placed {
    Call(Box<NewCallView>),
    Queued(Box<QueuedCallView>),
}

/// Call a WhatsApp user, or have a call's media carried
///
/// The response comes before the phone rings; the course of the call comes in events: `call.ringing`, `call.accepted`,
/// `call.ended`. The person must have permitted calls from the number. Where it is known that Meta would refuse, the call is
/// refused here; else it ends with `no_permission`. See `/v1/permissions`.
///
/// With `"when": "queued"` the call waits in the store until the limits of its number allow it; it has its id and its first
/// event, `call.queued`, at once.
///
/// With `"signaling": "external"` your app exchanges the messages with Meta itself, and the response has our SDP for it, which
/// is the `answer` to Meta's offer or an `offer`. Report what follows with the actions `answer`, `ringing`, `accepted` and
/// `terminated`; `call.ready_to_accept` says when media and agent are ready.
#[utoipa::path(post, path = "/v1/calls", tag = "calls",
    request_body(content = NewCall, content_type = "application/json"),
    responses(
        (status = 201, description = "The call", body = NewCallView),
        (status = 202, description = "The queued call", body = QueuedCallView),
        (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`call_ended`: the call ended at once, or a call with this `wacid` has ended; `wacid_in_use`: `call_id` is the live call that has it. `no_permission`, `call_limit`, `country_not_supported`, `calling_paused`: known without asking Meta; see `next_allowed_at`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`, `unknown_number`, `unknown_route`, `unknown_queue`, `unknown_agent`, `invalid_url`, `url_not_allowed`, `url_unresolved`, `offer_refused`: what is wrong with the SDP", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "`number_rate_limited`, `number_day_limit`, `number_busy`, `queue_full`: the limits of the number; see `Retry-After`", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "`internal_error`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`overloaded`, `shutting_down`; `store_unavailable`: the call cannot be queued", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "`no_answer`: the call did not answer in time", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http::api) async fn place(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Placed>), ApiError> {
    let mut body = read_object(&body)?;
    match external::signaling_of(&mut body).map_err(|refusal| problem(refusal, None))? {
        Signaling::External => {
            let (status, Json(call)) = external::take(&api, &caller, body).await?;
            return Ok((status, Json(Placed::Call(Box::new(call)))));
        }
        Signaling::Graph => {}
    }
    let wanted: PlaceCall =
        serde_json::from_value(Value::Object(body)).map_err(|error| problem(invalid(error.to_string()), None))?;
    let queueing = wanted.queueing().map_err(|advice| problem(invalid(advice), None))?;
    let order = wanted.read().map_err(|advice| problem(invalid(advice), None))?;
    let (calls, hosts) = (&api.options.calls, caller.hosts());
    let refused = |refusal| problem(refusal, None);
    match queueing {
        None => {
            let call = calls.place(order, hosts).await.map_err(refused)?;
            let call = NewCallView::placed(CallView::of_live(&call));
            Ok((StatusCode::CREATED, Json(Placed::Call(Box::new(call)))))
        }
        Some(queueing) => {
            let call = calls.queue(order, hosts, queueing).await.map_err(refused)?;
            Ok((StatusCode::ACCEPTED, Json(Placed::Queued(Box::new(QueuedCallView::of(call))))))
        }
    }
}

impl PlaceCall {
    /// How the call waits; None if it is placed at once.
    fn queueing(&self) -> Result<Option<Queueing>, String> {
        let is_queued = match self.when.as_deref() {
            None | Some("now") => false,
            Some("queued") => true,
            Some(_) => return Err("when: give now or queued".to_owned()),
        };
        let given = [
            ("priority", self.priority.is_some()),
            ("expires_in", self.expires_in.is_some()),
            ("expires_at", self.expires_at.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(_, is_given)| *is_given && !is_queued) {
            return Err(format!("{key}: give it with \"when\": \"queued\" only"));
        }
        let usual = Queueing::default();
        let priority = self.priority.unwrap_or(usual.priority);
        if priority > Queueing::HIGHEST {
            return Err(format!("priority: give a whole number from 0 to {}", Queueing::HIGHEST));
        }
        let expiry = match (&self.expires_in, &self.expires_at) {
            (None, None) => usual.expiry,
            (Some(text), None) => {
                let advice = "expires_in: give a time such as \"30m\" or \"2h\"";
                Expiry::In(humantime::parse_duration(text).map_err(|_| advice.to_owned())?)
            }
            (None, Some(text)) => {
                let advice = "expires_at: give a time such as 2026-01-31T18:00:00Z";
                Expiry::At(humantime::parse_rfc3339(text).map_err(|_| advice.to_owned())?)
            }
            (Some(_), Some(_)) => return Err("expires_at: give one of expires_in and expires_at".to_owned()),
        };
        Ok(is_queued.then_some(Queueing { priority, expiry }))
    }

    fn read(mut self) -> Result<CallOrder, String> {
        let common = self.take_common()?;
        let callee = match (self.to, self.to_user_id) {
            (Some(to), None) => Callee::number(&to).map_err(|advice| format!("to: {advice}"))?,
            (None, Some(id)) => Callee::user_id(&id).map_err(|advice| format!("to_user_id: {advice}"))?,
            (None, None) => return Err("to: give the phone number of the person, or to_user_id".to_owned()),
            (Some(_), Some(_)) => return Err("to: give one of to and to_user_id".to_owned()),
        };
        let phone_number_id = self.phone_number_id.as_deref().map(PhoneNumberId::parse).transpose();
        Ok(CallOrder {
            placement: Placement {
                callee,
                tracker: common.tracker,
                ring_timeout: common.ring_timeout.unwrap_or(USUAL_RING),
            },
            phone_number_id: phone_number_id.map_err(|_| "phone_number_id: give Meta's id, in digits".to_owned())?,
            agents: common.agents,
            parameters: common.parameters,
            client_state: common.client_state,
            status_callback: None,
        })
    }
}

pub(super) fn invalid(advice: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidCommand, advice)
}
