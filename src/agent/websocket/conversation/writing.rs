//! Writing: what an agent is sent.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{FutureExt, SinkExt};
use tokio::time::{Interval, interval_at};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::Conversation;
use super::missed::Missed;
use crate::agent::dialect::Closing;
use crate::agent::notice::{ErrorCode, Notice};
use crate::agent::websocket::Socket;
use crate::agent::websocket::ending::{Ending, ending_of};
use crate::call::agent_failure::AgentFailureKind;
use crate::clock;
use crate::pulse::Standstills;
use crate::telemetry::shown;

/// Often enough for NATs and proxies, which drop a connection after some ten seconds without traffic.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The least number of pings within the idle timeout, so that a short stall of the network does not end the agent.
const PINGS_AT_LEAST: u32 = 4;
const PINGS_APART_AT_LEAST: Duration = Duration::from_millis(10);
/// An agent that takes no message for so long, and still sends, does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl Conversation<'_> {
    /// Sends all notices, sound and pings. Ends if the agent is lost, reads nothing, or has hung up behind its words.
    pub(super) async fn write(&self, sink: &mut SplitSink<Socket, Message>) -> Ending {
        let mut pings = pings(self.options.idle_timeout);
        // Every standstill moves the deadline of the write that waits.
        let mut standstills = self.port.standstills();
        let mut missed = Missed::default();
        // Used again for every message, so that a frame costs no allocation.
        let mut outbox = Vec::with_capacity(2);
        loop {
            // Also to an agent for which sound always waits.
            if pings.tick().now_or_never().is_some() {
                self.ping(&mut outbox);
            }
            if let Some(missed) = missed.add(self.port.take_missed_sound(), clock::now()) {
                self.tell_missed(missed);
            }
            self.write_next(&mut outbox);
            if outbox.is_empty() && !self.deeds.is_leaving() {
                tokio::select! {
                    () = self.output() => {}
                    _ = pings.tick() => self.ping(&mut outbox),
                }
            }
            for message in outbox.drain(..) {
                if let Err(ending) = self.send_in_time(sink, message, &mut standstills).await {
                    return ending;
                }
            }
            if let Some(ending) = self.deeds.ending() {
                return ending;
            }
        }
    }

    fn ping(&self, outbox: &mut Vec<Message>) {
        outbox.push(Message::Ping(Bytes::new()));
        outbox.extend(self.dialect.borrow_mut().keep_alive());
    }

    /// Sends one message at a time, so that what waits behind it can still be dropped for what is newer.
    async fn send_in_time(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        message: Message,
        standstills: &mut Standstills,
    ) -> Result<(), Ending> {
        let mut write = sink.send(message);
        let sent = match standstills.timeout(WRITE_TIMEOUT, &mut write).await {
            Ok(sent) => sent,
            Err(_) => tokio::select! {
                biased;
                sent = write => sent,
                // One that neither reads nor sends is lost by and by.
                () = self.liveness.next(self.port) => {
                    let cause = format!("a message was not taken within {}", shown(WRITE_TIMEOUT));
                    return Err(Ending::Failed(AgentFailureKind::TooSlow.because(cause), Closing::TooSlow));
                }
            },
        };
        sent.map_err(|error| ending_of(&error))
    }

    fn tell_missed(&self, missed: Duration) {
        let message = format!("{} ms of the caller's sound were dropped: you read too slowly", missed.as_millis());
        self.port.complain(ErrorCode::CallerSoundDropped, message);
    }

    /// Something is to be sent.
    async fn output(&self) {
        tokio::select! {
            () = self.port.output() => {}
            () = self.replies.came() => {}
        }
    }

    /// Writes the replies that wait, or else the oldest notice, or else the oldest 20 ms of sound. The protocol may have no
    /// word for a notice, so that the next one is written.
    fn write_next(&self, outbox: &mut Vec<Message>) {
        outbox.extend(self.replies.take());
        while outbox.is_empty()
            && let Some(notice) = self.port.next_notice()
        {
            if !self.deeds.take(&notice, self.port) {
                self.write_notice(&notice, outbox);
            }
        }
        while outbox.is_empty()
            && let Some(sound) = self.port.next_sound()
        {
            self.dialect.borrow_mut().write_sound(sound, outbox);
        }
    }

    fn write_notice(&self, notice: &Notice, outbox: &mut Vec<Message>) {
        self.heard.borrow_mut().note(notice);
        self.dialect.borrow_mut().write_notice(notice, outbox);
    }

    /// Sends a notice, without a deadline.
    pub(super) async fn send(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        notice: &Notice,
    ) -> Result<(), tungstenite::Error> {
        let mut outbox = Vec::new();
        self.write_notice(notice, &mut outbox);
        for message in outbox {
            sink.feed(message).await?;
        }
        sink.flush().await
    }
}

fn pings(idle_timeout: Duration) -> Interval {
    let every = PING_EVERY.min(idle_timeout / PINGS_AT_LEAST).max(PINGS_APART_AT_LEAST);
    interval_at(tokio::time::Instant::now() + every, every)
}
