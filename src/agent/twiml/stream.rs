//! `<Connect><Stream>`, or `connect` of an NCCO: the app's media stream. A connection that breaks is dialled again, as that of any agent on a WebSocket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::status::Told;
use super::{Context, Leaving, Run, webhook};
use crate::agent::dialect::{DialectName, twilio_of};
use crate::agent::port::PortReport;
use crate::agent::websocket::{self, Translate, UpgradeSignature, WebSocketOptions};
use crate::call::agent_failure::AgentFailure;
use crate::clock;
use crate::egress::Use;
use crate::twilio::interpreter::{Input, Stream};
use crate::twilio::{Method, call_sid};

/// From the end of redialling to the document's next verb, before the call gives the app up.
const GOES_ON_WITHIN: Duration = Duration::from_secs(2);

/// The conversation on the app's WebSocket, and what it reports.
pub(super) struct OpenStream {
    /// Its last report is [`StreamReport::Over`].
    talk: LocalBoxFuture<'static, ()>,
    reports: Reports,
    status: Status,
}

/// In their order; the conversation makes two at once at most.
type Reports = Rc<RefCell<VecDeque<StreamReport>>>;

/// What has become of a stream.
#[derive(Debug)]
pub(super) enum StreamReport {
    Opened,
    /// The connection broke, and is tried again for so long.
    Interrupted(AgentFailure, Duration),
    Over(Result<(), AgentFailure>),
}

/// What the `statusCallback` of a stream is told.
struct Status {
    callback: Option<(url::Url, Method)>,
    name: Option<String>,
    /// Of the connection that is open, or was the last.
    stream_sid: Rc<RefCell<String>>,
    is_open: bool,
}

impl OpenStream {
    pub fn new(context: Rc<Context>, stream: Stream) -> Self {
        let reports = Reports::default();
        // Of a stream that cannot be opened.
        let stream_sid = Rc::new(RefCell::new(format!("MZ{:032x}", rand::random::<u128>())));
        let status = Status {
            callback: stream.status_callback.clone(),
            name: stream.connect.name.clone(),
            stream_sid: stream_sid.clone(),
            is_open: false,
        };
        let talk = talk(context, stream, stream_sid, reports.clone());
        Self { talk: talk.boxed_local(), reports, status }
    }

    /// Waits for the next report.
    pub async fn step(&mut self) -> StreamReport {
        poll_fn(|context| {
            let next = || self.reports.borrow_mut().pop_front();
            if let Some(report) = next() {
                return Poll::Ready(report);
            }
            let _ = self.talk.poll_unpin(context);
            next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

async fn talk(context: Rc<Context>, stream: Stream, stream_sid: Rc<RefCell<String>>, reports: Reports) {
    let is_over = |reports: &Reports| matches!(reports.borrow().back(), Some(StreamReport::Over(_)));
    if let Err(failure) = converse(context, stream, stream_sid, reports.clone()).await {
        reports.borrow_mut().push_back(StreamReport::Over(Err(failure)));
    } else if !is_over(&reports) {
        // The call has dismissed it.
        reports.borrow_mut().push_back(StreamReport::Over(Ok(())));
    }
}

async fn converse(
    context: Rc<Context>,
    stream: Stream,
    stream_sid: Rc<RefCell<String>>,
    reports: Reports,
) -> Result<(), AgentFailure> {
    let reach = webhook::reach(&context, &stream.url, Use::WebSocket).await?;
    let mut parameters = context.agent.parameters.clone();
    parameters.extend(stream.connect.parameters);
    let mut agent = WebSocketOptions {
        addresses: reach.addresses,
        tls: reach.tls,
        dialect: if context.twilio().is_some() { DialectName::Twilio } else { DialectName::Vonage },
        parameters,
        redial_for: context.agent.redial_for,
        ..WebSocketOptions::at(reach.url)
    };
    let translate: Translate = match context.twilio() {
        Some(account) => {
            let (account_sid, auth_token) = (account.sid.clone(), account.auth_token.clone());
            agent.signature = Some(UpgradeSignature::Twilio { auth_token, url: Some(stream.url) });
            Box::new(move || twilio_of(account_sid.clone(), stream_sid.clone()))
        }
        None => {
            if let Some(endpoint) = stream.connect.vonage {
                agent.format.sample_rate = endpoint.sample_rate;
                agent.headers.extend(endpoint.authorization.map(|value| ("Authorization".to_owned(), value.0)));
            }
            Box::new(|| DialectName::Vonage.translator())
        }
    };
    let report = move |report: PortReport| {
        let report = match report {
            PortReport::Joined => StreamReport::Opened,
            PortReport::HungUp => StreamReport::Over(Ok(())),
            PortReport::Failed(failure) => StreamReport::Over(Err(failure)),
            PortReport::Interrupted { failure, back_within } => StreamReport::Interrupted(failure, back_within),
            PortReport::EventsWanted | PortReport::Used(_) | PortReport::Command { .. } => return,
        };
        reports.borrow_mut().push_back(report);
    };
    let port = Rc::new(context.port.reporting_to(Rc::new(report)));
    websocket::run(agent, translate, port, context.options.clone()).await;
    Ok(())
}

impl Run {
    pub(super) fn open(&mut self, stream: Stream) {
        self.stream = Some(OpenStream::new(self.context.clone(), stream));
    }

    pub(super) fn stream_reported(&mut self, report: StreamReport) -> Leaving {
        let now = clock::now();
        match report {
            StreamReport::Opened => {
                self.tell_stream("stream-started", None);
                match self.is_away {
                    true => self.is_back(),
                    false => self.interpreter.handle(Input::StreamOpened, now),
                }
            }
            StreamReport::Interrupted(failure, back_within) => {
                self.tell_stream("stream-error", Some(&failure));
                self.tell_stream("stream-stopped", None);
                self.is_away = true;
                self.context.port.interrupted(failure, back_within + GOES_ON_WITHIN);
            }
            StreamReport::Over(ended) => {
                // One that was interrupted has told it.
                if let (Err(failure), false) = (&ended, self.is_away) {
                    self.tell_stream("stream-error", Some(failure));
                }
                self.tell_stream("stream-stopped", None);
                self.stream = None;
                // Another agent has the caller, or the call is over.
                if self.context.port.is_dismissed() {
                    return Leaving::Yes;
                }
                self.context.port.detach();
                if self.context.port.has_accepted_caller() {
                    // The stream has read the notice.
                    self.interpreter.handle(Input::Accepted, now);
                }
                let ended = ended.map_err(|failure| self.told(failure));
                self.interpreter.handle(Input::StreamEnded(ended), now);
            }
        }
        Leaving::No
    }

    /// The app has the caller again, who was on hold while the stream was redialled.
    pub(super) fn is_back(&mut self) {
        self.is_away = false;
        self.context.port.joined();
    }

    /// Tells the stream's `statusCallback`, if it has one. A stream that has started also stops, once.
    fn tell_stream(&mut self, event: &'static str, error: Option<&AgentFailure>) {
        let Some(Status { callback, name, stream_sid, is_open }) =
            self.stream.as_mut().map(|stream| &mut stream.status)
        else {
            return;
        };
        match event {
            "stream-started" => *is_open = true,
            "stream-stopped" if !std::mem::take(is_open) => return,
            _ => {}
        }
        let (Some((url, method)), Some(account)) = (callback.clone(), self.context.twilio()) else { return };
        let sid = stream_sid.borrow().clone();
        let mut form = vec![
            ("AccountSid", account.sid.clone()),
            ("CallSid", call_sid(self.context.port.call_id())),
            ("StreamSid", sid.clone()),
            ("StreamName", name.clone().unwrap_or(sid)),
            ("StreamEvent", event.to_owned()),
            ("Timestamp", humantime::format_rfc3339_millis(clock::wall()).to_string()),
        ];
        if let Some(failure) = error {
            form.push(("StreamError", failure.to_string()));
        }
        let form = form.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.tell(Told { url, method, form });
    }
}
