//! Upload: every recording with a marker is uploaded until the archive has it. Also deletes expired local files.
//!
//! The markers are the queue: it survives a restart, and the disk bounds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, PutMultipartOptions, PutOptions, RetryConfig, WriteMultipart,
};
use rand::Rng;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{RecordingId, RecordingsOptions, Signals};
use crate::clock;
use crate::config::recordings::{S3, Upload};
use crate::telemetry::shown;

/// Concurrent uploads.
const AT_ONCE: usize = 4;
/// A larger file is uploaded in parts of this size: 20 minutes of audio. S3 requires at least 5 MiB for all parts but
/// the last.
const PART_BYTES: usize = 8 << 20;
/// The slowest supported line, in bytes per second: 1 Mbit/s for eight files at once.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// Response time of an archive, in addition to the transfer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Wait after a failure; it doubles each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Time between two looks for expired files.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// The archive of finished recordings.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// Whether objects have a content type; files do not.
    has_attributes: bool,
}

impl Archive {
    /// Any object store, below a prefix that may be empty.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: ObjectPath::from(prefix), has_attributes: true }
    }

    /// The configured archive. Sends no request yet.
    pub fn from_config(upload: &Upload) -> anyhow::Result<Self> {
        match upload {
            Upload::Folder(folder) => Self::in_folder(folder),
            Upload::S3(s3) => Ok(Self::new(Arc::new(s3_store(s3)?), &s3.prefix)),
        }
    }

    /// A folder, created if missing.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let what = || format!("recordings.upload leads to {}, which cannot be used", folder.display());
        super::file::make_folder(folder).with_context(what)?;
        let store = LocalFileSystem::new_with_prefix(folder).with_context(what)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: ObjectPath::default(), has_attributes: false })
    }

    /// Uploads one file, whole or in parts.
    async fn send(&self, path: &Path, id: &RecordingId) -> anyhow::Result<()> {
        let place = self.prefix.clone().join(id.file_name());
        let mut file = FileParts::open(path.to_owned()).await?;
        let attributes = match self.has_attributes {
            true => Attributes::from_iter([(Attribute::ContentType, "audio/ogg")]),
            false => Attributes::new(),
        };
        let within = sent_within(file.size_bytes);
        if file.size_bytes <= PART_BYTES as u64 {
            let options = PutOptions { attributes, ..PutOptions::default() };
            let whole = file.next().await?;
            tokio::time::timeout(within, self.store.put_opts(&place, whole.into(), options)).await??;
            return Ok(());
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = tokio::time::timeout(ANSWERED_WITHIN, self.store.put_multipart_opts(&place, options)).await??;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        match tokio::time::timeout(within, send_parts(&mut file, &mut upload)).await {
            Ok(Ok(())) => {
                // The last parts are still in flight.
                tokio::time::timeout(within, upload.finish()).await??;
                Ok(())
            }
            failed => {
                // Abandoned parts cost money. If this fails, the bucket's lifecycle rules must remove them.
                let _ = tokio::time::timeout(CONNECT_WITHIN, upload.abort()).await;
                failed?
            }
        }
    }
}

/// Deadline of one attempt to upload a file or a part.
const fn sent_within(size_bytes: u64) -> Duration {
    Duration::from_secs(ANSWERED_WITHIN.as_secs() + size_bytes / SLOWEST_BYTES_PER_SECOND)
}

async fn send_parts(file: &mut FileParts, upload: &mut WriteMultipart) -> anyhow::Result<()> {
    loop {
        let part = file.next().await?;
        if part.is_empty() {
            return Ok(());
        }
        upload.wait_for_capacity(2).await?;
        upload.put(part);
    }
}

fn s3_store(s3: &S3) -> anyhow::Result<object_store::aws::AmazonS3> {
    let is_clear = s3.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    let client = ClientOptions::new()
        .with_timeout(sent_within(PART_BYTES as u64))
        .with_connect_timeout(CONNECT_WITHIN)
        .with_allow_http(is_clear);
    // Whole files are retried here, so lower layers must not retry.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_client_options(client)
        .with_retry(retry);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    if let Some(keys) = &s3.keys {
        builder = builder
            .with_access_key_id(keys.access_key.expose_secret())
            .with_secret_access_key(keys.secret_key.expose_secret());
    }
    builder.build().context("recordings.upload cannot be used")
}

/// Uploads what waits for the archive and deletes expired files, until the service stops.
pub(super) async fn keep_house(options: RecordingsOptions, signals: Arc<Signals>) {
    let mut pause = Duration::ZERO;
    let mut clear_at = Instant::now();
    let mut refused = Refused::default();
    loop {
        if let Some(max_age) = options.max_age
            && clear_at <= Instant::now()
        {
            clear_at += CLEAR_EVERY;
            clear_old(options.dir.clone(), max_age).await;
        }
        // Read before the pass: recordings finished before the stop are still uploaded.
        let is_last = signals.stopping.load(Ordering::Acquire);
        let left = match &options.upload {
            Some(archive) => send_waiting(archive, &options, &mut refused).await,
            None => Left::Nothing,
        };
        if is_last {
            return;
        }
        if left == Left::Everything {
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            wait_or_stop(spread(pause), &signals).await;
            continue;
        }
        pause = Duration::ZERO;
        let again_at = if let Left::Refused { again_at } = left { Some(again_at) } else { None };
        tokio::select! {
            () = signals.wake.notified() => {}
            () = tokio::time::sleep_until(again_at.unwrap_or(clear_at)), if again_at.is_some() => {}
            () = tokio::time::sleep_until(clear_at), if options.max_age.is_some() => {}
        }
    }
}

/// The outcome of a pass.
#[derive(Debug, PartialEq)]
enum Left {
    Nothing,
    /// Only files that the archive refuses are left; the time of the next attempt.
    Refused {
        again_at: Instant,
    },
    /// The archive cannot be reached.
    Everything,
}

/// Recordings that could not be uploaded, each with a pause of its own, so that they do not delay others.
#[derive(Default)]
struct Refused(BTreeMap<RecordingId, Refusal>);

struct Refusal {
    pause: Duration,
    again_at: Instant,
}

impl Refused {
    /// Those of `waiting` that may be uploaded now, starting with those not refused yet.
    fn due(&mut self, waiting: BTreeSet<RecordingId>) -> Vec<RecordingId> {
        self.0.retain(|id, _| waiting.contains(id));
        let now = Instant::now();
        let (mut again, first): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|id| self.0.contains_key(id));
        again.retain(|id| self.0[id].again_at <= now);
        first.into_iter().chain(again).collect()
    }

    /// Whether this is the first refusal.
    fn note(&mut self, id: &RecordingId) -> bool {
        let before = self.0.get(id).map(|refusal| refusal.pause);
        let pause = (before.unwrap_or_default() * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.0.insert(id.clone(), Refusal { pause, again_at: Instant::now() + spread(pause) });
        before.is_none()
    }

    fn left(&self) -> Left {
        let again_at = self.0.values().map(|refusal| refusal.again_at).min();
        again_at.map_or(Left::Nothing, |again_at| Left::Refused { again_at })
    }
}

/// Jitter, so that several services do not retry at the same time.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.75..1.25))
}

/// A new recording does not shorten a pause; a stop does.
async fn wait_or_stop(pause: Duration, signals: &Signals) {
    let over = Instant::now() + pause;
    while !signals.stopping.load(Ordering::Acquire) {
        tokio::select! {
            () = tokio::time::sleep_until(over) => return,
            () = signals.wake.notified() => {}
        }
    }
}

/// Uploads everything that has a marker, oldest first.
async fn send_waiting(archive: &Archive, options: &RecordingsOptions, refused: &mut Refused) -> Left {
    let dir = options.dir.clone();
    let waiting = match blocking(move || waiting_in(&dir)).await {
        Ok(waiting) => waiting,
        Err(error) => {
            warn!("cannot read the recordings folder: {error}");
            return Left::Everything;
        }
    };
    let due = refused.due(waiting);
    let send = |id: RecordingId| async move { (id.clone(), send_one(archive, options, id).await) };
    let mut sendings = stream::iter(due).map(send).buffer_unordered(AT_ONCE);
    let mut failures_in_a_row = 0;
    while let Some((id, sent)) = sendings.next().await {
        if sent {
            failures_in_a_row = 0;
            refused.0.remove(&id);
        } else if refused.note(&id) {
            failures_in_a_row += 1;
        }
        if failures_in_a_row >= AT_ONCE {
            // Most likely the archive cannot be reached, and the rest would fail too. If it refuses just these, the
            // next pass begins with others.
            return Left::Everything;
        }
    }
    refused.left()
}

async fn send_one(archive: &Archive, options: &RecordingsOptions, id: RecordingId) -> bool {
    let path = options.dir.join(id.file_name());
    let sent = archive.send(&path, &id).await;
    let is_gone = sent.as_ref().is_err_and(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    });
    match sent {
        Ok(()) => info!(recording.id = %id, "recording {id} uploaded"),
        // The marker is created just before the file gets its name; at any other time the file was removed.
        Err(_) if is_gone && options.dir.join(id.growing_file_name()).exists() => return false,
        Err(_) if is_gone => warn!(recording.id = %id, "recording {id} was removed before it was uploaded"),
        Err(error) => {
            metrics::counter!("patchcord_recording_uploads_total", "outcome" => "failed").increment(1);
            warn!(recording.id = %id, "upload of recording {id} failed and will be retried: {error:#}");
            return false;
        }
    }
    metrics::counter!("patchcord_recording_uploads_total", "outcome" => if is_gone { "gone" } else { "sent" })
        .increment(1);
    let marker = options.dir.join(id.marker_name());
    let delete = !options.keep_local && !is_gone;
    let cleared = blocking(move || {
        // In this order: a marker without its file would count as a loss.
        fs::remove_file(marker)?;
        if delete { fs::remove_file(path) } else { Ok(()) }
    });
    match cleared.await {
        Ok(()) => true,
        Err(error) => {
            warn!(recording.id = %id, "recording {id} is uploaded, but its local files cannot be removed: {error}");
            false
        }
    }
}

/// The recordings that have a marker.
fn waiting_in(dir: &Path) -> io::Result<BTreeSet<RecordingId>> {
    let names = dir.read_dir()?.map(|entry| Ok(entry?.file_name()));
    let ids = names.filter_map(|name: io::Result<_>| match name {
        Ok(name) => name.to_str().and_then(RecordingId::of_marker).map(Ok),
        Err(error) => Some(Err(error)),
    });
    ids.collect()
}

/// Deletes expired recordings, except those that wait for the archive.
async fn clear_old(dir: PathBuf, max_age: Duration) {
    let cleared = blocking(move || {
        let waiting = waiting_in(&dir)?;
        let mut cleared = 0;
        for entry in dir.read_dir()? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(RecordingId::of_finished) else { continue };
            let age = clock::wall().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if age > max_age && !waiting.contains(&id) {
                fs::remove_file(entry.path())?;
                cleared += 1;
            }
        }
        Ok(cleared)
    });
    match cleared.await {
        Ok(0) => debug!("no recording has expired"),
        Ok(count) => info!("deleted {count} recordings older than {}", shown(max_age)),
        Err(error) => warn!("cannot delete expired recordings: {error}"),
    }
}

/// Reads a file in parts, off the runtime's threads.
struct FileParts {
    file: Option<File>,
    size_bytes: u64,
}

impl FileParts {
    async fn open(path: PathBuf) -> io::Result<Self> {
        let opened = blocking(move || {
            let file = File::open(path)?;
            let size_bytes = file.metadata()?.len();
            Ok((file, size_bytes))
        });
        let (file, size_bytes) = opened.await?;
        Ok(Self { file: Some(file), size_bytes })
    }

    /// The next part; empty at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        let Some(mut file) = self.file.take() else { return Ok(Bytes::new()) };
        let (file, part) = blocking(move || {
            let mut part = Vec::new();
            file.by_ref().take(PART_BYTES as u64).read_to_end(&mut part)?;
            Ok((file, part))
        })
        .await?;
        self.file = Some(file);
        Ok(part.into())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_has_more_time() {
        // Four hours of audio over the slowest line.
        assert!(sent_within(80_000_000) >= Duration::from_secs(80_000_000 / (16 << 10)));
        assert_eq!(sent_within(0), ANSWERED_WITHIN);
    }
}
