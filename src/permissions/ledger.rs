//! Ledger: what is known of one person at one business number, as facts in their order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fact::{Fact, Source, What};
use super::rules::{BELIEVED_FOR, Rules};
use super::{Moment, event};
use crate::whatsapp::permission::{CallPermissions, PermissionStatus};

/// Calls that are kept: more than Meta allows in a day. The oldest go first, as with the other bounds.
const MOST_CALLS: usize = 160;
/// Requests that are kept: more than a test number may send in a week.
const MOST_REQUESTS: usize = 128;
/// Replies, look-ups and refusals that are kept.
const MOST_WORDS: usize = 64;

/// The facts, sorted. What follows from them depends on the facts alone, not on the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    facts: Vec<Fact>,
}

/// How the permission stands by the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known.
    Unknown,
    /// Calls are permitted.
    Granted {
        /// None for good.
        until: Option<Moment>,
        /// When it was given.
        since: Moment,
        /// How it came about.
        source: Source,
    },
    /// The person refused a request.
    Denied {
        /// When.
        since: Moment,
    },
    /// A permission was withdrawn.
    Revoked {
        /// When.
        since: Moment,
        /// By whom.
        source: Source,
    },
    /// Graph knows of no permission.
    Absent {
        /// When it said so.
        since: Moment,
    },
}

/// A standing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Permitted for good.
    Permanent,
    /// Permitted until then.
    Temporary(Moment),
    /// Not permitted: it ran out then.
    Expired(Moment),
    /// Not permitted, as far as Graph knows.
    Absent,
    /// The person refused.
    Denied,
    /// Withdrawn.
    Revoked,
    /// Nothing is known, or only an old word of Graph's.
    Unknown,
}

impl Status {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Temporary(_) => "temporary",
            Self::Expired(_) | Self::Absent => "none",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
        }
    }
}

/// What a new fact changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// False if the ledger had it.
    pub is_new: bool,
    /// What the application is told.
    pub event: Option<event::Kind>,
}

/// What follows from the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub standing: Standing,
    /// Placed calls left unanswered in a row.
    pub unanswered: u32,
}

impl Ledger {
    /// The facts, the oldest first.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Adds a fact; the same one again changes nothing.
    pub fn learn(&mut self, fact: &Fact, rules: &Rules) -> Learned {
        if self.facts.iter().any(|known| known.is_same(fact)) {
            return Learned { is_new: false, event: None };
        }
        let before = self.summary(rules).standing;
        self.insert(fact.clone());
        let after = self.summary(rules).standing;
        let event = self.event_of(fact, before, after);
        self.bound();
        Learned { is_new: true, event }
    }

    /// Takes the facts of another ledger: both are of one person.
    pub fn merge(&mut self, other: Self) {
        for fact in other.facts {
            if !self.facts.iter().any(|known| known.is_same(&fact)) {
                self.insert(fact);
            }
        }
        self.bound();
    }

    /// How the permission stands, without regard to the time.
    pub fn standing(&self, rules: &Rules) -> Standing {
        self.summary(rules).standing
    }

    /// How it stands now.
    pub fn status(&self, rules: &Rules, now: Moment) -> Status {
        match self.standing(rules) {
            Standing::Unknown => Status::Unknown,
            Standing::Granted { until: None, .. } => Status::Permanent,
            Standing::Granted { until: Some(until), .. } if now < until => Status::Temporary(until),
            // The person may have permitted it again, and no webhook has told us of this one either.
            Standing::Granted { source: Source::Graph, .. } => Status::Unknown,
            Standing::Granted { until: Some(until), .. } => Status::Expired(until),
            Standing::Denied { .. } => Status::Denied,
            Standing::Revoked { .. } => Status::Revoked,
            Standing::Absent { since } if now < since.plus(BELIEVED_FOR) => Status::Absent,
            Standing::Absent { .. } => Status::Unknown,
        }
    }

    /// Placed calls left unanswered in a row.
    pub fn unanswered(&self, rules: &Rules) -> u32 {
        self.summary(rules).unanswered
    }

    /// The last answer of Graph, and when it came.
    pub fn last_look_up(&self) -> Option<(Moment, &CallPermissions)> {
        self.facts.iter().rev().find_map(|fact| match &fact.what {
            What::LookedUp(found) => Some((fact.at, &**found)),
            What::Requested
            | What::Granted { .. }
            | What::Denied { .. }
            | What::Revoked { .. }
            | What::CallAnswered { .. }
            | What::CallUnanswered
            | What::Refused { .. } => None,
        })
    }

    /// Whether Graph should be asked before the ledger's standing is shown: nothing is known, it ran out, or it is an old
    /// word of Graph's.
    pub fn needs_graph(&self, rules: &Rules, now: Moment) -> bool {
        let is_old = |since: Moment| now >= since.plus(BELIEVED_FOR);
        match self.standing(rules) {
            Standing::Unknown => true,
            Standing::Absent { since } => is_old(since),
            Standing::Granted { until, since, source } => {
                let has_run_out = until.is_some_and(|until| until <= now);
                let asked_at = self.last_look_up().map_or(since, |(at, _)| at.max(since));
                (has_run_out || source == Source::Graph) && is_old(asked_at)
            }
            Standing::Denied { .. } | Standing::Revoked { .. } => false,
        }
    }

    pub(super) fn summary(&self, rules: &Rules) -> Summary {
        let mut summary = Summary { standing: Standing::Unknown, unanswered: 0 };
        self.facts.iter().for_each(|fact| summary.apply(fact, rules));
        summary
    }

    /// Times of these facts, the oldest first.
    pub(super) fn times(&self, is_wanted: impl Fn(&What) -> bool) -> impl DoubleEndedIterator<Item = Moment> {
        self.facts.iter().filter(move |fact| is_wanted(&fact.what)).map(|fact| fact.at)
    }

    fn insert(&mut self, fact: Fact) {
        self.drop_repeated_look_up(&fact);
        let at = self.facts.partition_point(|known| known.order() <= fact.order());
        self.facts.insert(at, fact);
    }

    /// Of look-ups with one outcome the last one is enough.
    fn drop_repeated_look_up(&mut self, fact: &Fact) {
        let What::LookedUp(found) = &fact.what else { return };
        let Some(last) = self.facts.iter().rposition(|known| known.what.is_word()) else { return };
        if let What::LookedUp(known) = &self.facts[last].what
            && (known.status, known.expires_at) == (found.status, found.expires_at)
            && self.facts[last].at <= fact.at
        {
            self.facts.remove(last);
        }
    }

    fn bound(&mut self) {
        let is_call = |what: &What| matches!(what, What::CallAnswered { .. } | What::CallUnanswered);
        self.keep_last(MOST_CALLS, is_call);
        self.keep_last(MOST_REQUESTS, |what| *what == What::Requested);
        self.keep_last(MOST_WORDS, What::is_word);
    }

    fn keep_last(&mut self, most: usize, is_bounded: impl Fn(&What) -> bool) {
        let count = self.facts.iter().filter(|fact| is_bounded(&fact.what)).count();
        let mut excess = count.saturating_sub(most);
        self.facts.retain(|fact| {
            let goes = excess > 0 && is_bounded(&fact.what);
            excess -= usize::from(goes);
            !goes
        });
    }

    /// A reply is told once, if nothing later contradicts it. What Graph says, and what follows from unanswered calls, is
    /// told if it changes what was known.
    fn event_of(&self, fact: &Fact, before: Standing, after: Standing) -> Option<event::Kind> {
        if let Some(told) = event::Kind::of_fact(&fact.what) {
            let is_last = self.facts.iter().rfind(|known| known.what.is_reply()) == Some(fact);
            let answers_us =
                matches!(fact.what, What::Granted { answers: Some(_), .. } | What::Denied { answers: Some(_) });
            let is_news = answers_us || !after.is_like(before);
            return (is_last && is_news && event::Kind::of(after) == Some(told)).then_some(told);
        }
        let (was_permitted, is_permitted) = (before.permits(fact.at), after.permits(fact.at));
        let is_revoked = matches!(after, Standing::Revoked { .. }) && !after.is_like(before);
        match (was_permitted, is_permitted) {
            (true, false) => Some(event::Kind::Revoked),
            (false, false) => is_revoked.then_some(event::Kind::Revoked),
            (false, true) => (before != Standing::Unknown).then_some(event::Kind::Granted),
            (true, true) => None,
        }
    }
}

impl Standing {
    fn permits(self, at: Moment) -> bool {
        match self {
            Self::Granted { until, .. } => until.is_none_or(|until| at < until),
            Self::Unknown | Self::Denied { .. } | Self::Revoked { .. } | Self::Absent { .. } => false,
        }
    }

    /// The same permission, from any source.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Granted { until: one, .. }, Self::Granted { until: another, .. }) => one == another,
            (Self::Denied { .. }, Self::Denied { .. }) | (Self::Revoked { .. }, Self::Revoked { .. }) => true,
            (Self::Unknown, Self::Unknown) | (Self::Absent { .. }, Self::Absent { .. }) => true,
            (
                Self::Granted { .. } | Self::Denied { .. } | Self::Revoked { .. } | Self::Unknown | Self::Absent { .. },
                _,
            ) => false,
        }
    }
}

impl Summary {
    fn apply(&mut self, fact: &Fact, rules: &Rules) {
        let since = fact.at;
        match &fact.what {
            What::Requested => {}
            What::Granted { until, source, .. } => {
                self.unanswered = 0;
                if !self.outlasts(*until, *source) {
                    self.standing = Standing::Granted { until: *until, since, source: *source };
                }
            }
            What::Denied { .. } => self.standing = Standing::Denied { since },
            What::Revoked { source } => self.standing = Standing::Revoked { since, source: *source },
            What::CallAnswered { placed } => {
                if *placed {
                    self.unanswered = 0;
                    self.was_permitted();
                }
            }
            What::CallUnanswered => {
                self.unanswered += 1;
                self.was_permitted();
                if self.unanswered >= rules.revoked_after && self.may_be_revoked() {
                    self.standing = Standing::Revoked { since, source: Source::Automatic };
                }
            }
            What::LookedUp(found) => self.looked_up(found, since),
            What::Refused { code, .. } => self.refused(*code, since),
        }
    }

    /// A permission that Meta gives because the person called us does not shorten a longer one.
    fn outlasts(&self, new: Option<Moment>, source: Source) -> bool {
        let Standing::Granted { until, .. } = self.standing else { return false };
        let is_longer = match (until, new) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(until), Some(new)) => until >= new,
        };
        source == Source::Automatic && is_longer
    }

    /// Meta put a call through, so it is no longer true that there is no permission.
    fn was_permitted(&mut self) {
        if let Standing::Absent { .. } = self.standing {
            self.standing = Standing::Unknown;
        }
    }

    /// Only where Meta's webhooks reach us: one would tell of a new permission, and without it the ledger would refuse calls
    /// for ever.
    fn may_be_revoked(&self) -> bool {
        match self.standing {
            Standing::Granted { source: Source::Reply | Source::Automatic, .. } => true,
            Standing::Granted { source: Source::Graph, .. } | Standing::Unknown | Standing::Absent { .. } => false,
            Standing::Denied { .. } | Standing::Revoked { .. } => false,
        }
    }

    fn looked_up(&mut self, found: &CallPermissions, since: Moment) {
        let until = match found.status {
            PermissionStatus::None => return self.is_absent(since),
            PermissionStatus::Permanent => None,
            PermissionStatus::Temporary => found.expires_at.map(Moment::of_seconds),
        };
        let is_known = matches!(self.standing, Standing::Granted { until: known, .. } if known == until);
        if let Standing::Revoked { .. } = self.standing {
            // Meta does not count as we do.
            self.unanswered = 0;
        }
        if !is_known {
            self.standing = Standing::Granted { until, since, source: Source::Graph };
        }
    }

    fn refused(&mut self, code: i64, since: Moment) {
        match code {
            NO_PERMISSION => self.is_absent(since),
            PERMANENT => self.standing = Standing::Granted { until: None, since, source: Source::Graph },
            _ => {}
        }
    }

    /// Graph does not say why there is none; the ledger may know.
    fn is_absent(&mut self, since: Moment) {
        match self.standing {
            Standing::Denied { .. } | Standing::Revoked { .. } => {}
            Standing::Unknown | Standing::Granted { .. } | Standing::Absent { .. } => {
                self.standing = Standing::Absent { since };
            }
        }
    }
}

/// Meta's error 138006: no approved call permission.
pub(super) const NO_PERMISSION: i64 = 138_006;
/// Meta's error 138009: too many permission requests.
pub(super) const TOO_MANY_REQUESTS: i64 = 138_009;
/// Meta's error 138012: too many connected calls.
pub(super) const TOO_MANY_CALLS: i64 = 138_012;
/// Meta's error 138017: a permanent permission exists.
pub(super) const PERMANENT: i64 = 138_017;

/// Meta's replies have whole seconds: one of the second in which we did something came after it.
pub(super) const SECOND_END: Duration = Duration::from_millis(999);
