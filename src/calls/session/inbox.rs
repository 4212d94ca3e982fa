//! The inbox of a session: endings and commands from outside.

use tokio::sync::mpsc;

use super::app_sockets::SocketRequest;
use super::browsers::BrowserRequest;
use super::commands::AppCommand;
use crate::call::Input;
use crate::call::refusal::Refusal;
use crate::calls::has_ended;

/// Commands that wait for one call, which takes them at once; one more waits for room.
const COMMANDS: usize = 64;
/// Sockets that wait for one call, which seats them at once; one more waits for room.
const SOCKETS: usize = 8;
/// Webhooks that wait for one call: an answer and two statuses, each of which Meta may repeat.
const NEWS: usize = 16;

/// The session's end.
pub struct Inbox {
    /// The end of the call, from Meta or because the service stops. The first one counts, whatever waits among the
    /// commands.
    pub endings: mpsc::Receiver<Input>,
    /// What Meta's webhooks say of a call that we place.
    pub news: mpsc::Receiver<Input>,
    /// The application's commands.
    pub commands: mpsc::Receiver<AppCommand>,
    /// Requests of pages.
    pub browsers: mpsc::Receiver<BrowserRequest>,
    /// Sockets that the application opens.
    pub sockets: mpsc::Receiver<SocketRequest>,
}

/// The other end of an [`Inbox`].
#[derive(Clone)]
pub struct SessionHandle {
    endings: mpsc::Sender<Input>,
    news: mpsc::Sender<Input>,
    commands: mpsc::Sender<AppCommand>,
    browsers: mpsc::Sender<BrowserRequest>,
    sockets: mpsc::Sender<SocketRequest>,
}

impl Inbox {
    /// An empty inbox and its other end.
    pub fn new() -> (SessionHandle, Self) {
        let (send_ending, endings) = mpsc::channel(1);
        let (send_news, news) = mpsc::channel(NEWS);
        let (send_command, commands) = mpsc::channel(COMMANDS);
        let (send_browser, browsers) = mpsc::channel(COMMANDS);
        let (send_socket, sockets) = mpsc::channel(SOCKETS);
        let handle = SessionHandle {
            endings: send_ending,
            news: send_news,
            commands: send_command,
            browsers: send_browser,
            sockets: send_socket,
        };
        (handle, Self { endings, news, commands, browsers, sockets })
    }
}

impl SessionHandle {
    /// Ends the call. False when an earlier end is queued, or the call is over.
    pub fn end(&self, ending: Input) -> bool {
        self.endings.try_send(ending).is_ok()
    }

    /// Says what a webhook says of a call that we place. False if there is no room, or the call is over.
    pub fn hear(&self, news: Input) -> bool {
        self.news.try_send(news).is_ok()
    }

    /// Passes a command on, when there is room. An error means that the call is over.
    pub async fn command(&self, command: AppCommand) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_| has_ended())
    }

    /// Passes a page's request on, when there is room. An error means that the call is over.
    pub async fn browser(&self, request: BrowserRequest) -> Result<(), Refusal> {
        self.browsers.send(request).await.map_err(|_| has_ended())
    }

    /// Passes on a socket of the application, when there is room. An error means that the call is over.
    pub async fn socket(&self, request: SocketRequest) -> Result<(), Refusal> {
        self.sockets.send(request).await.map_err(|_| has_ended())
    }
}
