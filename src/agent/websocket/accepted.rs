//! A WebSocket that the application opens to us, in place of one that we dial.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use patchcord_media::opus::Profile;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::connect::Connected;
use super::conversation::Conversation;
use super::{Terms, open};
use crate::agent::port::AgentPort;
use crate::agent::unbuffered::Unbuffered;
use crate::agent::{DialectName, SocketOptions, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::routes::AgentDefaults;
use crate::telemetry::shown;

/// An agent, or participant, that comes to us.
#[derive(Clone, Debug)]
pub struct AppSocketOptions {
    /// The protocol on the WebSocket, unless the application names another.
    pub dialect: DialectName,
    /// The sound format until the agent changes it. A dialect with a fixed format ignores it.
    pub format: SoundFormat,
    /// How PCM is encoded for the caller.
    pub profile: Profile,
    /// The `parameters` of the `Start` notice.
    pub parameters: BTreeMap<String, String>,
    /// Where the socket arrives; None in a configuration.
    pub seat: Option<SocketSeat>,
}

/// The place at which the socket of one attempt arrives. Clones share it, and the first attempt takes it.
#[derive(Clone)]
pub struct SocketSeat(Arc<Mutex<Option<oneshot::Receiver<AppSocket>>>>);

/// A socket of the application.
pub struct AppSocket {
    /// The protocol that it speaks.
    pub dialect: DialectName,
    /// Ready once the HTTP server has handed the connection over.
    pub opening: Opening,
}

/// None if the connection ended instead.
pub type Opening = Pin<Box<dyn Future<Output = Option<OpenedSocket>> + Send>>;

/// A connection that speaks WebSocket now.
pub struct OpenedSocket {
    /// Of no runtime, so that the call's worker can take it.
    pub stream: std::net::TcpStream,
    /// What has come behind the request.
    pub received: Bytes,
    /// The connection's place among those of the HTTP server, kept as long as the connection.
    pub place: Box<dyn Any + Send>,
}

impl AppSocketOptions {
    /// The socket of an application, as the agents of a route are.
    pub fn of(agents: &AgentDefaults) -> Self {
        let AgentDefaults { dialect, format, profile, .. } = *agents;
        Self { dialect, format, profile, parameters: BTreeMap::new(), seat: None }
    }
}

impl SocketSeat {
    /// A seat, and the way to it.
    pub fn new() -> (oneshot::Sender<AppSocket>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Arc::new(Mutex::new(Some(receiver)))))
    }

    fn take(&self) -> Option<oneshot::Receiver<AppSocket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for SocketSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketSeat")
    }
}

/// Waits for the application's socket and talks with it until one side leaves.
pub(in crate::agent) async fn run(app: AppSocketOptions, port: Rc<AgentPort>, options: SocketOptions) {
    let Some(seat) = app.seat.as_ref().and_then(SocketSeat::take) else {
        let advice = "only an agent is waited for: a participant's socket is opened with a token of its role";
        return port.failed(AgentFailureKind::NotConfigured.because(advice));
    };
    let (dialled_at, limit) = (clock::now(), options.connect_timeout);
    let mut standstills = port.standstills();
    let opened = tokio::select! {
        biased;
        _ = port.dismissed() => return,
        opened = standstills.timeout(limit, arrival(seat)) => opened,
    };
    let opened = opened.unwrap_or_else(|_| {
        let cause = format!("the application did not open the call's media socket within {}", shown(limit));
        Err(AgentFailureKind::NoAnswer.because(cause))
    });
    match opened {
        Ok((dialect, connected, place)) => {
            let terms = Terms { format: app.format, profile: app.profile, parameters: &app.parameters };
            let talk = Conversation::new(&port, terms, &options, dialect.translator(), None, (dialled_at, limit));
            let (ending, halves) = talk.hold(open(connected, Role::Server).await, None).await;
            talk.part(ending, halves).await;
            drop(place);
        }
        Err(failure) => port.failed(failure),
    }
}

async fn arrival(
    seat: oneshot::Receiver<AppSocket>,
) -> Result<(DialectName, Connected, Box<dyn Any + Send>), AgentFailure> {
    let gone = |why: &str| AgentFailureKind::Disconnected.because(why);
    let AppSocket { dialect, opening } = seat.await.map_err(|_| gone("the call waits for another socket"))?;
    let opened = opening.await.ok_or_else(|| gone("the connection ended before the WebSocket was open"))?;
    let stream = TcpStream::from_std(opened.stream).map_err(|error| AgentFailureKind::Disconnected.because(error))?;
    let connected =
        Connected { stream: MaybeTlsStream::Plain(Unbuffered::new(stream)), received: opened.received.into() };
    Ok((dialect, connected, opened.place))
}
