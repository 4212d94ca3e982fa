//! Errors as HTTP clients get them: RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// One error: a stable code for programs and a sentence for people.
#[derive(Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, in snake case.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub detail: String,
    /// How the call stands that this is about.
    pub state: Option<&'static str>,
    /// The call that is in the way.
    pub call_id: Option<String>,
    /// The scope that the API key lacks.
    pub scope: Option<&'static str>,
    /// A header that belongs to the status.
    pub header: Option<Box<(header::HeaderName, HeaderValue)>>,
}

/// Why a request failed (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Always `about:blank`: `code` identifies the problem.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// Stable, for programs.
    #[schema(example = "call_not_found")]
    code: &'static str,
    /// What is wrong and what to do, for people.
    detail: String,
    /// How the call stands that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The call that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<String>,
    /// The scope that the API key lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), state: None, call_id: None, scope: None, header: None }
    }

    /// With a header that belongs to its status.
    pub fn with_header(self, name: header::HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            state: self.state,
            call_id: self.call_id,
            scope: self.scope,
        };
        let mut response = (self.status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header.map(|header| *header) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
