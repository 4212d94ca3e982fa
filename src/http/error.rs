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
    /// What Meta's limits say of it.
    pub of_meta: Option<Box<OfMeta>>,
    /// A header that belongs to the status.
    pub header: Option<Box<(header::HeaderName, HeaderValue)>>,
}

/// What Meta's limits say of a refused request.
#[derive(Debug)]
pub struct OfMeta {
    /// When the next one is allowed: RFC 3339, UTC.
    pub next_allowed_at: Option<String>,
    /// Meta's error code, where Meta refused.
    pub meta_error_code: Option<i64>,
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
    /// When the next call or request is allowed by Meta's limits: RFC 3339, UTC. For `no_permission`, when the person may be
    /// asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_allowed_at: Option<String>,
    /// Meta's error code, where Meta refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_error_code: Option<i64>,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            state: None,
            call_id: None,
            scope: None,
            of_meta: None,
            header: None,
        }
    }

    /// With a header that belongs to its status.
    pub fn with_header(self, name: header::HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let of_meta = self.of_meta.map(|of_meta| *of_meta);
        let (next_allowed_at, meta_error_code) =
            of_meta.map_or((None, None), |of_meta| (of_meta.next_allowed_at, of_meta.meta_error_code));
        let problem = Problem {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            state: self.state,
            call_id: self.call_id,
            scope: self.scope,
            next_allowed_at,
            meta_error_code,
        };
        let mut response = (self.status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header.map(|header| *header) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
