//! A browser page as agent or participant: the task that carries Opus packets and keys between its RTP leg and the call.
//! An endpoint that answers our offer is carried by the same task.
//!
//! The worker hands every datagram to the leg, which wakes the task. Packets are relayed unchanged in both directions.

mod leg;
pub(super) mod seat;

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::opus::{Profile, SampleRate};
use patchcord_media::reorder::Slot;
use patchcord_media::rtp_leg::Received;
use serde_json::Value;
use tokio::time::sleep;

use super::notice::Notice;
use super::port::{AgentPort, PortUser};
use super::{Encoding, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CallCommand, Hold, SendDtmf, SoundCommand};
use crate::clock;
use crate::pulse::Standstills;
pub use leg::BrowserId;
pub(crate) use leg::{BrowserLeg, Wire};
use seat::{CONNECT_WITHIN, Occupant, Seat, SeatChange};

/// The format on the wire, which no page changes.
const FORMAT: SoundFormat = SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 };
/// The task rests at least this long, so that a deadline in the past cannot spin it.
const REST: Duration = Duration::from_millis(1);
/// Without a deadline the task wakes this often.
const IDLE: Duration = Duration::from_secs(1);

/// How a page's part in the call ends.
enum Ending {
    /// The call dismissed it.
    Dismissed,
    /// The page left.
    Left,
    Failed(AgentFailure),
}

/// Carries the audio of a page whose offer was answered, until it leaves, is lost or is dismissed.
pub(super) async fn run(id: BrowserId, port: Rc<AgentPort>) {
    let occupant = match port.user() {
        PortUser::Agent { .. } => Occupant::Agent,
        PortUser::Participant(_) => Occupant::Participant,
    };
    carry(id, &port, Seat::new(occupant, CONNECT_WITHIN, clock::now())).await;
}

/// Carries the audio of a leg whose SDP is exchanged, until its remote leaves, is lost or is dismissed.
pub(super) async fn carry(id: BrowserId, port: &AgentPort, seat: Seat) {
    let Some(leg) = port.browser(id) else {
        return port.failed(AgentFailureKind::Refused.because("its connection was given up"));
    };
    leg.claim();
    let mut visit = Visit::new(&leg, port, seat, clock::now());
    let ending = visit.last().await;
    match ending {
        Ending::Dismissed => {}
        Ending::Left if visit.has_joined => drop(port.hung_up()),
        Ending::Left => port.failed(AgentFailureKind::Refused.because("it left before it was connected")),
        Ending::Failed(failure) => port.failed(failure),
    }
    port.release_browser(id);
}

/// A page's time in the call.
struct Visit<'a> {
    leg: &'a BrowserLeg,
    port: &'a AgentPort,
    seat: Seat,
    standstills: Standstills,
    has_joined: bool,
    /// We put the caller on hold because the page vanished.
    holds_caller: bool,
    wakes_at: Instant,
}

impl<'a> Visit<'a> {
    fn new(leg: &'a BrowserLeg, port: &'a AgentPort, seat: Seat, now: Instant) -> Self {
        let standstills = port.standstills();
        Self { leg, port, seat, standstills, has_joined: false, holds_caller: false, wakes_at: now }
    }

    async fn last(&mut self) -> Ending {
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
                _ = self.port.dismissed() => return Ending::Dismissed,
                () = self.leg.news() => {}
                () = self.port.output() => {}
                () = timer.as_mut() => {}
            }
        }
    }

    fn poll_timeout(&self, now: Instant) -> Instant {
        let deadlines = [self.leg.poll_timeout(), self.seat.poll_timeout()];
        let next = deadlines.into_iter().flatten().min().unwrap_or(now + IDLE);
        // A deadline that stays is not set anew for every packet.
        if next <= now { now + REST } else { next }
    }

    /// Does everything that is due.
    fn step(&mut self, now: Instant) -> Option<Ending> {
        if self.leg.has_left() {
            return Some(Ending::Left);
        }
        if self.wakes_at <= now {
            self.forgive_standstill(now);
        }
        self.leg.handle_timeout(now);
        while let Some(event) = self.leg.poll_event() {
            let change = self.seat.handle(event, now);
            if let Some(ending) = self.follow(change, now) {
                return Some(ending);
            }
        }
        let change = self.seat.handle_timeout(now);
        if let Some(ending) = self.follow(change, now) {
            return Some(ending);
        }
        self.take_received(now);
        self.deliver(now);
        None
    }

    fn forgive_standstill(&mut self, now: Instant) {
        if let Some(gap) = self.standstills.next(now) {
            self.leg.shift_deadlines(gap, now);
            self.seat.shift_deadlines(gap, now);
        }
    }

    fn follow(&mut self, change: Option<SeatChange>, now: Instant) -> Option<Ending> {
        match change? {
            SeatChange::Joined => {
                self.has_joined = true;
                self.port.attach(FORMAT, Profile::Eco);
                self.leg.start(now);
                self.port.joined();
            }
            SeatChange::Vanished => self.hold_caller(),
            SeatChange::Returned => {
                if std::mem::take(&mut self.holds_caller) {
                    self.port.command(Value::Null, Ok(CallCommand::Sound(SoundCommand::Unhold)));
                }
            }
            SeatChange::HungUp => return Some(Ending::Left),
            SeatChange::Lost(failure) => return Some(Ending::Failed(failure)),
        }
        None
    }

    /// The caller hears the hold prompt until the page is back. A hold of the agent's own stays.
    fn hold_caller(&mut self) {
        if !self.port.is_on_hold() {
            self.holds_caller = true;
            self.port.command(Value::Null, Ok(CallCommand::Sound(SoundCommand::Hold(Hold::default()))));
        }
    }

    /// The call hears what the page sent. Packets that are lost are concealed as any Opus agent's are.
    fn take_received(&mut self, now: Instant) {
        while let Some(received) = self.leg.poll_received(now) {
            match received {
                // A full queue drops it: a page cannot be slowed down.
                Received::Slot(Slot::Packet { payload, .. }) => self.port.say(payload, now),
                Received::Key(key) => {
                    let digits = key.digit.to_string();
                    self.port.command(Value::Null, Ok(CallCommand::Sound(SoundCommand::SendDtmf(SendDtmf { digits }))));
                }
                Received::Slot(Slot::Lost { .. } | Slot::Quiet { .. })
                | Received::Restarted
                | Received::ComfortNoise { .. } => {}
            }
        }
    }

    /// The page hears what the call has for it.
    fn deliver(&mut self, now: Instant) {
        while let Some(notice) = self.port.next_notice() {
            match notice {
                Notice::Dtmf { digit: Some(digit), .. } => self.leg.send_key(digit),
                // A page learns the rest from the API.
                Notice::Dtmf { digit: None, .. }
                | Notice::Start(_)
                | Notice::Accepted
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
        while let Some(packet) = self.port.next_sound() {
            self.leg.relay(&packet, now);
        }
        self.leg.flush();
    }
}
