//! `/v1/permissions`: who may be called from which number, and requests to be permitted to.

#![expect(unused_qualifications, reason = "utoipa writes them")]

mod view;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::calls::problem;
use super::{Api, read_object, stored};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::http::error::{ApiError, Problem};
use crate::permissions::{PermissionRequest, RequestMessage, TemplateMessage};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::Callee;
use view::{PermissionView, RequestView};

/// The longest name of a template and of a language, in bytes. Source: Meta, "Message templates": 512.
const MAX_NAME: usize = 512;
/// The components of a template: a header, a body and ten buttons.
const MAX_COMPONENTS: usize = 12;

/// Which number, and whether Graph is asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PermissionQuery {
    /// The business number, by Meta's id. May be left out if there is only one.
    phone_number_id: Option<String>,
    /// `true`: ask Meta, whatever the ledger knows.
    #[serde(default)]
    refresh: bool,
}

/// A permission request.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestPermission {
    /// The phone number of the person, with its country code. Give this or `to_user_id`.
    #[schema(example = "12025550143", pattern = r"^\+?[1-9][0-9]{4,14}$")]
    to: Option<String>,
    /// The person by Meta's business-scoped user id.
    #[schema(example = "US.13491208655302741918")]
    to_user_id: Option<String>,
    /// The business number that asks, by Meta's id. May be left out if there is only one.
    phone_number_id: Option<String>,
    /// The words above the buttons of a free-form message. It may be left out. Meta delivers a free-form message within
    /// 24 h of the person's last message.
    #[schema(max_length = 1024, example = "May we call you about your order?")]
    body: Option<String>,
    /// A template with a call permission request, in place of the free-form message: it may be sent at any time.
    template: Option<TemplateOf>,
}

/// A message template.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateOf {
    /// Its name.
    #[schema(example = "may_we_call")]
    name: String,
    /// The code of its language.
    #[schema(example = "en_US")]
    language: String,
    /// What fills its variables, in Meta's form.
    #[serde(default)]
    #[schema(value_type = Vec<Object>, max_items = 12)]
    components: Vec<Value>,
}

/// Look up a permission
///
/// What is known of a person's permission to be called from one of your numbers, and what Meta's limits allow now. The ledger
/// answers; where it knows nothing, where a permission has run out, and where the last word is an old one of Meta's, Meta is
/// asked (`call_permissions`). `user` is a phone number or a business-scoped user id.
#[utoipa::path(get, path = "/v1/permissions/{user}", tag = "permissions",
    params(("user" = String, Path, example = "12025550143"), PermissionQuery),
    responses(
        (status = 200, description = "The permission", body = PermissionView),
        (status = 400, description = "`bad_request`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`country_not_supported`, `calling_paused`, `person_unreachable`: Meta's word", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`, `unknown_number`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "`lookup_limit`: Meta takes 5 look-ups a second", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`refused_by_meta`, `meta_unavailable`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Path(user): Path<String>,
    Query(query): Query<PermissionQuery>,
) -> Result<Json<PermissionView>, ApiError> {
    let person = person(&user).map_err(|advice| refused(&format!("user: {advice}")))?;
    let id = number_id(query.phone_number_id.as_deref())?;
    let number = api.options.calls.number(id.as_ref()).map_err(|refusal| problem(refusal, None))?;
    let found = stored_slowly(api.options.permissions.look(&number, &person, query.refresh)).await?;
    let found = found.map_err(|refusal| problem(refusal, None))?;
    Ok(Json(PermissionView::of(&found)))
}

/// Ask for permission
///
/// Sends the person a message with the buttons to permit calls or not. The reply comes as the event `permission.granted` or
/// `permission.denied`, whose `request_id` is `message_id` of this response. Meta allows one request in 24 h and two in
/// 7 days for each person; a connected call begins the count anew.
#[utoipa::path(post, path = "/v1/permissions/requests", tag = "permissions",
    request_body(content = RequestPermission, content_type = "application/json"),
    responses(
        (status = 201, description = "Meta has the message", body = RequestView),
        (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`request_limit`, `already_permitted`, `country_not_supported`, `calling_paused`, `person_unreachable`, `no_permission`, `call_limit`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`, `unknown_number`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "`lookup_limit`", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`refused_by_meta`: see `meta_error_code`; `meta_unavailable`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn request(
    State(api): State<Arc<Api>>,
    Extension(_): Extension<Arc<Caller>>,
    body: Bytes,
) -> Result<(StatusCode, Json<RequestView>), ApiError> {
    let body = Value::Object(read_object(&body)?);
    let wanted: RequestPermission = serde_json::from_value(body).map_err(|error| refused(&error.to_string()))?;
    let id = number_id(wanted.phone_number_id.as_deref())?;
    let number = api.options.calls.number(id.as_ref()).map_err(|refusal| problem(refusal, None))?;
    let order = wanted.read().map_err(|advice| refused(&advice))?;
    let sent = stored_slowly(api.options.permissions.request(&number, &order)).await?;
    let sent = sent.map_err(|refusal| problem(refusal, None))?;
    Ok((StatusCode::CREATED, Json(RequestView::of(sent, number.phone_number_id.as_str()))))
}

impl RequestPermission {
    fn read(self) -> Result<PermissionRequest, String> {
        let to = match (self.to, self.to_user_id) {
            (Some(to), None) => Callee::number(&to).map_err(|advice| format!("to: {advice}"))?,
            (None, Some(id)) => Callee::user_id(&id).map_err(|advice| format!("to_user_id: {advice}"))?,
            (None, None) => return Err("to: give the phone number of the person, or to_user_id".to_owned()),
            (Some(_), Some(_)) => return Err("to: give one of to and to_user_id".to_owned()),
        };
        let message = match (self.body, self.template) {
            (Some(_), Some(_)) => {
                return Err("body: leave it out, or leave out template, which has words of its own".to_owned());
            }
            (body, None) => {
                let most = RequestMessage::MAX_BODY_CHARS;
                let is_good = |text: &String| !text.trim().is_empty() && text.chars().count() <= most;
                if !body.as_ref().is_none_or(is_good) {
                    return Err(format!("body: give a text of 1 to {most} characters, or leave it out"));
                }
                RequestMessage::FreeForm { body }
            }
            (None, Some(template)) => RequestMessage::Template(template.read()?),
        };
        Ok(PermissionRequest { to, message })
    }
}

impl TemplateOf {
    fn read(self) -> Result<TemplateMessage, String> {
        let is_name = |text: &str| {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(is_word)
        };
        if !is_name(&self.name) {
            return Err("template.name: give the name of a template, such as may_we_call".to_owned());
        }
        if !is_name(&self.language) {
            return Err("template.language: give the code of a language, such as en_US".to_owned());
        }
        if self.components.len() > MAX_COMPONENTS || !self.components.iter().all(Value::is_object) {
            return Err(format!(
                "template.components: give a list of at most {MAX_COMPONENTS} objects, in Meta's form"
            ));
        }
        Ok(TemplateMessage { name: self.name, language: self.language, components: self.components })
    }
}

/// Digits are a phone number; everything else is a user id.
fn person(text: &str) -> Result<Callee, &'static str> {
    let is_number = text.strip_prefix('+').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Callee::number(text) } else { Callee::user_id(text) }
}

fn number_id(text: Option<&str>) -> Result<Option<PhoneNumberId>, ApiError> {
    let id = text.map(PhoneNumberId::parse).transpose();
    id.map_err(|_| refused("phone_number_id: give Meta's id, in digits"))
}

fn refused(advice: &str) -> ApiError {
    problem(Refusal::new(RefusalCode::InvalidCommand, advice), None)
}

/// Meta is asked meanwhile, which has deadlines of its own.
async fn stored_slowly<T>(look: impl Future<Output = Result<T, crate::store::StoreError>>) -> Result<T, ApiError> {
    let outcome = look.await;
    stored(std::future::ready(outcome)).await
}
