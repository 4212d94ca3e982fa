//! Writing: what an agent is sent.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::time::interval_at;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::Conversation;
use crate::agent::dialect::Closing;
use crate::agent::notice::Notice;
use crate::agent::websocket::Socket;
use crate::agent::websocket::ending::{Ending, ending_of};
use crate::call::agent_failure::AgentFailureKind;
use crate::clock;
use crate::telemetry::shown;

/// Often enough for NATs and proxies, which drop a connection after some ten seconds without traffic.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The least number of pings within the idle timeout, so that a short stall of the network does not end the agent.
const PINGS_AT_LEAST: u32 = 4;
const PINGS_APART_AT_LEAST: Duration = Duration::from_millis(10);
/// An agent that takes no message for so long is not listening.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl Conversation<'_> {
    pub(super) async fn send(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        notice: &Notice,
    ) -> Result<(), tungstenite::Error> {
        let mut outbox = Vec::new();
        self.heard.borrow_mut().note(notice);
        self.dialect.borrow_mut().write_notice(notice, &mut outbox);
        for message in outbox {
            sink.feed(message).await?;
        }
        sink.flush().await
    }

    /// Sends all notices, sound and pings. Ends only if the agent is lost.
    pub(super) async fn write(&self, sink: &mut SplitSink<Socket, Message>, heard_at: &Cell<Instant>) -> Ending {
        let (every, idle_timeout) = (ping_every(self.options.idle_timeout), self.options.idle_timeout);
        let mut ping = interval_at(tokio::time::Instant::now() + every, every);
        let mut standstills = self.port.standstills();
        // Every standstill moves each of the deadlines.
        let mut of_writes = standstills.clone();
        // Used again for every message, so that a frame costs no allocation.
        let mut outbox = Vec::with_capacity(2);
        loop {
            let written = tokio::select! {
                () = self.output() => of_writes.timeout(WRITE_TIMEOUT, self.deliver(sink, &mut outbox)).await,
                _ = ping.tick() => {
                    if let Some(gap) = standstills.next(clock::now()) {
                        // What the agent sent meanwhile has not been read yet.
                        heard_at.set((heard_at.get() + gap).min(clock::now()));
                    }
                    // While its queue is full, we may not be reading its pongs.
                    if !self.port.is_full() && heard_at.get().elapsed() >= idle_timeout {
                        let cause = format!("nothing came for {} (calls.agent_idle_timeout)", shown(idle_timeout));
                        return Ending::Lost(AgentFailureKind::Unresponsive.because(cause));
                    }
                    of_writes.timeout(WRITE_TIMEOUT, sink.send(Message::Ping(Bytes::new()))).await
                }
            };
            match written {
                Err(_) => {
                    let cause = format!("a message was not taken within {}", shown(WRITE_TIMEOUT));
                    return Ending::Failed(AgentFailureKind::TooSlow.because(cause), Closing::TooSlow);
                }
                Ok(Err(error)) => return ending_of(&error),
                Ok(Ok(())) if self.deeds.is_leaving() => return Ending::HungUp,
                Ok(Ok(())) => {}
            }
        }
    }

    /// Something is to be sent.
    async fn output(&self) {
        tokio::select! {
            () = self.port.output() => {}
            () = self.replies.came() => {}
        }
    }

    async fn deliver(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outbox: &mut Vec<Message>,
    ) -> Result<(), tungstenite::Error> {
        for message in self.replies.take() {
            sink.feed(message).await?;
        }
        while let Some(notice) = self.port.next_notice() {
            if self.deeds.take(&notice, self.port) {
                continue;
            }
            self.heard.borrow_mut().note(&notice);
            self.dialect.borrow_mut().write_notice(&notice, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        while let Some(sound) = self.port.next_sound() {
            self.dialect.borrow_mut().write_sound(sound, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        sink.flush().await
    }
}

fn ping_every(idle_timeout: Duration) -> Duration {
    PING_EVERY.min(idle_timeout / PINGS_AT_LEAST).max(PINGS_APART_AT_LEAST)
}
