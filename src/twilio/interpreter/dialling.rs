//! `<Dial>`: people ring together, the first who answers has the caller, and the app learns how it went.

use std::time::{Duration, Instant};

use super::{Action, DialStatus, Interpreter, Request, State};
use crate::twilio::status::Stage;
use crate::twilio::twiml::Dial;

/// One who did not answer.
type Lost = (usize, DialStatus);

/// Of two who did not answer, the one of whom the app learns.
pub(super) fn nearest(one: Option<Lost>, other: Option<Lost>) -> Option<Lost> {
    one.into_iter().chain(other).max_by_key(|(_, status)| status.nearness())
}

impl Interpreter {
    /// Whether all status callbacks of the verb lead somewhere.
    pub(super) fn check_callbacks(&self, dial: &Dial) -> Result<(), String> {
        let mut told = dial.nouns.iter().filter_map(|noun| noun.status.as_ref());
        told.try_for_each(|(callback, _)| self.absolute(&callback.url).map(drop))
    }

    pub(super) fn dial_answered(&mut self, dial: Dial, mut ringing: Vec<usize>, callee: usize, now: Instant) {
        ringing.retain(|other| *other != callee);
        self.stop_ringing(&dial, &ringing, DialStatus::Canceled);
        self.tell(&dial, callee, Stage::Answered, "in-progress", None);
        let end_at = now + dial.time_limit;
        self.state = State::Dialled { dial, callee, since: now, end_at };
    }

    /// One callee of several may be lost while the others ring.
    pub(super) fn callee_lost(
        &mut self,
        dial: Dial,
        (mut ringing, best, give_up_at): (Vec<usize>, Option<Lost>, Instant),
        (callee, status): Lost,
        now: Instant,
    ) {
        ringing.retain(|other| *other != callee);
        self.tell(&dial, callee, Stage::Completed, status.name(), Some(Duration::ZERO));
        let best = nearest(best, Some((callee, status)));
        match ringing.is_empty() {
            true => self.dial_ended(dial, best, None, now),
            false => self.state = State::Dialling { dial, ringing, best, give_up_at },
        }
    }

    /// The callee and the caller have talked.
    pub(super) fn parted(&mut self, dial: Dial, callee: usize, since: Instant, now: Instant) {
        let talked = now.saturating_duration_since(since);
        self.tell(&dial, callee, Stage::Completed, "completed", Some(talked));
        self.dial_ended(dial, Some((callee, DialStatus::Completed)), Some(talked), now);
    }

    /// The app has no caller any more: nobody is to ring or talk on its behalf.
    pub(super) fn left(&mut self, state: State, now: Instant) {
        match state {
            State::Dialling { dial, ringing, .. } => self.stop_ringing(&dial, &ringing, DialStatus::Canceled),
            State::Dialled { dial, callee, since, .. } => {
                self.actions.push_back(Action::StopDial(callee));
                let talked = now.saturating_duration_since(since);
                self.tell(&dial, callee, Stage::Completed, "completed", Some(talked));
            }
            State::Fetching { .. }
            | State::Preparing { .. }
            | State::Answering { .. }
            | State::Playing
            | State::Pausing { .. }
            | State::Gathering { .. }
            | State::Streaming { .. }
            | State::Over => {}
        }
    }

    pub(super) fn stop_ringing(&mut self, dial: &Dial, ringing: &[usize], status: DialStatus) {
        for callee in ringing {
            self.actions.push_back(Action::StopDial(*callee));
            self.tell(dial, *callee, Stage::Completed, status.name(), Some(Duration::ZERO));
        }
    }

    /// Tells the status callback of a callee, if it has one that wants this.
    pub(super) fn tell(&mut self, dial: &Dial, callee: usize, stage: Stage, status: &str, talked: Option<Duration>) {
        let Some((told, stages)) = dial.nouns.get(callee).and_then(|noun| noun.status.as_ref()) else { return };
        // It was one when the verb began.
        let Ok(url) = self.absolute(&told.url) else { return };
        if !stages.has(stage) {
            return;
        }
        let mut fields = vec![("CallStatus", status.to_owned())];
        if let Some(talked) = talked {
            fields.push(("CallDuration", talked.as_secs().to_string()));
        }
        self.actions.push_back(Action::Tell(Request { url, method: told.method, fields, callee: Some(callee) }));
    }

    pub(super) fn dial_ended(&mut self, dial: Dial, best: Option<Lost>, talked: Option<Duration>, now: Instant) {
        let Some(action) = dial.action else { return self.proceed(now) };
        let status = best.map_or(DialStatus::Failed, |(_, status)| status);
        let mut fields = vec![("DialCallStatus", status.name().to_owned())];
        if let Some(talked) = talked {
            fields.push(("DialCallDuration", talked.as_secs().to_string()));
        }
        self.go_on_about(best.map(|(callee, _)| callee), &action, fields);
    }
}
