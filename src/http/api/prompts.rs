//! `/v1/prompts`: list, upload and delete prompts.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use patchcord_media::prompt::{MAX_FILE_BYTES, PromptWarning};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::auth::Caller;
use super::openapi::Sound;
use super::page::PageQuery;
use crate::http::error::{ApiError, Problem};
use crate::prompts::{EXTENSIONS, PromptInfo, PutError};
use crate::routes::Route;

/// The longest name, which leaves room for the extension in a file name.
const MAX_NAME: usize = 128;

/// Prompts, sorted by name.
#[derive(Serialize, ToSchema)]
pub(super) struct PromptPage {
    prompts: Vec<PromptView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
    /// Files in the folder that cannot be used; on every page.
    problems: Vec<ProblemView>,
}

/// One prompt.
#[derive(Serialize, ToSchema)]
pub(super) struct PromptView {
    /// The name for `play` and `prompt:NAME`.
    name: String,
    /// The length of one playback.
    duration_ms: u64,
    /// Whether it is one of the built-in tones, which need no file.
    built_in: bool,
    /// The name of its file in the folder.
    file: Option<String>,
    /// Reasons why it may not sound as its author expects; they are logged too.
    warnings: Vec<WarningView>,
}

/// A problem of a prompt that is used nevertheless.
#[derive(Serialize, ToSchema)]
pub(super) struct WarningView {
    /// `silent`, `opposite_phase` (channels that cancel each other when mixed), `breaks_off`, `damaged` or
    /// `sound_left_out` (one of several in a file); more may come.
    code: &'static str,
    /// The problem and what to do about it.
    sentence: String,
}

/// A file that cannot be used.
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemView {
    file: String,
    /// What is wrong and what to do.
    sentence: String,
}

/// The format of an upload.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// `wav`, `flac`, `opus`, `ogg` or `mp3`; by default derived from the content type. It becomes the file's extension;
    /// decoding depends on the content alone.
    format: Option<String>,
}

/// List the prompts
#[utoipa::path(get, path = "/v1/prompts", tag = "prompts", params(PageQuery), responses(
    (status = 200, description = "A page of the prompts, by name", body = PromptPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<PromptPage>, ApiError> {
    let page = query.read("the name of a prompt", |text| is_name(text).then(|| text.to_owned()))?;
    let mut found = api.options.prompts.list();
    found.retain(|prompt| page.after.as_ref().is_none_or(|after| prompt.name > *after));
    let (prompts, next) = page.cut(found, |prompt| prompt.name.clone());
    let problems = api.options.prompts.problems().into_iter();
    let problems = problems.map(|broken| ProblemView { file: broken.file, sentence: broken.sentence }).collect();
    Ok(Json(PromptPage { prompts: prompts.into_iter().map(view).collect(), next, problems }))
}

/// Upload a prompt
///
/// The body is the sound file. It is decoded before it is accepted, and replaces an earlier file of this name
/// atomically. Calls that play the earlier one play it to its end.
#[utoipa::path(put, path = "/v1/prompts/{name}", tag = "prompts", params(("name" = String, Path), UploadQuery),
    request_body(content(
        (Sound = "audio/wav"), (Sound = "audio/flac"), (Sound = "audio/opus"), (Sound = "audio/ogg"), (Sound = "audio/mpeg")
    )),
    responses(
        (status = 200, description = "Replaced an earlier one", body = PromptView),
        (status = 201, description = "It is new", body = PromptView),
        (status = 400, description = "`invalid_name`, `unreadable_body`, `bad_request`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 64 MB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unknown_format`: neither content type nor `format` is one of a prompt", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`broken_prompt`: the file cannot be a prompt; `detail` says why", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "`prompt_not_written`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<(StatusCode, Json<PromptView>), ApiError> {
    if !is_name(&name) {
        return Err(invalid_name());
    }
    let extension = extension(query.format.as_deref(), request.headers())?;
    let _turn = api.uploads.acquire().await.map_err(|_| not_written(&io::Error::other("the service is stopping")))?;
    let bytes = read_body(request).await?;
    let is_new = !api.options.prompts.list().iter().any(|prompt| prompt.name == name && !prompt.built_in);
    let info = api.options.prompts.put(&name, extension, bytes).await.map_err(|error| match error {
        PutError::Broken(error) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "broken_prompt", error.to_string()),
        PutError::NotWritten(error) => not_written(&error),
    })?;
    info!(api.key = caller.id(), prompt = name, "prompt {name:?} uploaded with the key {}", caller.id());
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(view(info))))
}

/// Delete a prompt
///
/// If its file replaced a built-in prompt, the built-in one is used again.
#[utoipa::path(delete, path = "/v1/prompts/{name}", tag = "prompts", params(("name" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 400, description = "`invalid_name`", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "`prompt_not_found`", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`prompt_built_in`, or `prompt_in_use` by a route", body = Problem, content_type = "application/problem+json"),
    (status = 500, description = "`prompt_not_written`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    if !is_name(&name) {
        return Err(invalid_name());
    }
    let conflict = |code, detail: String| ApiError::new(StatusCode::CONFLICT, code, detail);
    let prompt = api.options.prompts.list().into_iter().find(|prompt| prompt.name == name).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "prompt_not_found", format!("there is no prompt named {name:?}"))
    })?;
    if prompt.built_in {
        return Err(conflict("prompt_built_in", format!("{name:?} is built in: it has no file to delete")));
    }
    let is_built_in_too = patchcord_media::prompt::Builtin::ALL.iter().any(|builtin| builtin.name() == name);
    let settings = api.options.settings.get();
    let plays_it = |route: &&Arc<Route>| !is_built_in_too && route.prompts().any(|prompt| *prompt == name);
    if let Some(route) = settings.routes.iter().find(plays_it) {
        let route = &route.name;
        return Err(conflict("prompt_in_use", format!("the route {route:?} uses {name:?}: change the route first")));
    }
    api.options.prompts.remove(&name).await.map_err(|error| not_written(&error))?;
    info!(api.key = caller.id(), prompt = name, "prompt {name:?} deleted with the key {}", caller.id());
    Ok(StatusCode::NO_CONTENT)
}

fn view(prompt: PromptInfo) -> PromptView {
    PromptView {
        name: prompt.name,
        duration_ms: prompt.duration.as_millis() as u64,
        built_in: prompt.built_in,
        file: prompt.file,
        warnings: prompt.warnings.into_iter().map(warning).collect(),
    }
}

fn warning(warning: PromptWarning) -> WarningView {
    WarningView { code: warning.code(), sentence: warning.to_string() }
}

/// Excludes paths, options and hidden files.
fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(is_good)
}

fn extension(format: Option<&str>, headers: &HeaderMap) -> Result<&'static str, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let found = match format {
        Some(format) => EXTENSIONS.into_iter().find(|known| *known == format),
        None => match kind.as_str() {
            "audio/wav" | "audio/wave" | "audio/x-wav" | "audio/vnd.wave" => Some("wav"),
            "audio/flac" | "audio/x-flac" => Some("flac"),
            "audio/opus" => Some("opus"),
            "audio/ogg" | "application/ogg" => Some("ogg"),
            "audio/mpeg" | "audio/mp3" => Some("mp3"),
            _ => None,
        },
    };
    found.ok_or_else(|| {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_format",
            "send Content-Type audio/wav, audio/flac, audio/opus, audio/ogg or audio/mpeg, or give ?format=wav, flac, \
             opus, ogg or mp3",
        )
    })
}

async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("a prompt's file has at most {} MB", MAX_FILE_BYTES / (1024 * 1024));
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        }
        _ => ApiError::new(StatusCode::BAD_REQUEST, "unreadable_body", "the body broke off"),
    })
}

fn invalid_name() -> ApiError {
    let detail = format!(
        "a prompt's name has 1 to {MAX_NAME} letters from a to z, digits, '.', '-' and '_', and begins with a letter, a digit or '_'"
    );
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_name", detail)
}

fn not_written(error: &io::Error) -> ApiError {
    warn!("cannot change the prompts folder: {error}");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "prompt_not_written",
        "the prompts folder cannot be changed: see the log",
    )
}
