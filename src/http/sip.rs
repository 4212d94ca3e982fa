//! `/sip`: SIP phones in browsers open a WebSocket here (RFC 7118).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use url::{Origin, Url};

use super::HttpOptions;
use super::client_address::client_address;
use super::error::ApiError;
use super::server::{Connection, RemotePort};
use crate::sip::NoPermit;

/// RFC 7118 §4.1.
const SUBPROTOCOL: &str = "sip";

/// Opens a phone's socket.
pub(super) async fn open(State(options): State<Arc<HttpOptions>>, mut request: Request) -> Result<Response, ApiError> {
    let Some(user_agent) = options.phones.clone() else { return Err(refusal(NoPermit::Off)) };
    let bad = |code, detail: String| ApiError::new(StatusCode::BAD_REQUEST, code, detail);
    let mut response = create_response_with_body(&request, Body::empty)
        .map_err(|error| bad("not_a_websocket", format!("open this with a WebSocket: {error}")))?;
    if !offers_sip(request.headers()) {
        return Err(bad("no_subprotocol", "offer the WebSocket subprotocol \"sip\" (RFC 7118)".to_owned()));
    }
    if !is_of_our_origin(request.headers(), options.public_url.as_ref(), &options.allow_origins) {
        let advice = "pages of this origin may not open it: name the origin in http.allow_origins";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "origin_refused", advice));
    }
    let gone = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_connection", "the connection is unknown");
    let connection = request.extensions().get::<Arc<Connection>>().cloned().ok_or_else(gone)?;
    let RemotePort(port) = request.extensions().get::<RemotePort>().copied().ok_or_else(gone)?;
    let client = client_address(connection.from, request.headers(), &options.proxies).unwrap_or(connection.from);
    let permit = user_agent.websocket_permit(client).map_err(refusal)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let upgraded = async move { upgrade.await.ok().map(TokioIo::new) };
    user_agent.serve_websocket(upgraded, SocketAddr::new(client, port), permit, move || connection.is_now_known());
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn refusal(why: NoPermit) -> ApiError {
    match why {
        NoPermit::Off => {
            let advice = "SIP over WebSocket is off: set sip.websocket = true";
            ApiError::new(StatusCode::NOT_FOUND, "no_sip", advice)
        }
        NoPermit::Banned => {
            ApiError::new(StatusCode::FORBIDDEN, "banned", "this address sent too much that was refused: wait an hour")
        }
        NoPermit::Full => {
            let detail = "too many phones are connected: try again later";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_phones", detail)
        }
    }
}

fn offers_sip(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(SUBPROTOCOL))
}

/// Programs send no origin. Pages are ours, those of the public address, or those that may use the API too.
fn is_of_our_origin(headers: &HeaderMap, public_url: Option<&Url>, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let is_of = |origin_of: Origin| origin_of.is_tuple() && origin_of.ascii_serialization() == origin;
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    // Which scheme a proxy in front of us speaks is not known.
    let is_of_host = |host: &str| ["http", "https"].iter().any(|scheme| origin == format!("{scheme}://{host}"));
    allowed.iter().any(|one| one == origin)
        || public_url.is_some_and(|url| is_of(url.origin()))
        || host.is_some_and(is_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_subprotocol_is_found_among_others() {
        for (offered, is_sip) in [("sip", true), ("chat, SIP", true), ("sips", false), ("", false)] {
            assert_eq!(offers_sip(&headers(&[("sec-websocket-protocol", offered)])), is_sip, "{offered:?}");
        }
        assert!(!offers_sip(&HeaderMap::new()));
    }

    #[test]
    fn pages_of_our_own_and_of_allowed_origins_are_let_in() {
        let public_url = Url::parse("https://calls.example.com/").unwrap();
        let allowed = ["https://app.example.com".to_owned()];
        for (origin, is_ours) in [
            ("https://calls.example.com", true),
            ("https://app.example.com", true),
            ("http://127.0.0.1:8080", true),
            ("https://127.0.0.1:8080", true),
            ("http://127.0.0.1:8081", false),
            ("https://evil.example", false),
            ("https://calls.example.com.evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let headers = headers(&[("origin", origin), ("host", "127.0.0.1:8080")]);
            assert_eq!(is_of_our_origin(&headers, Some(&public_url), &allowed), is_ours, "{origin}");
        }
        assert!(is_of_our_origin(&headers(&[("host", "127.0.0.1:8080")]), None, &[]));
    }
}
