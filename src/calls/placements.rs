//! Placements: calls that we place and Meta has not named yet, and webhooks that come before their call is named.
//!
//! Meta names a call in its reply to connect. Its webhooks may overtake the reply, and the reply may be lost. So a
//! webhook of an unknown call is matched by what our connect carried: the callback data, and the callee. One that
//! matches no call waits for the replies on their way. A call that ends unnamed stays here for a while: if Meta shows
//! it after all, it has to be ended there.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::call::event::CallId;
use crate::whatsapp::graph::Callee;
use crate::whatsapp::webhook::Notice;
use crate::whatsapp::{Party, PhoneNumberId, WaCallId};

/// How long Meta may still show a call that ended unnamed: longer than a phone rings.
const ABANDONED_FOR: Duration = Duration::from_secs(180);
/// How long a webhook waits for its call to be named: longer than a connect with its retries.
const EARLY_FOR: Duration = Duration::from_secs(15);
/// Webhooks that wait at most; beyond it the oldest is dropped.
const EARLY_NOTICES: usize = 512;

/// The unnamed calls.
#[derive(Default)]
pub(super) struct Placements {
    unnamed: HashMap<CallId, Unnamed>,
    /// The oldest first.
    early: VecDeque<Early>,
}

/// What our connect says of a call.
#[derive(Clone)]
pub(super) struct Dialled {
    pub number: PhoneNumberId,
    pub callee: Callee,
    pub callback_data: String,
}

/// A call that Meta has not named.
struct Unnamed {
    dialled: Dialled,
    standing: Standing,
}

/// How an unnamed call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It lives.
    Live,
    /// It has ended here, and may exist at Meta.
    Abandoned { until: Instant },
}

/// What a webhook says of its call.
pub(super) struct CallHints<'a> {
    pub number: Option<&'a PhoneNumberId>,
    pub callee: &'a Party,
    pub callback_data: Option<&'a str>,
}

struct Early {
    wacid: WaCallId,
    notice: Notice,
    until: Instant,
}

impl Placements {
    /// A call whose connect is sent next.
    pub fn begin(&mut self, call: CallId, dialled: Dialled) {
        self.unnamed.insert(call, Unnamed { dialled, standing: Standing::Live });
    }

    /// A call of an earlier process, which may exist at Meta.
    pub fn begin_abandoned(&mut self, call: CallId, dialled: Dialled, now: Instant) {
        let standing = Standing::Abandoned { until: now + ABANDONED_FOR };
        self.unnamed.insert(call, Unnamed { dialled, standing });
    }

    /// The call has ended and may exist at Meta.
    pub fn abandon(&mut self, call: &CallId, now: Instant) {
        if let Some(unnamed) = self.unnamed.get_mut(call) {
            unnamed.standing = Standing::Abandoned { until: now + ABANDONED_FOR };
        }
    }

    /// Whether the call has ended unnamed.
    pub fn is_abandoned(&self, call: &CallId) -> bool {
        self.unnamed.get(call).is_some_and(|unnamed| unnamed.standing != Standing::Live)
    }

    /// The call does not exist at Meta, or not any more. Gives its number; None if Meta has named it.
    pub fn forget(&mut self, call: &CallId) -> Option<PhoneNumberId> {
        self.unnamed.remove(call).map(|unnamed| unnamed.dialled.number)
    }

    /// The same for a call that has ended; None also if Meta may have it.
    pub fn forget_ended(&mut self, call: &CallId) -> Option<PhoneNumberId> {
        if self.is_abandoned(call) { None } else { self.forget(call) }
    }

    /// Meta has named the call. Gives its number, how it stood, and the webhooks that waited for it in their order.
    /// None for a call that is not unnamed.
    pub fn name(&mut self, call: &CallId, wacid: &WaCallId) -> Option<(PhoneNumberId, Standing, Vec<Notice>)> {
        let Unnamed { dialled, standing } = self.unnamed.remove(call)?;
        let (mine, others) = self.early.drain(..).partition::<VecDeque<Early>, _>(|early| early.wacid == *wacid);
        self.early = others;
        Some((dialled.number, standing, mine.into_iter().map(|early| early.notice).collect()))
    }

    /// The one unnamed call that a webhook can be about. Meta allows one call at a time between a number and a person.
    pub fn find(&self, hints: &CallHints<'_>) -> Option<CallId> {
        let exact = self.only(|call, dialled| {
            dialled.is_of(hints) && hints.callback_data == Some(call.as_str()) && dialled.callback_data == call.as_str()
        });
        exact.or_else(|| {
            self.only(|_, dialled| {
                let fits = hints.callback_data.is_none_or(|data| data == dialled.callback_data);
                dialled.is_of(hints) && fits && dialled.callee.is(hints.callee)
            })
        })
    }

    /// Keeps a webhook whose call may be named soon. False if no call of its number is on the way.
    pub fn keep(
        &mut self,
        hints: &CallHints<'_>,
        wacid: &WaCallId,
        notice: impl FnOnce() -> Notice,
        now: Instant,
    ) -> bool {
        let may_be_ours = self.unnamed.values().any(|unnamed| unnamed.dialled.is_of(hints));
        if may_be_ours {
            if self.early.len() >= EARLY_NOTICES {
                self.early.pop_front();
                metrics::counter!("patchcord_early_webhooks_dropped_total").increment(1);
            }
            self.early.push_back(Early { wacid: wacid.clone(), notice: notice(), until: now + EARLY_FOR });
        }
        may_be_ours
    }

    /// Drops what has waited for too long.
    pub fn forget_old(&mut self, now: Instant) {
        while self.early.front().is_some_and(|early| early.until <= now) {
            self.early.pop_front();
            metrics::counter!("patchcord_early_webhooks_dropped_total").increment(1);
        }
        self.unnamed.retain(|_, unnamed| match unnamed.standing {
            Standing::Live => true,
            Standing::Abandoned { until } => now < until,
        });
    }

    fn only(&self, fits: impl Fn(&CallId, &Dialled) -> bool) -> Option<CallId> {
        let mut found = self.unnamed.iter().filter(|(call, unnamed)| fits(call, &unnamed.dialled));
        match (found.next(), found.next()) {
            (Some((call, _)), None) => Some(call.clone()),
            _ => None,
        }
    }
}

impl Dialled {
    /// Whether the webhook is about a call of the same number; Meta always names it.
    fn is_of(&self, hints: &CallHints<'_>) -> bool {
        hints.number.is_none_or(|number| *number == self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whatsapp::webhook::{CallStatus, Progress};

    fn dialled(callee: &str, callback_data: &str) -> Dialled {
        Dialled {
            number: PhoneNumberId::parse("200000000000002").unwrap(),
            callee: Callee::number(callee).unwrap(),
            callback_data: callback_data.to_owned(),
        }
    }

    fn person(wa_id: &str) -> Party {
        Party { wa_id: Some(wa_id.to_owned()), ..Party::default() }
    }

    fn wacid(text: &str) -> WaCallId {
        WaCallId::parse(text).unwrap()
    }

    fn ringing(wacid: &WaCallId) -> Notice {
        Notice::Status(Box::new(CallStatus {
            call_id: wacid.clone(),
            phone_number_id: None,
            progress: Progress::Ringing,
            timestamp: None,
            recipient: Party::default(),
            biz_opaque_callback_data: None,
        }))
    }

    /// Whom a webhook of our number finds.
    fn found(placements: &Placements, callee: &Party, callback_data: Option<&str>) -> Option<CallId> {
        let number = PhoneNumberId::parse("200000000000002").ok();
        placements.find(&CallHints { number: number.as_ref(), callee, callback_data })
    }

    #[test]
    fn a_webhook_finds_its_call_by_our_id_or_by_tracker_and_callee() {
        let mut placements = Placements::default();
        let (plain, tracked, other) = (CallId::generate(), CallId::generate(), CallId::generate());
        placements.begin(plain.clone(), dialled("12025550143", plain.as_str()));
        placements.begin(tracked.clone(), dialled("12025550144", "job-7"));
        placements.begin(other.clone(), dialled("12025550145", "job-7"));
        // Meta may know the person by another number than the one dialled.
        assert_eq!(found(&placements, &person("5215550143"), Some(plain.as_str())), Some(plain.clone()));
        assert_eq!(found(&placements, &person("12025550144"), Some("job-7")), Some(tracked));
        assert_eq!(found(&placements, &person("12025550145"), None), Some(other));
        assert_eq!(found(&placements, &person("12025550143"), Some("job-8")), None, "another program's call");
        assert_eq!(found(&placements, &person("12025550146"), Some("job-7")), None, "one of two");
        let strange = PhoneNumberId::parse("200000000000003").unwrap();
        let callee = person("12025550143");
        let hints = CallHints { number: Some(&strange), callee: &callee, callback_data: Some(plain.as_str()) };
        assert_eq!(placements.find(&hints), None);
    }

    #[test]
    fn webhooks_wait_in_their_order_for_the_reply_that_names_their_call() {
        let (mut placements, now) = (Placements::default(), Instant::now());
        let nobody = person("0");
        let hints = || CallHints { number: None, callee: &nobody, callback_data: None };
        let (ours, theirs) = (wacid("wacid.1"), wacid("wacid.2"));
        assert!(!placements.keep(&hints(), &ours, || ringing(&ours), now), "nothing is on the way");
        let call = CallId::generate();
        placements.begin(call.clone(), dialled("12025550143", "job-7"));
        for wacid in [&ours, &theirs, &ours] {
            assert!(placements.keep(&hints(), wacid, || ringing(wacid), now));
        }
        let (_, standing, notices) = placements.name(&call, &ours).unwrap();
        assert_eq!((standing, notices), (Standing::Live, vec![ringing(&ours), ringing(&ours)]));
        assert!(placements.name(&call, &ours).is_none(), "a call is named once");
        assert_eq!(placements.early.len(), 1);
        placements.forget_old(now + EARLY_FOR);
        assert!(placements.early.is_empty());
    }

    #[test]
    fn a_call_that_ended_unnamed_is_remembered_for_a_while() {
        let (mut placements, now) = (Placements::default(), Instant::now());
        let call = CallId::generate();
        placements.begin(call.clone(), dialled("12025550143", "job-7"));
        placements.abandon(&call, now);
        assert_eq!(placements.forget_ended(&call), None);
        assert!(placements.is_abandoned(&call));
        placements.forget_old(now + ABANDONED_FOR - Duration::from_secs(1));
        assert_eq!(found(&placements, &person("12025550143"), None), Some(call.clone()));
        placements.forget_old(now + ABANDONED_FOR);
        assert_eq!(found(&placements, &person("12025550143"), None), None);
    }
}
