//! Recordings: the folder, the writers, and the upload to an archive.
//!
//! A call hands over whole pages and never waits: pages that the disk cannot take in time are dropped and counted. A file is
//! `rec_….opus.part` while it grows and `rec_….opus` when it is complete; `rec_….opus.upload` beside it means that the
//! archive does not have it yet. File names contain nothing personal.

mod file;
mod id;
mod recovery;
pub mod upload;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::call::event::CallId;
use crate::free_space::{FreeBytes, FreeSpace};
use file::{OpenFile, Outcome};
pub use id::RecordingId;
use upload::Archive;
use writer::{Begin, Message, Writer};

/// Writing threads: two, so that one slow write does not delay every recording.
const WRITERS: usize = 2;

/// Pages of one recording that may wait for the disk: about 45 s. Beyond it pages are dropped and counted, and the
/// recording is incomplete.
const MAX_WAITING_PAGES: usize = 64;

/// Settings of recordings.
#[derive(Debug, Clone)]
pub struct RecordingsOptions {
    /// The folder, created if missing.
    pub dir: PathBuf,
    /// The archive that finished recordings are uploaded to.
    pub upload: Option<Archive>,
    /// Whether the local file is kept after the upload.
    pub keep_local: bool,
    /// Local files are deleted after this time.
    pub max_age: Option<Duration>,
    /// Nothing is recorded while less than this is free on the folder's disk, in bytes.
    pub min_free_bytes: u64,
}

/// All recordings of this service. Clones share them.
#[derive(Clone)]
pub struct Recordings {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    writers: Vec<Writer>,
    next_writer: AtomicUsize,
    background: std::sync::Mutex<Option<JoinHandle<()>>>,
    signals: Arc<Signals>,
}

/// Signals for the background task.
#[derive(Default)]
struct Signals {
    /// A recording waits for the archive, or the service stops.
    wake: Notify,
    stopping: AtomicBool,
}

/// The outcome of a recording. Its JSON is the data of `call.recording_finished`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordingResult {
    /// The id, as in the file's name.
    #[serde(rename = "recording_id")]
    pub id: RecordingId,
    /// File name in the recordings folder, and in the archive below its prefix.
    pub file_name: String,
    /// Length of the audio.
    pub duration_ms: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal; empty if there is no file.
    pub sha256: String,
    /// Whether nothing is missing.
    pub complete: bool,
    /// Why something is missing, for people.
    pub problem: Option<String>,
}

impl RecordingResult {
    /// The result of a recording by an earlier process that left no file.
    pub fn lost(id: RecordingId) -> Self {
        Self {
            file_name: id.file_name(),
            id,
            duration_ms: 0,
            size_bytes: 0,
            sha256: String::new(),
            complete: false,
            problem: Some("the service ended while this was being recorded, and no file is here".to_owned()),
        }
    }
}

/// Takes the pages of one call's recording. Dropped without [`finish`](Self::finish), the recording is incomplete.
pub struct RecordingSink {
    id: RecordingId,
    writer: std::sync::mpsc::Sender<Message>,
    queue: Arc<Queue>,
    is_finished: bool,
}

/// The pages between a sink and its writer.
#[derive(Default)]
struct Queue {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

impl Recordings {
    /// Creates the folder, closes files that an earlier process left open, and starts the writers and pending
    /// uploads. Gives the results of the files that were closed.
    ///
    /// Must be called inside a tokio runtime. Files that another running process writes are left alone.
    pub async fn start(options: RecordingsOptions) -> anyhow::Result<(Self, Vec<RecordingResult>)> {
        Self::start_on(options, Arc::new(file::create), FreeBytes::default()).await
    }

    /// [`start`](Self::start) with replaceable file creation and free space, so that tests can have a bad disk.
    async fn start_on(
        options: RecordingsOptions,
        open: OpenFile,
        free_bytes: FreeBytes,
    ) -> anyhow::Result<(Self, Vec<RecordingResult>)> {
        let dir = options.dir.clone();
        let is_uploading = options.upload.is_some();
        let recovered = tokio::task::spawn_blocking(move || {
            file::make_folder(&dir)?;
            recovery::recover(&dir, is_uploading)
        })
        .await?
        .with_context(|| format!("the recordings folder {} cannot be used", options.dir.display()))?;
        let signals = Arc::new(Signals::default());
        let space = || FreeSpace::new(options.dir.clone(), options.min_free_bytes, free_bytes.clone());
        let writers = (0..WRITERS).map(|index| Writer::start(index, (&open, space()), is_uploading, &signals));
        let writers = writers.collect::<io::Result<Vec<_>>>().context("no thread could be started")?;
        let background = tokio::spawn(upload::keep_house(options.clone(), signals.clone()));
        let shared = Shared {
            dir: options.dir,
            writers,
            next_writer: AtomicUsize::new(0),
            background: std::sync::Mutex::new(Some(background)),
            signals,
        };
        Ok((Self { shared: Arc::new(shared) }, recovered))
    }

    /// Begins a recording. Never waits: errors are in the result, and the call goes on. The result arrives
    /// when the file is closed, so not while the disk is stuck.
    pub fn start_recording(&self, call_id: &CallId) -> (RecordingSink, oneshot::Receiver<RecordingResult>) {
        let id = RecordingId::generate();
        let (reply, result) = oneshot::channel();
        let queue = Arc::new(Queue::default());
        let index = self.shared.next_writer.fetch_add(1, Ordering::Relaxed) % WRITERS;
        let writer = self.shared.writers[index].sender();
        let begin = Begin {
            id: id.clone(),
            call_id: call_id.clone(),
            path: self.shared.dir.join(id.growing_file_name()),
            queue: queue.clone(),
            reply,
        };
        // After the stop there is no answer, and the receiver sees that.
        let _ = writer.send(Message::Begin(begin));
        (RecordingSink { id, writer, queue, is_finished: false }, result)
    }

    /// The result of a recording by an earlier process: its file may have been closed by that process, or by a later one
    /// that ended before it stored the result.
    pub async fn look_up(&self, id: RecordingId) -> RecordingResult {
        let path = self.path_of(&id);
        let lost = RecordingResult::lost(id.clone());
        match tokio::task::spawn_blocking(move || file::read_back(&path, &id)).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None)) | Err(_) => lost,
            Ok(Err(error)) => RecordingResult { problem: Some(file::explain(&error).0), ..lost },
        }
    }

    /// Path of a finished recording, while it is kept here.
    pub fn path_of(&self, id: &RecordingId) -> PathBuf {
        self.shared.dir.join(id.file_name())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Call this when all calls are over: writes waiting pages and lets uploads in progress continue, both for at
    /// most `within`. The rest follows after the next start.
    pub async fn stop(&self, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        let threads = self.shared.writers.iter().filter_map(Writer::stop).collect::<Vec<_>>();
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !matches!(tokio::time::timeout_at(deadline, joined).await, Ok(Ok(true))) {
            warn!("some recordings are not written: the disk does not respond");
        }
        self.shared.signals.stopping.store(true, Ordering::Release);
        self.shared.signals.wake.notify_one();
        let background = self.shared.background.lock().ok().and_then(|mut task| task.take());
        if let Some(mut background) = background
            && tokio::time::timeout_at(deadline, &mut background).await.is_err()
        {
            background.abort();
            warn!("some recordings still wait for the archive; they are uploaded after the next start");
        }
    }
}

impl RecordingSink {
    /// The recording's id.
    pub fn id(&self) -> &RecordingId {
        &self.id
    }

    /// Appends whole pages to the file, in order. Never waits.
    pub fn write(&self, pages: Bytes) {
        if self.queue.waiting.load(Ordering::Acquire) >= MAX_WAITING_PAGES {
            self.queue.dropped.fetch_add(1, Ordering::AcqRel);
            metrics::counter!("patchcord_recording_pages_dropped_total").increment(1);
            return;
        }
        self.queue.waiting.fetch_add(1, Ordering::AcqRel);
        // The writer has stopped; the missing result shows it.
        let _ = self.writer.send(Message::Pages(self.id.clone(), pages));
    }

    /// Ends the recording. `duration` comes from the recorder.
    pub fn finish(mut self, duration: Duration) {
        self.is_finished = true;
        let _ = self.writer.send(Message::Finish(self.id.clone(), Outcome::Finished(duration)));
    }
}

impl Drop for RecordingSink {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.writer.send(Message::Finish(self.id.clone(), Outcome::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests;
