//! `/v1/calls/{call_id}/media`: the application opens the WebSocket of a call, as its agent or as a participant.
//!
//! An app with an API key asks for a token, or gets one with the call to decide. Opening the socket takes the token alone.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use utoipa::{IntoParams, ToSchema};

use super::calls::{no_such_call, problem};
use super::idempotency::HoldsSecret;
use super::{Api, read_object};
use crate::agent::DialectName;
use crate::browser::token::WebRtcRole;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::media_sockets::{GOOD_FOR, MediaGrant, MediaTokenError};
use crate::clock;
use crate::http::error::{ApiError, Problem};
use crate::http::server::{Connection, leave_http};

/// What a socket may be in the call.
#[derive(Deserialize, ToSchema)]
pub(super) struct MediaTokenRequest {
    role: WebRtcRole,
    /// The protocol on the socket, such as `native` or `twilio`; without it that of the route, or what the socket asks for.
    dialect: Option<String>,
}

/// A token for one media socket.
#[derive(Serialize, ToSchema)]
pub(super) struct MediaTokenView {
    /// For one socket.
    token: String,
    /// Where it is opened: an address, or only the path if `http.public_url` is not configured.
    #[schema(example = "wss://calls.example.com/v1/calls/call_01jd…/media")]
    url: String,
    /// How long the token may be used.
    expires_in_s: u64,
}

/// How a socket shows its token and what it speaks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MediaQuery {
    /// The token, for clients that send no `Authorization: Bearer`. A proxy may log it.
    token: Option<String>,
    /// The protocol on the socket, such as `native` or `twilio`.
    dialect: Option<String>,
}

/// Make a token for a media socket
///
/// It opens `/v1/calls/{call_id}/media` once, within a minute, without a key.
#[utoipa::path(post, path = "/v1/calls/{call_id}/media_tokens", tag = "calls", params(("call_id" = String, Path)),
    request_body = MediaTokenRequest, responses(
    (status = 201, description = "The token", body = MediaTokenView),
    (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "`call_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`call_ended`, `response_not_kept`", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`invalid_command`: the role or dialect cannot be used", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`too_many_tokens`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn make_token(
    State(api): State<Arc<Api>>,
    Path(call_id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Extension<HoldsSecret>, Json<MediaTokenView>), ApiError> {
    let call = CallId::parse(&call_id).ok_or_else(|| problem(no_such_call(), None))?;
    let wrong = |text: String| problem(Refusal::new(RefusalCode::InvalidCommand, text), None);
    let wanted: MediaTokenRequest =
        serde_json::from_value(Value::Object(read_object(&body)?)).map_err(|error| wrong(error.to_string()))?;
    let dialect = wanted.dialect.as_deref().map(read_dialect).transpose().map_err(wrong)?;
    api.options.calls.is_live(&call).map_err(|refusal| problem(refusal, None))?;
    let sockets = api.options.calls.media_sockets();
    let url = sockets.url_of(&call);
    let token = sockets
        .issue(MediaGrant { call, role: wanted.role, dialect }, clock::now())
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_tokens", error.to_string()))?;
    let view = MediaTokenView { token, url, expires_in_s: GOOD_FOR.as_secs() };
    Ok((StatusCode::CREATED, Extension(HoldsSecret), Json(view)))
}

/// Open a media socket
///
/// A WebSocket. As agent it is the one that the call waits for, or replaces the present agent; a call that rings is
/// accepted. The protocol is the route's, or the one that the token or `dialect` names.
#[utoipa::path(get, path = "/v1/calls/{call_id}/media", tag = "calls", params(("call_id" = String, Path), MediaQuery),
    responses(
    (status = 101, description = "The WebSocket is open"),
    (status = 400, description = "`not_a_websocket`, `unknown_dialect`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "`call_not_found`: also for the token of another call", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`token_used`, `call_ended`, `call_not_accepted`, `too_many_guests`, `too_many_attempts`", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "`no_answer`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Path(call_id): Path<String>,
    Query(query): Query<MediaQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let opened = try_open(&api, &call_id, &query, request).await;
    let outcome = opened.as_ref().map_or_else(|error| error.code, |_| "opened");
    metrics::counter!("patchcord_media_sockets_total", "outcome" => outcome).increment(1);
    opened
}

async fn try_open(api: &Api, call_id: &str, query: &MediaQuery, mut request: Request) -> Result<Response, ApiError> {
    let call = CallId::parse(call_id).ok_or_else(|| problem(no_such_call(), None))?;
    let sockets = api.options.calls.media_sockets();
    let token = token_of(request.headers(), query)?;
    let allowed = sockets.check(&token, &call, clock::now()).map_err(token_refused)?;
    let bad = |code, detail: String| ApiError::new(StatusCode::BAD_REQUEST, code, detail);
    let mut response = create_response_with_body(&request, Body::empty)
        .map_err(|error| bad("not_a_websocket", format!("open this with a WebSocket: {error}")))?;
    let asked = query.dialect.as_deref().map(read_dialect).transpose().map_err(|why| bad("unknown_dialect", why))?;
    if let (Some(fixed), Some(asked)) = (allowed.dialect, asked)
        && fixed != asked
    {
        let detail = format!("the token is for dialect={}: leave dialect out", fixed.name());
        return Err(bad("unknown_dialect", detail));
    }
    let grant = sockets.redeem(&token, &call, clock::now()).map_err(token_refused)?;
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.is_now_known();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let seated = api.options.calls.seat_socket(grant, asked, Box::pin(leave_http(upgrade))).await;
    let dialect = seated.map_err(|refusal| problem(refusal, None))?;
    if let Some(subprotocol) = subprotocol(request.headers(), dialect) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok(response)
}

fn token_of(headers: &HeaderMap, query: &MediaQuery) -> Result<String, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|header| header.split_once(' '));
    let shown = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let advice = "send the socket's token as Authorization: Bearer patchcordmedia_…, or as ?token=";
    shown.or(query.token.as_deref()).map(str::to_owned).ok_or_else(|| unauthorized("token_missing", advice))
}

fn token_refused(error: MediaTokenError) -> ApiError {
    match error {
        MediaTokenError::Unknown => unauthorized("token_unknown", &error.to_string()),
        // Whether the other call exists is not told.
        MediaTokenError::WrongCall => problem(no_such_call(), None),
        MediaTokenError::Used => ApiError::new(StatusCode::CONFLICT, "token_used", error.to_string()),
    }
}

fn unauthorized(code: &'static str, detail: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"patchcord\""))
}

fn read_dialect(name: &str) -> Result<DialectName, String> {
    let names = || DialectName::ALL.iter().map(|dialect| dialect.name()).collect::<Vec<_>>().join(", ");
    DialectName::of_name(name).ok_or_else(|| format!("there is no such dialect: give one of {}", names()))
}

/// The first of the dialect's subprotocols that the client offers. A client that offers none of them goes on without.
fn subprotocol(headers: &HeaderMap, dialect: DialectName) -> Option<&'static str> {
    let offered: Vec<_> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    dialect.subprotocols().iter().copied().find(|ours| offered.contains(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_is_one_that_the_client_offers() {
        let headers =
            |text: &'static str| HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(text))]);
        assert_eq!(subprotocol(&headers("chat, patchcord.v1"), DialectName::Native), Some("patchcord.v1"));
        assert_eq!(subprotocol(&headers("media"), DialectName::AsteriskJson), Some("media"));
        assert_eq!(subprotocol(&headers("chat"), DialectName::Native), None);
        assert_eq!(subprotocol(&HeaderMap::new(), DialectName::Twilio), None);
    }
}
