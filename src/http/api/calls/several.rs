//! `POST /v1/calls/{call_id}/actions`: several actions in one request, in the form that a decision webhook answers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::auth::Caller;
use super::super::{Api, read_object};
use super::{perform, problem};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::decision_webhook::MAX_ACTIONS;
use crate::http::error::{ApiError, Problem};

/// Actions to perform in order.
#[derive(ToSchema)]
#[expect(dead_code, reason = "used by the OpenAPI document only")]
pub(in crate::http::api) struct Actions {
    /// Each has its `action` and the action's fields; at most 16.
    #[schema(max_items = 16, value_type = Vec<Object>, example = json!([{ "action": "play", "prompts": ["beep"] }, { "action": "start_recording" }]))]
    actions: Vec<Value>,
    /// Kept with the call.
    #[schema(max_length = 4096)]
    client_state: Option<String>,
}

/// The outcome of each action that was attempted.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct Results {
    results: Vec<ActionResult>,
}

/// The outcome of one action.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct ActionResult {
    action: String,
    ok: bool,
    /// Ids of what was begun.
    #[schema(value_type = Option<Object>)]
    data: Value,
    /// Why it was refused; the actions after it were not attempted.
    code: Option<&'static str>,
    /// What to do about it.
    message: Option<String>,
}

/// Perform several actions on a live call
///
/// They are performed in order, up to the first that is refused.
#[utoipa::path(post, path = "/v1/calls/{call_id}/actions", tag = "calls", params(("call_id" = String, Path)),
    request_body(content = Actions, content_type = "application/json"),
    responses(
        (status = 200, description = "The outcome of each", body = Results),
        (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`call_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`call_ended`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http::api) async fn act(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(call_id): Path<String>,
    body: Bytes,
) -> Result<Json<Results>, ApiError> {
    let mut body = read_object(&body)?;
    let actions = read(body.remove("actions")).map_err(|refusal| problem(refusal, None))?;
    let mut client_state = body.remove("client_state");
    let mut results = Vec::with_capacity(actions.len());
    for (action, mut needs) in actions {
        // Set with the first, so that the events of all actions carry it.
        if let Some(client_state) = client_state.take() {
            needs.insert("client_state".to_owned(), client_state);
        }
        let done = perform(&api.options, caller.hosts(), &call_id, &action, needs).await;
        let ok = done.is_ok();
        results.push(match done {
            // Not even the first action could be attempted.
            Err(refusal)
                if results.is_empty()
                    && [RefusalCode::CallNotFound, RefusalCode::CallEnded].contains(&refusal.code) =>
            {
                return Err(problem(refusal, None));
            }
            Ok(data) => ActionResult { action, ok, data, code: None, message: None },
            Err(refusal) => {
                let (code, message) = (Some(refusal.code.name()), Some(refusal.message));
                ActionResult { action, ok, data: Value::Null, code, message }
            }
        });
        if !ok {
            break;
        }
    }
    Ok(Json(Results { results }))
}

/// The names of the actions with their fields.
type Action = (String, Map<String, Value>);

fn read(actions: Option<Value>) -> Result<Vec<Action>, Refusal> {
    let invalid = |advice: String| Refusal::new(RefusalCode::InvalidCommand, advice);
    let Some(Value::Array(actions)) = actions else {
        return Err(invalid("actions: give a list".to_owned()));
    };
    if actions.is_empty() || actions.len() > MAX_ACTIONS {
        return Err(invalid(format!("actions: give 1 to {MAX_ACTIONS}")));
    }
    let read_one = |(index, action)| {
        let Value::Object(mut needs) = action else {
            return Err(invalid(format!("actions[{index}]: give an object")));
        };
        let Some(Value::String(name)) = needs.remove("action") else {
            return Err(invalid(format!("actions[{index}].action: give the name of an action")));
        };
        Ok((name, needs))
    };
    actions.into_iter().enumerate().map(read_one).collect()
}
