//! Parting: how we leave a connection, and what the call learns of it.

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tracing::debug;

use super::{Conversation, HUNG_UP_EARLY, Halves};
use crate::agent::dialect::Closing;
use crate::agent::notice::Notice;
use crate::agent::websocket::Socket;
use crate::agent::websocket::ending::Ending;
use crate::call::action::LeaveReason;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};

/// The time between `Stop` and our close frame. Many libraries fail every send once they see a close frame, and an agent
/// that is sending would then never read what came before it.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// What an agent is still sending is dropped in pieces of this size.
const DISCARDED_AT_ONCE: usize = 16 * 1024;
/// How long we wait for the agent's half of the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// For our half of the close of a connection that is lost. The caller waits for the next one.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(50);

impl Conversation<'_> {
    /// Our half of the close of a lost connection, if it can still be sent.
    pub async fn leave_lost(&self, (mut sink, _stream): Halves) {
        let _ = timeout(LEAVE_TIMEOUT, sink.close()).await;
    }

    /// Tells the call how the conversation ended, and says goodbye.
    pub async fn part(&self, ending: Ending, (mut sink, mut stream): Halves) {
        let is_unreadable =
            matches!(&ending, Ending::Failed(failure, _) if failure.kind == AgentFailureKind::ProtocolError);
        let (reason, closing) = match ending {
            Ending::Dismissed(reason) if reason == LeaveReason::Replaced.name() => (reason, Closing::Replaced),
            Ending::Dismissed(reason) => (reason, Closing::Normal),
            Ending::HungUp if !self.joining.has_joined() => {
                self.port.failed(AgentFailureKind::Refused.because(HUNG_UP_EARLY));
                ("agent_hung_up", Closing::Normal)
            }
            Ending::HungUp => (self.port.hung_up(), Closing::Normal),
            Ending::Lost(failure) => (self.fail(failure), Closing::Normal),
            Ending::Failed(failure, closing) => (self.fail(failure), closing),
        };
        let code = self.dialect.borrow().close_code(closing);
        let farewell = async {
            if is_unreadable {
                self.say_goodbye(&mut sink, reason, code).await?;
                return read_bytes_out(sink, stream).await;
            }
            tokio::select! {
                biased;
                said = self.say_goodbye(&mut sink, reason, code) => said?,
                // Unread data makes the system reset the connection, which drops what the agent has not read (RFC 2525
                // §2.17).
                () = read_out(&mut stream) => return Ok(()),
            }
            read_out(&mut stream).await;
            Ok::<(), tungstenite::Error>(())
        };
        if !matches!(timeout(STOP_GRACE + CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            debug!(call.id = %self.port.call_id(), user = ?self.port.user(), "the agent's socket did not close cleanly");
        }
    }

    async fn say_goodbye(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        reason: &'static str,
        code: u16,
    ) -> Result<(), tungstenite::Error> {
        self.send(sink, &Notice::Stop { reason }).await?;
        tokio::time::sleep(STOP_GRACE).await;
        let close = CloseFrame { code: code.into(), reason: reason.into() };
        sink.send(Message::Close(Some(close))).await
    }

    fn fail(&self, failure: AgentFailure) -> &'static str {
        let name = failure.kind.name();
        self.port.failed(failure);
        name
    }
}

/// After a message that it cannot read the library reads nothing more, also not what the agent is still sending.
async fn read_bytes_out(
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
) -> Result<(), tungstenite::Error> {
    let Ok(mut socket) = sink.reunite(stream) else { return Ok(()) };
    let mut bytes = vec![0; DISCARDED_AT_ONCE];
    while socket.get_mut().read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Reads and drops messages until the agent has closed.
async fn read_out(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(_)) = stream.next().await {}
}
