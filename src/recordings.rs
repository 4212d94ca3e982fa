//! Recordings: the folder they grow in, what becomes of them when they end, and their way to an archive.
//!
//! A call hands over whole pages and never waits: what the disk cannot take in time is dropped and counted. A file is
//! `rec_….opus.part` while it grows and `rec_….opus` when it is whole; `rec_….opus.upload` beside it says that the
//! archive does not have it yet. Names say nothing of who speaks.

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

/// Threads that write. Two, so that one slow write does not hold up every recording.
const WRITERS: usize = 2;

/// Pages of one recording that wait for the disk: about 45 s. Over it pages are dropped, counted, and the recording is
/// incomplete.
const MAX_WAITING_PAGES: usize = 64;

/// Where recordings go.
#[derive(Debug, Clone)]
pub struct RecordingsOptions {
    /// A folder, made if it is not there.
    pub dir: PathBuf,
    /// Where finished recordings are sent to.
    pub upload: Option<Archive>,
    /// Whether the file here stays when the archive has it.
    pub keep_local: bool,
    /// Files here are deleted when they are older.
    pub max_age: Option<Duration>,
    /// While less is free on the folder's disk, nothing is recorded.
    pub min_free_bytes: u64,
}

/// All recordings of this service. Cloning shares them.
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

/// What the background task is told.
#[derive(Default)]
struct Signals {
    /// Something waits for the archive, or it is time to stop.
    wake: Notify,
    stopping: AtomicBool,
}

/// What became of a recording. Its JSON is the data of `call.recording_finished`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordingResult {
    /// As in the file's name.
    #[serde(rename = "recording_id")]
    pub id: RecordingId,
    /// In the recordings folder, and in the archive below its prefix.
    pub file_name: String,
    /// The sound in it.
    pub duration_ms: u64,
    /// The file.
    pub size_bytes: u64,
    /// Of the file, in hexadecimal; empty when there is no file.
    pub sha256: String,
    /// Nothing is missing.
    pub complete: bool,
    /// Why something is missing, for a person to read.
    pub problem: Option<String>,
}

impl RecordingResult {
    /// Of a recording that an earlier process began and of which nothing is there.
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
    /// Makes the folder, closes what an earlier process left behind, and starts the writers and the uploads that are
    /// not done. The results are those of the files that were closed; their ids are known from when they began.
    ///
    /// Must be called inside of a tokio runtime. Files that another living process writes are left alone.
    pub async fn start(options: RecordingsOptions) -> anyhow::Result<(Self, Vec<RecordingResult>)> {
        Self::start_on(options, Arc::new(file::create), FreeBytes::default()).await
    }

    /// [`start`](Self::start) with other ways to make a file and to find what is free, so that tests can have a bad disk.
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

    /// Begins a recording. Never waits: what goes wrong is told by the result, and the call goes on. The result comes
    /// when the file is closed; while the disk is stuck it does not come.
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
        // After the stop nobody answers, and the receiver says so.
        let _ = writer.send(Message::Begin(begin));
        (RecordingSink { id, writer, queue, is_finished: false }, result)
    }

    /// What became of a recording that an earlier process began: its file may have been closed by that process, or by one
    /// that ended before it could say so.
    pub async fn look_up(&self, id: RecordingId) -> RecordingResult {
        let path = self.path_of(&id);
        let lost = RecordingResult::lost(id.clone());
        match tokio::task::spawn_blocking(move || file::read_back(&path, &id)).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None)) | Err(_) => lost,
            Ok(Err(error)) => RecordingResult { problem: Some(file::explain(&error).0), ..lost },
        }
    }

    /// Where a finished recording's file is, while it is kept here.
    pub fn path_of(&self, id: &RecordingId) -> PathBuf {
        self.shared.dir.join(id.file_name())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// To be called when all calls are over: writes what waits and lets uploads that are under way go on, both for at
    /// most `within`. What is not done then is done after the next start.
    pub async fn stop(&self, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        let threads = self.shared.writers.iter().filter_map(Writer::stop).collect::<Vec<_>>();
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !matches!(tokio::time::timeout_at(deadline, joined).await, Ok(Ok(true))) {
            warn!("recordings are not all written: the disk does not answer");
        }
        self.shared.signals.stopping.store(true, Ordering::Release);
        self.shared.signals.wake.notify_one();
        let background = self.shared.background.lock().ok().and_then(|mut task| task.take());
        if let Some(mut background) = background
            && tokio::time::timeout_at(deadline, &mut background).await.is_err()
        {
            background.abort();
            warn!("recordings wait for the archive; they are sent after the next start");
        }
    }
}

impl RecordingSink {
    /// The recording's id.
    pub fn id(&self) -> &RecordingId {
        &self.id
    }

    /// Hands over the next bytes of the file: whole pages, in order. Never waits.
    pub fn write(&self, pages: Bytes) {
        if self.queue.waiting.load(Ordering::Acquire) >= MAX_WAITING_PAGES {
            self.queue.dropped.fetch_add(1, Ordering::AcqRel);
            metrics::counter!("patchcord_recording_pages_dropped_total").increment(1);
            return;
        }
        self.queue.waiting.fetch_add(1, Ordering::AcqRel);
        // A writer that is gone has stopped; the missing result tells it.
        let _ = self.writer.send(Message::Pages(self.id.clone(), pages));
    }

    /// The recording is over. `duration` is what the recorder says.
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
