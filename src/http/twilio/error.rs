//! TwilioError: why a request failed, as Twilio's SDKs read it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http::error::ApiError;

/// Why a request failed: Twilio's code for programs, a sentence for people.
#[derive(Debug)]
pub(super) struct TwilioError {
    status: StatusCode,
    code: u32,
    message: String,
}

impl TwilioError {
    pub fn unauthorized() -> Self {
        let advice = "authenticate with the account_sid and auth_token of [twilio]";
        Self { status: StatusCode::UNAUTHORIZED, code: 20_003, message: advice.to_owned() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: 20_404, message: message.into() }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: 20_503, message: message.into() }
    }

    pub fn bad_request(code: u32, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }

    pub fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// A refusal of ours that Twilio has no code for.
    pub fn of_status(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::TOO_MANY_REQUESTS => 20_429,
            status if status.is_server_error() => 20_500,
            _ => 20_001,
        };
        Self { status, code, message: message.into() }
    }
}

/// Of the guard that API keys and the account's token share.
impl From<ApiError> for TwilioError {
    fn from(error: ApiError) -> Self {
        match error.status {
            StatusCode::UNAUTHORIZED => Self::unauthorized(),
            status => Self::of_status(status, error.detail),
        }
    }
}

impl IntoResponse for TwilioError {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        let more_info = format!("https://www.twilio.com/docs/errors/{code}");
        let body = json!({ "code": code, "message": message, "more_info": more_info, "status": status.as_u16() });
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"Twilio API\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}
