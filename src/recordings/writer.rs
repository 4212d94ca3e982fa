//! A thread that writes the files of many recordings, so that a slow disk delays nothing else.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::file::{Closed, GrowingFile, OpenFile, Outcome, explain};
use super::{Queue, RecordingId, RecordingResult, Signals};
use crate::call::event::CallId;
use crate::clock;
use crate::free_space::FreeSpace;

/// Messages to a writer. The channel has no bound of its own: each sink limits its waiting pages.
pub(super) enum Message {
    Begin(Begin),
    Pages(RecordingId, Bytes),
    Finish(RecordingId, Outcome),
    Stop,
}

pub(super) struct Begin {
    pub(super) id: RecordingId,
    pub(super) call_id: CallId,
    pub(super) path: PathBuf,
    pub(super) queue: Arc<Queue>,
    pub(super) reply: oneshot::Sender<RecordingResult>,
}

/// A handle to the thread.
pub(super) struct Writer {
    sender: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Work {
    open: OpenFile,
    space: FreeSpace,
    mark_for_upload: bool,
    signals: Arc<Signals>,
    recordings: HashMap<RecordingId, Recording>,
}

struct Recording {
    begin: Begin,
    state: State,
}

enum State {
    Growing(GrowingFile),
    /// No longer written; the file so far may be useful.
    Broken {
        file: Option<GrowingFile>,
        problem: String,
    },
}

impl Writer {
    pub(super) fn start(
        index: usize,
        disk: (&OpenFile, FreeSpace),
        mark_for_upload: bool,
        signals: &Arc<Signals>,
    ) -> io::Result<Self> {
        let (sender, messages) = mpsc::channel();
        let (open, space) = (disk.0.clone(), disk.1);
        let mut work = Work { open, space, mark_for_upload, signals: signals.clone(), recordings: HashMap::new() };
        let thread = std::thread::Builder::new().name(format!("recordings-{index}"));
        let thread = thread.spawn(move || work.run(&messages))?;
        Ok(Self { sender, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn sender(&self) -> mpsc::Sender<Message> {
        self.sender.clone()
    }

    /// Ends the thread after the messages sent so far. Gives its handle once.
    pub(super) fn stop(&self) -> Option<JoinHandle<()>> {
        // The thread may have ended already.
        let _ = self.sender.send(Message::Stop);
        self.thread.lock().ok()?.take()
    }
}

impl Work {
    /// Recordings that are open at the stop are left unfinished: the next start closes them.
    fn run(&mut self, messages: &mpsc::Receiver<Message>) {
        for message in messages {
            match message {
                Message::Begin(begin) => self.begin(begin),
                Message::Pages(id, pages) => self.write(&id, &pages),
                Message::Finish(id, outcome) => self.finish(&id, outcome),
                Message::Stop => return,
            }
        }
    }

    fn begin(&mut self, begin: Begin) {
        let room = check_room(&mut self.space);
        let state = match room.and_then(|()| GrowingFile::create(begin.path.clone(), &self.open)) {
            Ok(file) => State::Growing(file),
            Err(error) => broken(&begin, None, &error),
        };
        self.recordings.insert(begin.id.clone(), Recording { begin, state });
    }

    fn write(&mut self, id: &RecordingId, pages: &[u8]) {
        let Some(recording) = self.recordings.get_mut(id) else { return };
        if let State::Growing(file) = &mut recording.state
            && let Err(error) = check_room(&mut self.space).and_then(|()| file.write(pages))
        {
            let nothing = State::Broken { file: None, problem: String::new() };
            let State::Growing(file) = std::mem::replace(&mut recording.state, nothing) else { return };
            recording.state = broken(&recording.begin, Some(file), &error);
        }
        recording.begin.queue.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    fn finish(&mut self, id: &RecordingId, outcome: Outcome) {
        let Some(Recording { begin, state }) = self.recordings.remove(id) else { return };
        let (file, problem) = match state {
            State::Growing(file) => (Some(file), None),
            State::Broken { file, problem } => (file, Some(problem)),
        };
        let dropped = begin.queue.dropped.load(Ordering::Acquire);
        let duration = match outcome {
            // A broken file has less than the recorder produced.
            Outcome::Finished(duration) if problem.is_none() => Some(duration),
            Outcome::Finished(_) | Outcome::Abandoned => None,
        };
        let problem = problem.or_else(|| match outcome {
            Outcome::Abandoned => Some("the recording was broken off".to_owned()),
            Outcome::Finished(_) => {
                (dropped > 0).then(|| format!("the disk was too slow: {dropped} pages of the recording are missing"))
            }
        });
        let closed = file.map(|file| file.close(id, duration, self.mark_for_upload)).transpose();
        let (closed, problem) = match closed {
            Ok(closed) => (closed.flatten(), problem),
            Err(error) => (None, Some(tell(&begin, &error))),
        };
        if closed.is_some() && self.mark_for_upload {
            self.signals.wake.notify_one();
        }
        reply(begin, closed, problem);
    }
}

/// Below the floor nothing is recorded, so that the rest of the disk, such as the store, can still be written.
fn check_room(space: &mut FreeSpace) -> io::Result<()> {
    match space.is_low(clock::now()) {
        true => Err(io::Error::new(ErrorKind::StorageFull, "less than recordings.min_free is left on the disk")),
        false => Ok(()),
    }
}

fn broken(begin: &Begin, file: Option<GrowingFile>, error: &io::Error) -> State {
    State::Broken { file, problem: tell(begin, error) }
}

/// Logs a recording's failure once, and gives its text.
fn tell(begin: &Begin, error: &io::Error) -> String {
    let (problem, reason) = explain(error);
    metrics::counter!("patchcord_recording_errors_total", "reason" => reason).increment(1);
    error!(call.id = %begin.call_id, recording.id = %begin.id, "recording {} ends early: {problem}", begin.id);
    problem
}

fn reply(begin: Begin, closed: Option<Closed>, problem: Option<String>) {
    let closed = closed.unwrap_or_default();
    let result = RecordingResult {
        file_name: begin.id.file_name(),
        duration_ms: closed.duration.as_millis() as u64,
        size_bytes: closed.size_bytes,
        sha256: closed.sha256,
        complete: problem.is_none(),
        problem,
        id: begin.id,
    };
    let outcome = if result.complete { "complete" } else { "incomplete" };
    metrics::counter!("patchcord_recordings_total", "outcome" => outcome).increment(1);
    info!(
        call.id = %begin.call_id, recording.id = %result.id, duration_ms = result.duration_ms,
        size_bytes = result.size_bytes, "recording {} is {outcome}", result.id
    );
    // The receiver may be gone.
    let _ = begin.reply.send(result);
}
