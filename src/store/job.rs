//! Job: one write to the store, with its reply.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::StoreError;

/// One write, and the reply to its caller.
pub(super) struct Job {
    pub(super) work: Box<dyn Work>,
    pub(super) bytes: usize,
    /// Whether the commit must survive a power failure.
    pub(super) is_durable: bool,
    /// Whether it adds events for deliverers and listeners.
    pub(super) is_news: bool,
    pub(super) in_trouble: InTrouble,
}

/// What happens to a write while the file cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InTrouble {
    /// The write waits in memory, and the caller waits for it.
    Keep,
    /// The write waits in memory; the caller gets an error at once.
    KeepAndTell,
    /// The write is dropped; the caller gets an error at once.
    Refuse,
}

impl Job {
    /// A write without a reply.
    pub(super) fn new(bytes: usize, mut run: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Self {
        let work = Asked { run: move |connection: &Connection| run(connection), answer: None, reply: None };
        Self { work: Box::new(work), bytes, is_durable: false, is_news: false, in_trouble: InTrouble::Keep }
    }

    /// A write with a reply. `run` may run again after a failed commit; only the last result counts.
    pub(super) fn asking<T: Send + 'static>(
        bytes: usize,
        in_trouble: InTrouble,
        run: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        let work = Asked { run, answer: None, reply: Some(reply) };
        (Self { work: Box::new(work), bytes, is_durable: false, is_news: false, in_trouble }, answer)
    }

    pub(super) fn durable(self) -> Self {
        Self { is_durable: true, ..self }
    }

    pub(super) fn news(self) -> Self {
        Self { is_news: true, ..self }
    }

    /// Adds a callback that runs on the thread once the write is committed or rejected for good.
    pub(super) fn then(self, done: impl FnOnce() + Send + 'static) -> Self {
        Self { work: Box::new(Followed { work: self.work, done: Some(done) }), ..self }
    }
}

pub(super) trait Work: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Called once it is committed or rejected for good; possibly earlier with [`StoreError::Unwritable`].
    fn tell(&mut self, outcome: Result<(), StoreError>);
}

struct Asked<T, Run> {
    run: Run,
    answer: Option<T>,
    reply: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl<T: Send, Run: FnMut(&Connection) -> rusqlite::Result<T> + Send> Work for Asked<T, Run> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.answer = Some((self.run)(connection)?);
        Ok(())
    }

    fn tell(&mut self, outcome: Result<(), StoreError>) {
        let Some(reply) = self.reply.take() else { return };
        let answer = outcome.and_then(|()| self.answer.take().ok_or(StoreError::Refused));
        // The caller may have given up at its deadline.
        let _ = reply.send(answer);
    }
}

struct Followed<Done> {
    work: Box<dyn Work>,
    done: Option<Done>,
}

impl<Done: FnOnce() + Send> Work for Followed<Done> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.work.run(connection)
    }

    fn tell(&mut self, outcome: Result<(), StoreError>) {
        // An error may be reported before the write is done.
        if matches!(outcome, Ok(()) | Err(StoreError::Refused))
            && let Some(done) = self.done.take()
        {
            done();
        }
        self.work.tell(outcome);
    }
}
