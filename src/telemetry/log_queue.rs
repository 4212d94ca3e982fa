//! Log lines on their way to standard error: a bounded queue and a thread that writes.
//!
//! Logging never blocks. When standard error is not read, lines are lost and counted, and nothing else suffers.
//!
//! No crate, because `tracing-appender` bounds the number of lines but not their bytes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; one more is lost. A busy second logs some hundred.
const LINES: usize = 8192;
/// Their bytes that may wait in all.
const BYTES: usize = 2 * 1024 * 1024;
/// For the last lines to be written when the process ends.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Lines lost since the start of the process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Log lines that did not fit into the queue, since the start of the process.
pub fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The log of the process; dropped at the end, it writes out what waits.
#[must_use = "without it the last lines are lost"]
pub struct Logs(pub(super) LogQueue);

impl Drop for Logs {
    fn drop(&mut self) {
        // A reader that does not take the last lines in time goes without them.
        let _ = self.0.flush(WRITTEN_WITHIN);
    }
}

/// Takes lines; clones lead to the same thread.
#[derive(Clone)]
pub(super) struct LogQueue {
    lines: SyncSender<Entry>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: &'static AtomicU64,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered by dropping the sender when everything before it is written.
    Flush(SyncSender<()>),
}

impl LogQueue {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::counting(out, &LOST)
    }

    fn counting(out: impl Write + Send + 'static, lost: &'static AtomicU64) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES);
        let queue = Self { lines, waiting_bytes: Arc::default(), lost };
        let bytes = queue.waiting_bytes.clone();
        // Not joined: it may stand in a write that never returns. `flush` waits for it as long as is reasonable.
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_out(&waiting, &bytes, lost, out))?;
        Ok(queue)
    }

    /// Waits until everything so far is written, but not for longer than this; false when it was not.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let (written, done) = sync_channel(0);
        // A full queue means that nobody reads, so there is nothing to wait for.
        if self.lines.try_send(Entry::Flush(written)).is_err() {
            return false;
        }
        done.recv_timeout(within) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    }

    fn take(&self, line: &[u8]) {
        let before = self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let sent = match before + line.len() <= BYTES {
            true => self.lines.try_send(Entry::Line(line.to_vec())),
            false => Err(TrySendError::Full(Entry::Line(Vec::new()))),
        };
        if sent.is_err() {
            self.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl MakeWriter<'_> for LogQueue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The subscriber writes each line whole.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(waiting: &Receiver<Entry>, bytes: &AtomicUsize, lost: &AtomicU64, mut out: impl Write) {
    let mut told = 0;
    while let Ok(entry) = waiting.recv() {
        let line = match entry {
            Entry::Line(line) => line,
            Entry::Flush(written) => {
                drop(written);
                continue;
            }
        };
        // There is nowhere to tell that standard error is closed.
        let _ = out.write_all(&line).and_then(|()| out.flush());
        bytes.fetch_sub(line.len(), Ordering::Relaxed);
        let now = lost.load(Ordering::Relaxed);
        if now > told {
            warn!("{} log lines are lost because standard error was not read fast enough", now - told);
            told = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use super::*;

    /// Stands in each write until it is let go on.
    struct Stalled {
        /// Tells that a write has begun.
        began: mpsc::Sender<()>,
        go_on: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            // An error means that the test lets everything through.
            let _ = self.go_on.recv();
            self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Scene {
        queue: LogQueue,
        lost: &'static AtomicU64,
        began: Receiver<()>,
        go_on: mpsc::Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    fn scene() -> Scene {
        let (began, has_begun) = mpsc::channel();
        let (go_on, waiting) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let lost: &'static AtomicU64 = Box::leak(Box::default());
        let out = Stalled { began, go_on: waiting, written: written.clone() };
        Scene { queue: LogQueue::counting(out, lost).unwrap(), lost, began: has_begun, go_on, written }
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_no_time() {
        let scene = scene();
        scene.queue.take(b"first\n");
        scene.began.recv().unwrap();
        // The first one stands in the write; so many find room behind it.
        for _ in 0..LINES + 100 {
            scene.queue.take(b"line\n");
        }
        assert_eq!(scene.lost.load(Ordering::Relaxed), 100);
        assert!(!scene.queue.flush(Duration::from_millis(1)), "the queue is full");
        drop(scene.go_on);
        while !scene.queue.flush(Duration::from_secs(30)) {
            std::thread::yield_now();
        }
        let written = scene.written.lock().unwrap();
        assert_eq!(written.split(|byte| *byte == b'\n').count(), 1 + LINES + 1);
        assert!(written.starts_with(b"first\nline\n"));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let scene = scene();
        let long = vec![b'x'; BYTES / 4];
        scene.queue.take(&long);
        scene.began.recv().unwrap();
        for _ in 0..10 {
            scene.queue.take(&long);
        }
        // The one that is being written counts as well.
        assert_eq!(scene.lost.load(Ordering::Relaxed), 7);
        drop(scene.go_on);
        assert!(scene.queue.flush(Duration::from_secs(30)));
        scene.queue.take(b"there is room again");
        assert!(scene.queue.flush(Duration::from_secs(30)));
        assert!(scene.written.lock().unwrap().ends_with(b"there is room again"));
        assert_eq!(scene.queue.waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_flush_does_not_wait_for_ever() {
        let scene = scene();
        scene.queue.take(b"stalled\n");
        scene.began.recv().unwrap();
        assert!(!scene.queue.flush(Duration::from_millis(1)));
    }
}
