//! `/v1/recordings`: list recordings, download and delete their files.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::io::{self, ErrorKind, SeekFrom};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tracing::{info, warn};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::openapi::Sound;
use super::page::PageQuery;
use super::range::Wanted;
use super::{Api, agent, header_value, rfc3339, stored};
use crate::config::api::Scope;
use crate::http::error::{ApiError, Problem};
use crate::recordings::{RecordingId, Recordings};
use crate::store::{RecordingFilter, RecordingRecord};

/// Size of one read from the disk.
const CHUNK_BYTES: usize = 64 * 1024;
/// For recordings that were just announced to be in the store.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// Recordings, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordingPage {
    recordings: Vec<RecordingView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// One recording.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordingView {
    /// Sorts by the time the recording began.
    #[schema(example = "rec_01k0000000000000000000000")]
    id: String,
    /// The recorded call.
    call_id: String,
    /// Start of the recording: RFC 3339, UTC.
    began_at: String,
    /// Null while it is being recorded, like all fields below.
    finished_at: Option<String>,
    /// Length of the audio.
    duration_ms: Option<u64>,
    size_bytes: Option<u64>,
    /// SHA-256 of the file, in hexadecimal.
    sha256: Option<String>,
    /// Whether nothing is missing.
    complete: Option<bool>,
    /// Why something is missing, for people.
    problem: Option<String>,
    /// Whether the file can be downloaded here. An archive may have it in any case.
    is_kept_here: bool,
}

/// Filter of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordingQuery {
    /// Only recordings of this call.
    call_id: Option<String>,
}

/// List recordings
///
/// All recordings, newest first, including those whose file is no longer here. Their records are kept as long
/// as the records of calls.
#[utoipa::path(get, path = "/v1/recordings", tag = "recordings", params(PageQuery, RecordingQuery), responses(
    (status = 200, description = "A page of the recordings", body = RecordingPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(query): Query<PageQuery>,
    Query(wanted): Query<RecordingQuery>,
) -> Result<Json<RecordingPage>, ApiError> {
    agent::check_hears(&api, &caller, wanted.call_id.as_deref()).await?;
    let page = query.read("the id of a recording", RecordingId::parse)?;
    let before = page.after.as_ref().map(RecordingId::to_string);
    let filter = RecordingFilter { call_id: wanted.call_id, before, limit: page.to_find() };
    // A recording that was announced is found here. While nothing can be written, the list shows what is in the file.
    let _ = tokio::time::timeout(WRITTEN_WITHIN, api.options.store.flush()).await;
    let (found, next) = page.cut(stored(api.options.store.recordings(filter)).await?, |last| last.id.clone());
    let mut recordings = Vec::with_capacity(found.len());
    for record in found {
        let is_kept_here = is_kept_here(&api, &record).await;
        recordings.push(view(record, is_kept_here));
    }
    Ok(Json(RecordingPage { recordings, next }))
}

/// Download a recording
///
/// Ogg Opus, the caller left and the agent right. A request may have one range of bytes.
#[utoipa::path(get, path = "/v1/recordings/{recording_id}", tag = "recordings",
    params(("recording_id" = String, Path), ("range" = Option<String>, Header, description = "Such as `bytes=0-65535`")),
    responses(
        (status = 200, description = "The whole file", body = Sound, content_type = "audio/ogg"),
        (status = 206, description = "The requested bytes", body = Sound, content_type = "audio/ogg"),
        (status = 404, description = "`recording_not_found`: no such recording, not finished, or its file is no longer here", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "`range_beyond_end`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`recording_unavailable`: the folder cannot be used", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = RecordingId::parse(&text).ok_or_else(not_found)?;
    if !caller.may(Scope::RecordingsRead) {
        let record = stored(api.options.store.recording(id.as_str())).await?;
        agent::check_hears(&api, &caller, record.as_ref().map(|record| record.call_id.as_str())).await?;
    }
    let (mut file, size) = open(&folder(&api)?.path_of(&id)).await?;
    let etag = format!("\"{id}\"");
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A finished recording never changes, so its id is its entity tag.
    let is_same = header(header::IF_RANGE).is_none_or(|version| version == etag);
    let wanted = Wanted::read(header(header::RANGE).filter(|_| is_same), size);
    let (status, part) = match wanted {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Beyond => {
            return Err(ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_beyond_end",
                format!("the recording has {size} bytes"),
            )
            .with_header(header::CONTENT_RANGE, header_value(&format!("bytes */{size}"))));
        }
    };
    info!(api.key = caller.id(), recording.id = %id, "recording {id} downloaded with the key {}", caller.id());
    file.seek(SeekFrom::Start(part.start)).await.map_err(|error| unreadable(&error))?;
    let length = part.end - part.start;
    let mut response = (status, Body::from_stream(stream::try_unfold((file, length), next_chunk))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header_value("audio/ogg"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, header_value("bytes"));
    headers.insert(header::ETAG, header_value(&etag));
    headers.insert(header::CONTENT_DISPOSITION, header_value(&format!("attachment; filename=\"{}\"", id.file_name())));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        headers.insert(header::CONTENT_RANGE, header_value(&range));
    }
    Ok(response)
}

/// Delete a recording
///
/// A copy in the archive is not affected.
#[utoipa::path(delete, path = "/v1/recordings/{recording_id}", tag = "recordings",
    params(("recording_id" = String, Path)), responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "`recording_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`recording_in_progress`: it is still being recorded", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`recording_unavailable`: the folder cannot be used", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = RecordingId::parse(&text).ok_or_else(not_found)?;
    let path = folder(&api)?.path_of(&id);
    let beside = |suffix: &str| path.with_file_name(format!("{}{suffix}", id.file_name()));
    if tokio::fs::try_exists(beside(".part")).await.unwrap_or(false) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "recording_in_progress",
            "the recording is in progress: stop it first",
        ));
    }
    tokio::fs::remove_file(&path)
        .await
        .map_err(|error| if error.kind() == ErrorKind::NotFound { not_found() } else { unreadable(&error) })?;
    // Removes it from the upload queue. Usually it is not in there.
    let _ = tokio::fs::remove_file(beside(".upload")).await;
    api.options.store.recording_deleted(id.as_str());
    info!(api.key = caller.id(), recording.id = %id, "recording {id} deleted with the key {}", caller.id());
    Ok(StatusCode::NO_CONTENT)
}

async fn is_kept_here(api: &Api, record: &RecordingRecord) -> bool {
    let id = RecordingId::parse(&record.id).filter(|_| record.finished.is_some());
    let (Some(id), Some(recordings)) = (id, &api.options.recordings) else { return false };
    tokio::fs::try_exists(recordings.path_of(&id)).await.unwrap_or(false)
}

fn view(record: RecordingRecord, is_kept_here: bool) -> RecordingView {
    let RecordingRecord { id, call_id, began_at, finished } = record;
    let began_at = rfc3339(began_at);
    let Some(finished) = finished else {
        return RecordingView {
            id,
            call_id,
            began_at,
            finished_at: None,
            duration_ms: None,
            size_bytes: None,
            sha256: None,
            complete: None,
            problem: None,
            is_kept_here,
        };
    };
    RecordingView {
        id,
        call_id,
        began_at,
        finished_at: Some(rfc3339(finished.at)),
        duration_ms: Some(finished.duration_ms),
        size_bytes: Some(finished.size_bytes),
        sha256: Some(finished.sha256),
        complete: Some(finished.complete),
        problem: finished.problem,
        is_kept_here,
    }
}

/// A link is never a recording of ours.
async fn open(path: &FilePath) -> Result<(File, u64), ApiError> {
    let is_file = tokio::fs::symlink_metadata(path).await.is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err(not_found());
    }
    let file = File::open(path)
        .await
        .map_err(|error| if error.kind() == ErrorKind::NotFound { not_found() } else { unreadable(&error) })?;
    let size = file.metadata().await.map_err(|error| unreadable(&error))?.len();
    Ok((file, size))
}

async fn next_chunk((mut file, left): (File, u64)) -> io::Result<Option<(Bytes, (File, u64))>> {
    if left == 0 {
        return Ok(None);
    }
    let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
    file.read_exact(&mut chunk).await?;
    let left = left - chunk.len() as u64;
    Ok(Some((chunk.into(), (file, left))))
}

fn folder(api: &Api) -> Result<&Recordings, ApiError> {
    api.options.recordings.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "recording_unavailable",
            "the recordings folder cannot be used: see the log",
        )
    })
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "recording_not_found", "no finished recording with this id is kept here")
}

fn unreadable(error: &io::Error) -> ApiError {
    warn!("cannot read the recordings folder: {error}");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "recording_unavailable",
        "the recordings folder cannot be read: see the log",
    )
}
