//! `/v1/calls/{call_id}/webrtc`: a page becomes an agent or participant of a live call, as WHIP (RFC 9725) does it.
//!
//! An app with an API key asks for a token; the page offers with it, and shows it again for candidates and to leave.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, LOCATION, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use patchcord_media::sdp::{Fragment, Offer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::calls::{no_such_call, problem};
use super::idempotency::HoldsSecret;
use super::{Api, header_value, read_object};
use crate::agent::BrowserId;
use crate::browser::token::{GOOD_FOR, Grant, TokenDigest, TokenError, WebRtcRole};
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::http::error::{ApiError, Problem};
use crate::http::server::Connection;
use crate::worker::TakenFragment;

/// The largest SDP or fragment, which is also the parser's limit.
pub(super) const BODY_LIMIT_BYTES: usize = 64 * 1024;
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// What a page may be in the call.
#[derive(Deserialize, ToSchema)]
pub(super) struct TokenRequest {
    role: WebRtcRole,
    /// The token is for pages of this origin alone.
    #[schema(example = "https://app.example.com")]
    origin: Option<String>,
}

/// A token for one WebRTC session.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    /// For one offer; then for that session.
    token: String,
    /// How long it may be used for an offer.
    expires_in_s: u64,
}

/// Make a token for a page
///
/// The page offers with it to `/v1/calls/{call_id}/webrtc` within a minute, and needs no key.
#[utoipa::path(post, path = "/v1/calls/{call_id}/webrtc_tokens", tag = "webrtc", params(("call_id" = String, Path)),
    request_body = TokenRequest, responses(
    (status = 201, description = "The token", body = TokenView),
    (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "`call_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`call_ended`, `response_not_kept`", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`invalid_command`: the role or origin cannot be used", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`too_many_tokens`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn make_token(
    State(api): State<Arc<Api>>,
    Path(call_id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Extension<HoldsSecret>, Json<TokenView>), ApiError> {
    let call = call_of(&call_id)?;
    let wanted: TokenRequest = serde_json::from_value(Value::Object(read_object(&body)?))
        .map_err(|error| problem(Refusal::new(RefusalCode::InvalidCommand, error.to_string()), None))?;
    api.options.calls.is_live(&call).map_err(|refusal| problem(refusal, None))?;
    let grant = Grant { call, role: wanted.role, origin: wanted.origin, agent: None };
    let token = api
        .tokens
        .issue(grant, clock::now())
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_tokens", error.to_string()))?;
    let view = TokenView { token, expires_in_s: GOOD_FOR.as_secs() };
    Ok((StatusCode::CREATED, Extension(HoldsSecret), Json(view)))
}

/// Offer as a page
///
/// The body is the page's SDP offer and the response our answer. As agent the page replaces the call's agent, and a call
/// that rings is accepted once the page is connected.
#[utoipa::path(post, path = "/v1/calls/{call_id}/webrtc", tag = "webrtc", params(("call_id" = String, Path)),
    request_body(content = String, content_type = "application/sdp"), responses(
    (status = 201, description = "The SDP answer; `Location` is the session, `ETag` its ICE session", body = String, content_type = "application/sdp"),
    (status = 404, description = "`call_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`call_ended`, `call_not_accepted`, `too_many_browsers`, `too_many_guests`, `too_many_attempts`", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`offer_refused`: the token stays good if the SDP cannot be read", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`no_media_port`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn offer(
    State(api): State<Arc<Api>>,
    Path(call_id): Path<String>,
    connection: Option<Extension<Arc<Connection>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let call = call_of(&call_id)?;
    let token = token_of(&headers)?;
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    api.tokens.check(token, &call, origin, clock::now()).map_err(token_refused)?;
    has_type(&headers, SDP)?;
    let offer = Offer::parse(text_of(&body)?).map_err(|error| offer_refused(&error))?;
    let grant = api.tokens.redeem(token, &call, origin, clock::now()).map_err(token_refused)?;
    if let Some(Extension(connection)) = connection {
        connection.is_now_known();
    }
    let role = grant.role;
    let answered = api.options.calls.answer_browser(Box::new(offer), grant, TokenDigest::of(token)).await;
    let outcome = answered.as_ref().map_or_else(|refusal| refusal.code.name(), |_| "answered");
    metrics::counter!("patchcord_webrtc_offers_total", "role" => role.name(), "outcome" => outcome).increment(1);
    let answer = answered.map_err(|refusal| problem(refusal, None))?;
    let location = format!("/v1/calls/{call}/webrtc/{}", answer.browser);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(SDP)),
        (LOCATION, header_value(&location)),
        (ETAG, quoted(&answer.etag)),
    ];
    Ok((StatusCode::CREATED, headers, answer.sdp).into_response())
}

/// Send candidates, or restart ICE
///
/// The body is an SDP fragment (RFC 8840). With the page's present ICE credentials its candidates are added; with new ones
/// ICE restarts and the response is our fragment.
#[utoipa::path(patch, path = "/v1/calls/{call_id}/webrtc/{session}", tag = "webrtc",
    params(("call_id" = String, Path), ("session" = u32, Path), ("If-Match" = String, Header, description = "The `ETag` of the ICE session, or `*`")),
    request_body(content = String, content_type = "application/trickle-ice-sdpfrag"), responses(
    (status = 200, description = "ICE restarts: our fragment, and the `ETag` of the new ICE session", body = String, content_type = "application/trickle-ice-sdpfrag"),
    (status = 204, description = "The candidates are added"),
    (status = 404, description = "`call_not_found`, `session_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`call_ended`", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "`precondition_failed`", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`offer_refused`", body = Problem, content_type = "application/problem+json"),
    (status = 428, description = "`if_match_missing`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn patch(
    State(api): State<Arc<Api>>,
    Path((call_id, session)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (call, session) = session_of(&call_id, &session, &headers)?;
    has_type(&headers, FRAGMENT)?;
    let etag = etag_of(&headers)?;
    let fragment = Fragment::parse(text_of(&body)?).map_err(|error| offer_refused(&error))?;
    let taken = api.options.calls.take_fragment(&call, session, etag, fragment).await;
    match taken.map_err(|refusal| problem(refusal, None))? {
        TakenFragment::Candidates => Ok(StatusCode::NO_CONTENT.into_response()),
        TakenFragment::Restarts { fragment, etag } => {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(FRAGMENT)), (ETAG, quoted(&etag))];
            Ok((headers, fragment).into_response())
        }
    }
}

/// Leave the call
///
/// An agent hangs up its part; a participant has left.
#[utoipa::path(delete, path = "/v1/calls/{call_id}/webrtc/{session}", tag = "webrtc",
    params(("call_id" = String, Path), ("session" = u32, Path)), responses(
    (status = 200, description = "The session is over"),
    (status = 404, description = "`call_not_found`, `session_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`call_ended`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn leave(
    State(api): State<Arc<Api>>,
    Path((call_id, session)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let (call, session) = session_of(&call_id, &session, &headers)?;
    let left = api.options.calls.browser_leaves(&call, session).await;
    left.map(|()| StatusCode::OK).map_err(|refusal| problem(refusal, None))
}

fn call_of(call_id: &str) -> Result<CallId, ApiError> {
    CallId::parse(call_id).ok_or_else(|| problem(no_such_call(), None))
}

fn session_of(
    call_id: &str,
    session: &str,
    headers: &HeaderMap,
) -> Result<(CallId, (BrowserId, TokenDigest)), ApiError> {
    let call = call_of(call_id)?;
    let token = TokenDigest::of(token_of(headers)?);
    let unknown = || Refusal::new(RefusalCode::SessionNotFound, "there is no such session");
    let session = session.parse().map_err(|_| problem(unknown(), None))?;
    Ok((call, (session, token)))
}

fn token_of(headers: &HeaderMap) -> Result<&str, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|header| header.split_once(' '));
    match bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, token)) => Ok(token.trim()),
        None => Err(unauthorized("token_missing", "send the session's token as Authorization: Bearer patchcordrtc_…")),
    }
}

fn token_refused(error: TokenError) -> ApiError {
    match error {
        TokenError::Unknown => unauthorized("token_unknown", &error.to_string()),
        TokenError::WrongCall => ApiError::new(StatusCode::FORBIDDEN, "token_for_another_call", error.to_string()),
        TokenError::WrongOrigin => ApiError::new(StatusCode::FORBIDDEN, "token_for_another_origin", error.to_string()),
    }
}

fn unauthorized(code: &'static str, detail: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"patchcord\""))
}

fn has_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    match given.eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("send the body as Content-Type: {wanted}"),
        )),
    }
}

/// None for `*`.
fn etag_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let missing = || {
        let detail = "send If-Match with the ETag of the session, or with * for an ICE restart";
        ApiError::new(StatusCode::PRECONDITION_REQUIRED, "if_match_missing", detail)
    };
    let given = headers.get(IF_MATCH).and_then(|value| value.to_str().ok()).ok_or_else(missing)?.trim();
    Ok((given != "*").then(|| given.trim_matches('"').to_owned()))
}

fn text_of(body: &Bytes) -> Result<&str, ApiError> {
    std::str::from_utf8(body).map_err(|_| offer_refused("the body is not UTF-8"))
}

fn offer_refused(error: &(impl ToString + ?Sized)) -> ApiError {
    problem(Refusal::new(RefusalCode::OfferRefused, error.to_string()), None)
}

fn quoted(etag: &str) -> HeaderValue {
    header_value(&format!("\"{etag}\""))
}
