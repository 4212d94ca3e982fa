//! A SIP phone as agent or participant: the task that calls it, or all phones of a user, and carries audio, keys and holds
//! between the one that answers and the call.
//!
//! Signalling comes from the phone's [`SipLeg`]; audio is in its `PhoneMedia`, whose datagrams the worker hands over.

mod line;
mod media;
mod negotiation;
mod ringing;
mod calling;

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::opus::Profile;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::notice::Notice;
use super::port::AgentPort;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CallCommand, CourseCommand, Destination, Hold, SendDtmf, SoundCommand, Transfer};
use crate::clock;
use crate::pulse::Standstills;
use crate::sip::{Callee, Refused, SipEvent, SipLeg, SipUri, TrunkNumber, UserAgent};
pub use calling::CallingPhone;
pub(super) use calling::run as wait;
pub use line::PhoneId;
pub(crate) use line::PhoneLine;
use media::{FromPhone, MediaChange, PhoneMedia};
pub use negotiation::AudioRules;
use ringing::{Phone, ring};

/// The task rests at least this long, so that a deadline in the past cannot spin it.
const REST: Duration = Duration::from_millis(1);
/// Without a deadline the task wakes this often.
const IDLE: Duration = Duration::from_secs(1);
/// Marks our transfer among the results of commands.
const REFER: &str = "refer";

/// What all phones of a service have in common.
#[derive(Clone)]
pub struct SipOptions {
    /// It calls them.
    pub user_agent: UserAgent,
    /// How long one rings.
    pub ring_timeout: Duration,
    /// What may be agreed on about audio.
    pub audio: AudioRules,
}

/// How a phone's part in the call ends.
enum Ending {
    /// The call dismissed it.
    Dismissed(&'static str),
    HungUp,
    Failed(AgentFailure),
}

impl Ending {
    /// The stable name of why.
    fn reason(&self) -> &'static str {
        match self {
            Self::Dismissed(reason) => reason,
            Self::HungUp => "agent_hung_up",
            Self::Failed(failure) => failure.kind.name(),
        }
    }
}

/// Whom an agent's task calls.
pub(super) enum Whom {
    /// One phone or PBX.
    At(SipUri),
    /// All registered phones of a user.
    User(String),
    /// A number behind a trunk.
    Behind(TrunkNumber),
}

impl Whom {
    /// What its INVITE has beside the usual headers.
    fn headers(&self) -> Vec<(String, String)> {
        match self {
            Self::At(_) | Self::User(_) => Vec::new(),
            Self::Behind(number) => number.headers.clone(),
        }
    }

    /// The phones to ring at once, in rounds: those that the user prefers come first.
    fn rounds(self, user_agent: &UserAgent) -> Result<Vec<Vec<Callee>>, AgentFailure> {
        let name = match self {
            Self::At(uri) => return Ok(vec![vec![Callee::Address(uri)]]),
            Self::User(name) => name,
            Self::Behind(number) => {
                let unknown = || AgentFailureKind::NotConfigured.because("there is no such trunk");
                return Ok(vec![vec![Callee::Trunk(user_agent.behind(&number).ok_or_else(unknown)?)]]);
            }
        };
        let phones = user_agent.phones(&name);
        if phones.is_empty() {
            return Err(AgentFailureKind::Refused.because(format_args!("{name} is not registered")));
        }
        let rounds = phones.chunk_by(|one, next| one.q == next.q);
        Ok(rounds.map(|round| round.iter().cloned().map(Callee::Phone).collect()).collect())
    }
}

/// Calls a phone or the phones of a user, and stays until the phone or the call hangs up.
pub(super) async fn run(whom: Whom, port: Rc<AgentPort>, options: Option<SipOptions>) {
    let Some(options) = options else {
        return port.failed(AgentFailureKind::NotConfigured.because("the service has no [sip] section"));
    };
    let headers = whom.headers();
    let rounds = match whom.rounds(&options.user_agent) {
        Ok(rounds) => rounds,
        Err(failure) => return port.failed(failure),
    };
    let ending = match ring(rounds, &headers, &port, &options).await {
        Ok(phone) => talk(phone, &port).await,
        Err(ending) => ending,
    };
    report(ending, &port);
}

fn report(ending: Ending, port: &AgentPort) {
    match ending {
        Ending::Dismissed(_) => {}
        Ending::HungUp => drop(port.hung_up()),
        Ending::Failed(failure) => port.failed(failure),
    }
}

async fn talk(mut phone: Phone, port: &AgentPort) -> Ending {
    let mut talk = Talk::new(&mut phone.media, port, clock::now());
    if phone.is_accepted {
        talk.has_joined = true;
        talk.accepted();
    }
    let ending = talk.last(&mut phone.leg).await;
    phone.hang_up(ending.reason(), port);
    ending
}

/// A phone's time in the call.
struct Talk<'a> {
    media: &'a mut PhoneMedia,
    port: &'a AgentPort,
    standstills: Standstills,
    /// The call knows that it is there.
    has_joined: bool,
    /// The caller is on hold because the phone holds.
    holds_caller: bool,
    /// The outcome of its REFER.
    referring: Option<oneshot::Sender<u16>>,
    /// The caller hears the call.
    is_accepted: bool,
    wakes_at: Instant,
}

impl<'a> Talk<'a> {
    fn new(media: &'a mut PhoneMedia, port: &'a AgentPort, now: Instant) -> Self {
        let standstills = port.standstills();
        let (has_joined, holds_caller, is_accepted, referring) = (false, false, false, None);
        Self { media, port, standstills, has_joined, holds_caller, referring, is_accepted, wakes_at: now }
    }

    async fn last(&mut self, leg: &mut SipLeg) -> Ending {
        let mut timer = pin!(sleep(Duration::ZERO));
        loop {
            let now = clock::now();
            if let Some(ending) = self.step(now) {
                return ending;
            }
            let wakes_at = self.poll_timeout(now);
            if wakes_at != self.wakes_at {
                self.wakes_at = wakes_at;
                timer.as_mut().reset(wakes_at.into());
            }
            tokio::select! {
                biased;
                reason = self.port.dismissed() => return self.dismissed(reason),
                () = self.media.news() => {}
                () = self.port.output() => {}
                event = leg.next() => {
                    if let Some(ending) = self.follow(event) {
                        return ending;
                    }
                }
                () = timer.as_mut() => {}
            }
        }
    }

    fn poll_timeout(&self, now: Instant) -> Instant {
        let next = self.media.poll_timeout().unwrap_or(now + IDLE);
        if next <= now { now + REST } else { next.min(now + IDLE) }
    }

    fn dismissed(&mut self, reason: &'static str) -> Ending {
        // 487: what was asked for is not wanted any more (RFC 3261 §21.4.25).
        self.referred(if reason == "transferred" { 200 } else { 487 });
        Ending::Dismissed(reason)
    }

    /// Does everything that is due.
    fn step(&mut self, now: Instant) -> Option<Ending> {
        if self.wakes_at <= now
            && let Some(gap) = self.standstills.next(now)
        {
            self.media.shift_deadlines(gap, now);
        }
        self.media.handle_timeout(now);
        while let Some(change) = self.media.poll_change(now) {
            match change {
                MediaChange::Begun(format) => {
                    self.port.attach(format, Profile::Eco);
                    if !std::mem::replace(&mut self.has_joined, true) {
                        self.port.joined();
                    }
                }
                MediaChange::Closed => return Some(self.hung_up()),
                MediaChange::Lost(failure) => return Some(Ending::Failed(failure)),
            }
        }
        self.take_received(now);
        self.deliver(now);
        None
    }

    /// A phone that leaves before its audio flows was never there.
    fn hung_up(&self) -> Ending {
        match self.has_joined {
            true => Ending::HungUp,
            false => Ending::Failed(AgentFailureKind::Refused.because("it hung up before its audio was connected")),
        }
    }

    /// What the phone does in its dialog.
    fn follow(&mut self, event: Option<SipEvent>) -> Option<Ending> {
        match event? {
            SipEvent::Offered { sdp, reply } => {
                // The phone may have given up.
                let _ = reply.send(self.answer_offer(sdp.as_deref()));
            }
            SipEvent::LateAnswer { sdp } => {
                // What cannot be used changes nothing.
                if self.media.late_answer(&sdp, clock::now()).is_ok() {
                    self.follow_hold();
                }
            }
            SipEvent::Digit(digit) => self.press(digit),
            SipEvent::Referred { to, outcome } => self.refer(&to, outcome),
            SipEvent::HungUp => return Some(self.hung_up()),
            SipEvent::Failed(failure) => return Some(Ending::Failed(failure)),
            SipEvent::Ringing | SipEvent::Answered(_) => {}
        }
        None
    }

    fn answer_offer(&mut self, sdp: Option<&str>) -> Result<String, Refused> {
        let Some(sdp) = sdp else { return self.media.later_offer().map_err(|_| Refused::NotAcceptable) };
        let answer = self.media.answer(self.port, sdp, clock::now()).map_err(|_| Refused::NotAcceptable)?;
        self.follow_hold();
        Ok(answer)
    }

    /// The caller hears the call, and the phone may hold it already.
    fn accepted(&mut self) {
        self.is_accepted = true;
        self.follow_hold();
    }

    /// The caller hears the hold prompt while the phone holds. A hold of the agent's own stays.
    fn follow_hold(&mut self) {
        if !self.is_accepted {
            return;
        }
        let is_held = self.media.is_held();
        if is_held && !self.holds_caller && !self.port.is_on_hold() {
            self.holds_caller = true;
            self.command(SoundCommand::Hold(Hold::default()));
        } else if !is_held && std::mem::take(&mut self.holds_caller) {
            self.command(SoundCommand::Unhold);
        }
    }

    fn press(&self, digit: char) {
        self.command(SoundCommand::SendDtmf(SendDtmf { digits: digit.to_string() }));
    }

    fn command(&self, command: SoundCommand) {
        self.port.command(Value::Null, Ok(CallCommand::Sound(command)));
    }

    /// The user agent has checked that the target is allowed.
    fn refer(&mut self, to: &SipUri, outcome: oneshot::Sender<u16>) {
        self.referring = Some(outcome);
        self.port.want_events();
        let to = Destination { phone: Some(to.to_string()), ..Destination::default() };
        let transfer = CourseCommand::Transfer(Transfer { to, warm: false });
        self.port.command(json!(REFER), Ok(CallCommand::Course(transfer)));
    }

    /// Its REFER ended with this code.
    fn referred(&mut self, code: u16) {
        if let Some(outcome) = self.referring.take() {
            // The dialog that waits for it may have ended.
            let _ = outcome.send(code);
        }
    }

    fn refer_failed(&mut self, code: u16) {
        self.referred(code);
        // The transfer had a hold of its own, which has ended; the phone may still hold.
        if !self.port.is_on_hold() {
            self.holds_caller = false;
            self.follow_hold();
        }
    }

    /// The call hears what the phone sent.
    fn take_received(&mut self, now: Instant) {
        while let Some(received) = self.media.poll_received(now) {
            match received {
                FromPhone::Key(digit) => self.press(digit),
                // A full queue drops it: a phone cannot be slowed down.
                FromPhone::Audio(audio) => self.port.say(audio, now),
            }
        }
    }

    /// The phone hears what the call has for it.
    fn deliver(&mut self, now: Instant) {
        while let Some(notice) = self.port.next_notice() {
            match notice {
                Notice::Dtmf { digit: Some(digit), .. } => self.media.send_key(digit),
                Notice::Accepted => self.accepted(),
                Notice::CommandResult { request_id, outcome: Err(_) } if request_id == REFER => self.refer_failed(503),
                Notice::Event(event) if event.kind == "call.transferred" && event.data["completed"] == false => {
                    self.refer_failed(code_of(&event.data));
                }
                // A phone learns nothing of the rest.
                Notice::Dtmf { digit: None, .. }
                | Notice::Start(_)
                | Notice::Mark { .. }
                | Notice::Cleared(_)
                | Notice::Xoff { .. }
                | Notice::Xon { .. }
                | Notice::Event(_)
                | Notice::CommandResult { .. }
                | Notice::Error { .. }
                | Notice::Stop { .. } => {}
            }
        }
        while let Some(sound) = self.port.next_sound() {
            self.media.send_audio(&sound, now);
        }
        self.media.flush();
    }
}

/// The code that NOTIFY reports for a failed transfer: the new phone's own, or one of the same meaning.
fn code_of(transferred: &Value) -> u16 {
    if let Some(code) = transferred["sip_code"].as_u64().and_then(|code| u16::try_from(code).ok()) {
        return code;
    }
    match transferred["reason"].as_str() {
        Some("no_answer") => 408,
        Some("unavailable") => 480,
        Some("busy") => 486,
        Some("cancelled") => 487,
        Some("declined") => 603,
        Some(_) | None => 503,
    }
}
