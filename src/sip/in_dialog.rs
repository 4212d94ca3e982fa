//! An answered call: what the phone does in its dialog, our session timer, and the end.

use std::future::pending;
use std::time::Duration;

use rsipstack::dialog::dialog::{DialogState, DialogStateReceiver, TerminatedReason, TransactionHandle};
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::{Header, HeadersExt, Method, Request, Response, StatusCode, StatusCodeKind};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::leg::{Answered, HangUp, Refused, SipEvent};
use super::outgoing::{LAST_RESPONSE, MOST_SECONDS, least_of, sdp_of};
use super::session_timer::{Due, LEAST_SECONDS, SessionExpires, SessionTimer};
use super::user_agent::{Stack, abilities};
use super::{info, reason, refer};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;

/// For the agent's task to answer a change of the session; it does so at once.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// RFC 3261 §14.1, for the owner of the Call-ID; in steps of 10 ms there.
const GLARE_MS: std::ops::RangeInclusive<u64> = 2100..=4000;
/// The same for the other side.
const GLARE_OF_THEIRS_MS: std::ops::RangeInclusive<u64> = 0..=2000;
/// Until a refresh that was refused is repeated.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// The dialog of an answered call.
pub(super) struct InDialog<'a> {
    stack: &'a Stack,
    dialog: InviteDialog,
    states: DialogStateReceiver,
    timer: Option<SessionTimer>,
    /// The phone takes UPDATE, which needs no SDP.
    takes_update: bool,
    /// The call is ours: which side repeats first after two changes have met.
    owns_call_id: bool,
    /// What we said last, for a re-INVITE that only refreshes.
    our_sdp: String,
    /// A change of the session is being answered.
    is_changing: bool,
    /// Our re-INVITE waits for its answer.
    is_reinviting: bool,
    /// The re-INVITE without an offer, by its CSeq, whose ACK has the answer.
    late_answer_to: Option<u32>,
    is_referring: bool,
    /// Our requests and answers on their way.
    work: JoinSet<Done>,
}

/// What has been sent, and answered if it was a request.
pub(super) enum Done {
    /// A change of the session was answered: with our SDP, or refused.
    Changed { session: Option<SessionExpires>, sdp: Option<String>, late: Option<u32> },
    /// The response to our refresh.
    Refreshed(Option<Response>),
    /// The phone knows how its REFER went.
    Referred,
    /// Nothing follows from it.
    Told,
}

type Ended = Result<(), AgentFailure>;

impl<'a> InDialog<'a> {
    pub fn new(
        stack: &'a Stack,
        dialog: InviteDialog,
        states: DialogStateReceiver,
        our_sdp: &str,
        answer: &Response,
    ) -> Self {
        Self {
            timer: session_of(answer).map(|agreed| SessionTimer::of_our_request(agreed, clock::now())),
            takes_update: allows(answer, Method::Update),
            owns_call_id: true,
            ..Self::of_incoming(stack, dialog, states, our_sdp)
        }
    }

    /// A call that a phone began, and that is answered with our SDP.
    pub fn of_incoming(stack: &'a Stack, dialog: InviteDialog, states: DialogStateReceiver, our_sdp: &str) -> Self {
        Self {
            stack,
            dialog,
            states,
            timer: None,
            takes_update: false,
            owns_call_id: false,
            our_sdp: our_sdp.to_owned(),
            is_changing: false,
            is_reinviting: false,
            late_answer_to: None,
            is_referring: false,
            work: JoinSet::new(),
        }
    }

    /// What the phone's INVITE asked for.
    pub fn agreed(&mut self, session: Option<SessionExpires>, takes_update: bool) {
        self.renew(session);
        self.takes_update = takes_update;
    }

    /// Stays until either side hangs up.
    pub async fn last(
        mut self,
        answer: Option<Answered>,
        events: &mpsc::Sender<SipEvent>,
        commands: &mut mpsc::Receiver<HangUp>,
    ) -> Ended {
        let ended = match answer {
            Some(answer) => match events.send(SipEvent::Answered(answer)).await {
                Ok(()) => self.talk(events, commands).await,
                Err(_) => self.bye("agent_gone").await,
            },
            None => {
                let _ = self.bye("no_sdp").await;
                Err(AgentFailureKind::ProtocolError.because("its answer has no SDP"))
            }
        };
        self.stack.dialogs.remove_dialog(&self.dialog.id());
        ended
    }

    pub async fn talk(&mut self, events: &mpsc::Sender<SipEvent>, commands: &mut mpsc::Receiver<HangUp>) -> Ended {
        loop {
            let due = self.timer.map(|timer| timer.poll_timeout());
            tokio::select! {
                command = commands.recv() => {
                    self.finish_referral().await;
                    return self.bye(command.map_or("agent_gone", |command| command.reason)).await;
                }
                state = self.states.recv() => {
                    let Some(state) = state else { return Err(lost("its dialog was lost")) };
                    if let Some(ended) = self.follow(state, events).await {
                        return ended;
                    }
                }
                Some(Ok(done)) = self.work.join_next() => {
                    if let Some(ended) = self.done(done, events).await {
                        return ended;
                    }
                }
                () = until(due) => {
                    if let Some(ended) = self.timer_is_due().await {
                        return ended;
                    }
                }
            }
        }
    }

    async fn follow(&mut self, state: DialogState, events: &mpsc::Sender<SipEvent>) -> Option<Ended> {
        match state {
            DialogState::Updated(_, request, handle) => self.change(&request, handle, events),
            DialogState::Info(_, request, handle) => self.info(&request, handle, events),
            DialogState::Refer(_, request, handle) => self.refer(&request, handle, events),
            DialogState::Options(_, _, handle) => self.reply(handle, StatusCode::OK, abilities().into()),
            DialogState::Message(_, _, handle)
            | DialogState::Notify(_, _, handle)
            | DialogState::Publish(_, _, handle) => {
                self.reply(handle, StatusCode::MethodNotAllowed, abilities().into());
            }
            DialogState::Confirmed(..) => self.take_late_answer(events).await,
            DialogState::Terminated(_, TerminatedReason::UasBye | TerminatedReason::UacBye) => {
                let _ = events.send(SipEvent::HungUp).await;
                return Some(Ok(()));
            }
            DialogState::Terminated(..) => return Some(Err(lost("its dialog ended"))),
            DialogState::Calling(_) | DialogState::Trying(_) | DialogState::Early(..) | DialogState::WaitAck(..) => {}
        }
        None
    }

    /// A re-INVITE or an UPDATE.
    fn change(&mut self, request: &Request, handle: TransactionHandle, events: &mpsc::Sender<SipEvent>) {
        let session = match session_of(request).map(SessionExpires::answered).transpose() {
            Ok(session) => session,
            Err(least) => {
                let min = Header::MinSE(least.to_string().into());
                return self.reply(handle, StatusCode::from(422), vec![min]);
            }
        };
        let offer = sdp_of(request, request.body());
        if offer.is_none() && !request.body().is_empty() {
            let accept = Header::Accept("application/sdp".into());
            return self.reply(handle, StatusCode::UnsupportedMediaType, vec![accept]);
        }
        if offer.is_none() && request.method() == &Method::Update {
            self.renew(session);
            return self.reply(handle, StatusCode::OK, timer_headers(session));
        }
        let (reply, answer) = oneshot::channel();
        let late = if offer.is_none() { request.cseq_header().and_then(|cseq| cseq.seq()).ok() } else { None };
        // RFC 3261 §14.2.
        if self.is_changing || self.is_reinviting {
            return self.reply(handle, StatusCode::RequestPending, Vec::new());
        }
        if events.try_send(SipEvent::Offered { sdp: offer, reply }).is_err() {
            return self.reply(handle, StatusCode::ServiceUnavailable, Vec::new());
        }
        self.is_changing = true;
        self.work.spawn(async move {
            let answer = timeout(ANSWERED_WITHIN, answer).await.ok().and_then(Result::ok);
            let sdp = match answer {
                Some(Ok(sdp)) => Ok(sdp),
                Some(Err(Refused::NotAcceptable)) => Err(StatusCode::NotAcceptableHere),
                Some(Err(Refused::Pending)) => Err(StatusCode::RequestPending),
                None => Err(StatusCode::ServerInternalError),
            };
            match sdp {
                Ok(sdp) => {
                    let mut headers = timer_headers(session);
                    headers.push(Header::ContentType("application/sdp".into()));
                    let _ = handle.respond(StatusCode::OK, Some(headers), Some(sdp.clone().into_bytes())).await;
                    Done::Changed { session, sdp: Some(sdp), late }
                }
                Err(code) => {
                    let _ = handle.respond(code, None, None).await;
                    Done::Changed { session: None, sdp: None, late: None }
                }
            }
        });
    }

    fn info(&mut self, request: &Request, handle: TransactionHandle, events: &mpsc::Sender<SipEvent>) {
        let kind = request.header_value("Content-Type").unwrap_or_default();
        match info::digit(&kind, request.body()) {
            Ok(digit) => {
                if let Some(digit) = digit {
                    // A phone that presses faster than it is read loses the key, as any keypad does.
                    let _ = events.try_send(SipEvent::Digit(digit));
                }
                self.reply(handle, StatusCode::OK, Vec::new());
            }
            Err(accepted) => {
                self.reply(handle, StatusCode::UnsupportedMediaType, vec![Header::Accept(accepted.into())]);
            }
        }
    }

    fn refer(&mut self, request: &Request, handle: TransactionHandle, events: &mpsc::Sender<SipEvent>) {
        let by = request.header_value("Referred-By");
        let target = request.header_value("Refer-To").ok_or(400);
        let target = target.and_then(|value| refer::target(&value, by.as_deref()));
        let target = target.and_then(|to| if self.stack.may_refer_to(&to) { Ok(to) } else { Err(403) });
        let to = match target {
            Ok(to) => to,
            Err(code) => return self.reply(handle, StatusCode::from(code), Vec::new()),
        };
        let (outcome, decided) = oneshot::channel();
        if self.is_referring || events.try_send(SipEvent::Referred { to, outcome }).is_err() {
            return self.reply(handle, StatusCode::RequestPending, Vec::new());
        }
        self.is_referring = true;
        let dialog = self.dialog.clone();
        self.work.spawn(async move {
            refer::accept(&handle).await;
            refer::notify(&dialog, 100).await;
            let code = match timeout(refer::DECIDED_WITHIN, decided).await {
                Ok(Ok(code)) => code,
                Ok(Err(_)) | Err(_) => 503,
            };
            refer::notify(&dialog, code).await;
            Done::Referred
        });
    }

    /// The phone learns how its REFER went before our BYE.
    async fn finish_referral(&mut self) {
        let finishing = async {
            while self.is_referring
                && let Some(done) = self.work.join_next().await
            {
                self.is_referring = !matches!(done, Ok(Done::Referred));
            }
        };
        // A phone that does not answer misses it.
        let _ = timeout(refer::TOLD_WITHIN, finishing).await;
    }

    fn reply(&mut self, handle: TransactionHandle, status: StatusCode, headers: Vec<Header>) {
        self.work.spawn(async move {
            // A request that was given up has no use for it.
            let _ = handle.respond(status, Some(headers), None).await;
            Done::Told
        });
    }

    async fn done(&mut self, done: Done, events: &mpsc::Sender<SipEvent>) -> Option<Ended> {
        match done {
            Done::Changed { session, sdp, late } => {
                self.is_changing = false;
                if let Some(sdp) = sdp {
                    self.our_sdp = sdp;
                    self.renew(session);
                }
                self.late_answer_to = late.or(self.late_answer_to);
                // The ACK may have come first.
                self.take_late_answer(events).await;
            }
            Done::Refreshed(response) => return self.refreshed(response.as_ref()).await,
            Done::Referred => self.is_referring = false,
            Done::Told => {}
        }
        None
    }

    /// The ACK of a re-INVITE without an offer has the phone's answer.
    async fn take_late_answer(&mut self, events: &mpsc::Sender<SipEvent>) {
        let Some(late) = self.late_answer_to else { return };
        let ack = self.dialog.last_remote_ack();
        let ack = ack.filter(|ack| ack.cseq_header().and_then(|cseq| cseq.seq()).is_ok_and(|seq| seq == late));
        let Some(ack) = ack else { return };
        self.late_answer_to = None;
        if let Some(sdp) = sdp_of(&ack, ack.body()) {
            let _ = events.send(SipEvent::LateAnswer { sdp }).await;
        }
    }

    fn renew(&mut self, session: Option<SessionExpires>) {
        // A request without the header ends the timer (RFC 4028 §9).
        self.timer = session.map(|agreed| SessionTimer::of_their_request(agreed, clock::now()));
    }

    async fn timer_is_due(&mut self) -> Option<Ended> {
        match self.timer.as_mut()?.handle_timeout(clock::now())? {
            Due::Expired => Some(self.lose("its session timer ran out").await),
            Due::Refresh => {
                self.refresh();
                None
            }
        }
    }

    fn refresh(&mut self) {
        let Some(timer) = self.timer else { return };
        let session =
            SessionExpires { seconds: timer.seconds(), refresher: Some(super::session_timer::Refresher::Uac) };
        let headers =
            [Header::SessionExpires(session.to_string().into()), Header::MinSE(LEAST_SECONDS.to_string().into())];
        let mut headers: Vec<Header> = abilities().into_iter().chain(headers).collect();
        let (dialog, takes_update, sdp) = (self.dialog.clone(), self.takes_update, self.our_sdp.clone());
        self.is_reinviting = !takes_update;
        self.work.spawn(async move {
            let response = match takes_update {
                true => dialog.update(Some(headers), None).await,
                false => {
                    headers.push(Header::ContentType("application/sdp".into()));
                    dialog.reinvite(Some(headers), Some(sdp.into_bytes())).await
                }
            };
            Done::Refreshed(response.ok().flatten())
        });
    }

    async fn refreshed(&mut self, response: Option<&Response>) -> Option<Ended> {
        self.is_reinviting = false;
        match response {
            Some(response) if response.status_code.kind() == StatusCodeKind::Successful => {
                let agreed = session_of(response);
                self.timer = agreed.map(|agreed| SessionTimer::of_our_request(agreed, clock::now()));
                None
            }
            // RFC 4028 §10: the session is gone at the other side.
            Some(response) if matches!(response.status_code.code(), 408 | 481) => {
                Some(self.lose("it does not know the session any more").await)
            }
            Some(response) => {
                self.refresh_again(response);
                None
            }
            None => Some(self.lose("it did not answer the session's refresh").await),
        }
    }

    /// A refresh was refused, and the session lasts on.
    fn refresh_again(&mut self, response: &Response) {
        let Some(timer) = &mut self.timer else { return };
        let (mut pause, code) = (REFUSED_PAUSE, response.status_code.code());
        match code {
            491 if self.owns_call_id => pause = Duration::from_millis(rand::random_range(GLARE_MS)),
            491 => pause = Duration::from_millis(rand::random_range(GLARE_OF_THEIRS_MS)),
            405 | 501 if self.takes_update => (self.takes_update, pause) = (false, Duration::ZERO),
            422 => timer.lengthen(least_of(response).unwrap_or(LEAST_SECONDS).min(MOST_SECONDS)),
            _ => {}
        }
        timer.try_again(pause, clock::now());
    }

    async fn lose(&self, cause: &'static str) -> Ended {
        let _ = self.bye("session_expired").await;
        Err(lost(cause))
    }

    /// Hangs up. The phone's answer changes nothing.
    async fn bye(&self, reason: &str) -> Ended {
        // RFC 3326.
        let reason = Header::Reason(reason::ours(reason).into());
        let _ = timeout(LAST_RESPONSE, self.dialog.bye_with_headers(Some(vec![reason]))).await;
        Ok(())
    }
}

async fn until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

pub(super) fn session_of(message: &impl HeadersExt) -> Option<SessionExpires> {
    let value = message.header_value("Session-Expires").or_else(|| message.header_value("x"))?;
    SessionExpires::parse(&value)
}

/// RFC 4028 §9: the answer says what was agreed on, and that the other side must keep it.
pub(super) fn timer_headers(session: Option<SessionExpires>) -> Vec<Header> {
    let ours = abilities();
    let agreed =
        session.map(|session| [Header::SessionExpires(session.to_string().into()), Header::Require("timer".into())]);
    ours.into_iter().chain(agreed.into_iter().flatten()).collect()
}

pub(super) fn allows(message: &impl HeadersExt, method: Method) -> bool {
    let name = method.to_string();
    let allowed = message.header_value("Allow").unwrap_or_default();
    allowed.split(',').any(|allowed| allowed.trim() == name)
}

fn lost(cause: &'static str) -> AgentFailure {
    AgentFailureKind::Disconnected.because(cause)
}
