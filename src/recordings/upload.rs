//! The way to an archive: whatever has a marker is sent until the archive has it. Old files are cleared away here too.
//!
//! The markers are the queue: it survives a restart, and needs no bound of its own beside the disk's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

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
use tracing::{debug, info, warn};

use super::{RecordingId, RecordingsOptions, Signals};
use crate::config::recordings::{S3, Upload};
use crate::telemetry::shown;

/// Files sent at the same time.
const AT_ONCE: usize = 4;
/// A larger file goes in parts of this size: 20 minutes of sound. S3 takes no part below 5 MiB but the last.
const PART_BYTES: usize = 8 << 20;
/// One attempt for one file. An hour is 20 MB, which a line of 1 Mbit/s takes 3 minutes for.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(300);
/// A request that brings nothing for so long is given up, within the attempt.
const REQUEST_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// After a failure the next attempt waits, twice as long each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// When old files are looked for.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// Where finished recordings are kept for good.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// Files on a disk have no content type.
    has_attributes: bool,
}

impl Archive {
    /// Any store, below a prefix that may be empty.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: ObjectPath::from(prefix), has_attributes: true }
    }

    /// The archive that the configuration names. Sends nothing yet.
    pub fn from_config(upload: &Upload) -> anyhow::Result<Self> {
        match upload {
            Upload::Folder(folder) => Self::in_folder(folder),
            Upload::S3(s3) => Ok(Self::new(Arc::new(s3_store(s3)?), &s3.prefix)),
        }
    }

    /// A folder, made if it is not there.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let what = || format!("recordings.upload leads to {}, which cannot be used", folder.display());
        super::file::make_folder(folder).with_context(what)?;
        let store = LocalFileSystem::new_with_prefix(folder).with_context(what)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: ObjectPath::default(), has_attributes: false })
    }

    /// Sends one file, in one piece or in parts.
    async fn send(&self, path: &Path, id: &RecordingId) -> anyhow::Result<()> {
        let place = self.prefix.clone().join(id.file_name());
        let mut file = FileParts::open(path.to_owned()).await?;
        let attributes = match self.has_attributes {
            true => Attributes::from_iter([(Attribute::ContentType, "audio/ogg")]),
            false => Attributes::new(),
        };
        if file.size_bytes <= PART_BYTES as u64 {
            let options = PutOptions { attributes, ..PutOptions::default() };
            let whole = file.next().await?;
            tokio::time::timeout(ATTEMPT_WITHIN, self.store.put_opts(&place, whole.into(), options)).await??;
            return Ok(());
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = tokio::time::timeout(REQUEST_WITHIN, self.store.put_multipart_opts(&place, options)).await??;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        match tokio::time::timeout(ATTEMPT_WITHIN, send_parts(&mut file, &mut upload)).await {
            Ok(Ok(())) => {
                tokio::time::timeout(ATTEMPT_WITHIN, upload.finish()).await??;
                Ok(())
            }
            failed => {
                // Parts that stay in the archive cost money. If it does not answer, its own rules must remove them.
                let _ = tokio::time::timeout(CONNECT_WITHIN, upload.abort()).await;
                failed?
            }
        }
    }
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
        .with_timeout(REQUEST_WITHIN)
        .with_connect_timeout(CONNECT_WITHIN)
        .with_allow_http(is_clear);
    // We retry whole files, so nothing below does.
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

/// Sends what waits for the archive and clears away what is too old, until it is told to stop.
pub(super) async fn keep_house(options: RecordingsOptions, signals: Arc<Signals>) {
    let mut pause = Duration::ZERO;
    let mut clear_at = tokio::time::Instant::now();
    loop {
        if let Some(max_age) = options.max_age
            && clear_at <= tokio::time::Instant::now()
        {
            clear_at += CLEAR_EVERY;
            clear_old(options.dir.clone(), max_age).await;
        }
        // Read before the pass: what was finished until the stop is still sent.
        let is_last = signals.stopping.load(Ordering::Acquire);
        let all_sent = match &options.upload {
            Some(archive) => send_waiting(archive, &options).await,
            None => true,
        };
        if is_last {
            return;
        }
        if all_sent {
            pause = Duration::ZERO;
            tokio::select! {
                () = signals.wake.notified() => {}
                () = tokio::time::sleep_until(clear_at), if options.max_age.is_some() => {}
            }
        } else {
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            let jitter = rand::rng().random_range(0.75..1.25);
            wait_or_stop(pause.mul_f64(jitter), &signals).await;
        }
    }
}

/// New recordings do not shorten a pause; only the stop does.
async fn wait_or_stop(pause: Duration, signals: &Signals) {
    let over = tokio::time::Instant::now() + pause;
    while !signals.stopping.load(Ordering::Acquire) {
        tokio::select! {
            () = tokio::time::sleep_until(over) => return,
            () = signals.wake.notified() => {}
        }
    }
}

/// Sends everything that has a marker, oldest first. False when something is left.
async fn send_waiting(archive: &Archive, options: &RecordingsOptions) -> bool {
    let dir = options.dir.clone();
    let waiting = match blocking(move || waiting_in(&dir)).await {
        Ok(waiting) => waiting,
        Err(error) => {
            warn!("the recordings folder cannot be read: {error}");
            return false;
        }
    };
    let mut sendings = stream::iter(waiting).map(|id| send_one(archive, options, id)).buffer_unordered(AT_ONCE);
    let mut failures = 0;
    while let Some(sent) = sendings.next().await {
        failures += usize::from(!sent);
        if failures >= AT_ONCE {
            // The archive is out of reach, so the rest would only wait in vain.
            return false;
        }
    }
    failures == 0
}

async fn send_one(archive: &Archive, options: &RecordingsOptions, id: RecordingId) -> bool {
    let path = options.dir.join(id.file_name());
    let sent = archive.send(&path, &id).await;
    let is_gone = sent.as_ref().is_err_and(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    });
    match sent {
        Ok(()) => info!(recording.id = %id, "recording {id} is in the archive"),
        // The marker is made just before the file has its name; at any other time somebody has removed the file.
        Err(_) if is_gone && options.dir.join(id.growing_file_name()).exists() => return false,
        Err(_) if is_gone => warn!(recording.id = %id, "recording {id} was removed before the archive had it"),
        Err(error) => {
            metrics::counter!("patchcord_recording_uploads_total", "outcome" => "failed").increment(1);
            warn!(recording.id = %id, "recording {id} could not be sent to the archive, it is tried again: {error:#}");
            return false;
        }
    }
    metrics::counter!("patchcord_recording_uploads_total", "outcome" => if is_gone { "gone" } else { "sent" })
        .increment(1);
    let marker = options.dir.join(id.marker_name());
    let delete = !options.keep_local && !is_gone;
    let cleared = blocking(move || {
        // In this order: a marker without its file would be taken for a loss.
        fs::remove_file(marker)?;
        if delete { fs::remove_file(path) } else { Ok(()) }
    });
    match cleared.await {
        Ok(()) => true,
        Err(error) => {
            warn!(recording.id = %id, "recording {id} is in the archive, but its files here resist: {error}");
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

/// Deletes finished recordings that are too old, but none that the archive does not have.
async fn clear_old(dir: PathBuf, max_age: Duration) {
    let cleared = blocking(move || {
        let waiting = waiting_in(&dir)?;
        let mut cleared = 0;
        for entry in dir.read_dir()? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(RecordingId::of_finished) else { continue };
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if age > max_age && !waiting.contains(&id) {
                fs::remove_file(entry.path())?;
                cleared += 1;
            }
        }
        Ok(cleared)
    });
    match cleared.await {
        Ok(0) => debug!("no recording is too old"),
        Ok(count) => info!("{count} recordings were older than {} and are deleted", shown(max_age)),
        Err(error) => warn!("old recordings cannot be deleted: {error}"),
    }
}

/// A file read part by part, off the runtime's threads.
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
