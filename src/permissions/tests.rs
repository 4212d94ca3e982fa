//! Ledgers by scripts of facts: times are minutes from the start.

use std::time::Duration;

use proptest::prelude::*;

use super::ledger::{NO_PERMISSION, PERMANENT, TOO_MANY_CALLS, TOO_MANY_REQUESTS};
use super::rules::{BELIEVED_FOR, DAY, WEEK};
use super::verdict::{Forbidden, Reason};
use super::{Fact, Ledger, Moment, Rules, Source, Status, What, event};
use crate::whatsapp::permission::{CallPermissions, GraphAction, GraphLimit, PermissionStatus};

const RULES: Rules = Rules::USUAL;
/// Minutes.
const HOURS_24: i64 = 24 * 60;
const DAYS_7: i64 = 7 * HOURS_24;

fn at(minutes: i64) -> Moment {
    Moment::from(1_790_000_000_000 + minutes * 60_000)
}

fn seconds(minutes: i64) -> u64 {
    (at(minutes).ms() / 1000) as u64
}

fn fact(minutes: i64, id: &str, what: What) -> Fact {
    Fact::new(at(minutes), Some(id.to_owned()), what)
}

fn accepted(until: Option<i64>) -> What {
    What::Granted { until: until.map(at), source: Source::Reply, answers: Some("wamid.request".to_owned()) }
}

fn called_back(until: i64) -> What {
    What::Granted { until: Some(at(until)), source: Source::Automatic, answers: None }
}

fn rejected() -> What {
    What::Denied { answers: Some("wamid.request".to_owned()) }
}

fn revoked() -> What {
    What::Revoked { source: Source::Automatic }
}

fn answered() -> What {
    What::CallAnswered { placed: true }
}

fn refused(code: i64) -> What {
    What::Refused { code, until: None }
}

fn found(status: PermissionStatus, until: Option<i64>) -> What {
    let action = |can_perform| GraphAction { can_perform, limits: Vec::new() };
    What::LookedUp(Box::new(CallPermissions {
        status,
        expires_at: until.map(seconds),
        send_request: action(true),
        start_call: action(true),
    }))
}

/// A ledger that has learned these, each with an id of its own, and the events that they made.
fn learned(facts: impl IntoIterator<Item = (i64, What)>) -> (Ledger, Vec<event::Kind>) {
    let mut ledger = Ledger::default();
    let facts = facts.into_iter().enumerate();
    let events = facts
        .filter_map(|(index, (minutes, what))| ledger.learn(&fact(minutes, &format!("id{index}"), what), &RULES).event);
    let events = events.collect();
    (ledger, events)
}

fn ledger(facts: impl IntoIterator<Item = (i64, What)>) -> Ledger {
    learned(facts).0
}

fn forbidden(reason: Reason, next: i64) -> Result<(), Forbidden> {
    Err(Forbidden { reason, next_allowed_at: Some(at(next)) })
}

#[test]
fn each_reply_of_meta_gives_its_standing_and_its_event() {
    use event::Kind::{Denied, Granted, Revoked};
    let cases = [
        (accepted(Some(DAYS_7)), Status::Temporary(at(DAYS_7)), Granted),
        (accepted(None), Status::Permanent, Granted),
        (called_back(DAYS_7), Status::Temporary(at(DAYS_7)), Granted),
        (rejected(), Status::Denied, Denied),
        (revoked(), Status::Revoked, Revoked),
    ];
    for (what, status, event) in cases {
        let (ledger, events) = learned([(0, what)]);
        assert_eq!((ledger.status(&RULES, at(1)), events), (status, vec![event]));
    }
}

#[test]
fn a_reply_that_comes_twice_is_told_once() {
    let mut ledger = Ledger::default();
    let reply = fact(0, "wamid.1", accepted(Some(DAYS_7)));
    assert_eq!(ledger.learn(&reply, &RULES).event, Some(event::Kind::Granted));
    let before = ledger.clone();
    let again = ledger.learn(&reply, &RULES);
    assert_eq!((again.is_new, again.event), (false, None));
    assert_eq!(ledger, before);
}

#[test]
fn an_old_reply_that_comes_late_changes_nothing_and_is_not_told() {
    let (ledger, events) = learned([(10, rejected()), (5, accepted(Some(DAYS_7)))]);
    assert_eq!(ledger.status(&RULES, at(11)), Status::Denied);
    assert_eq!(events, [event::Kind::Denied]);
}

#[test]
fn a_second_denial_is_told_and_a_second_word_of_one_revocation_is_not() {
    use event::Kind::{Denied, Granted, Revoked};
    let (_, events) = learned([(0, rejected()), (DAYS_7, rejected())]);
    assert_eq!(events, [Denied, Denied]);
    // Our count of unanswered calls comes first, then Meta's word of it.
    let calls = (1..=4).map(|minute| (minute, What::CallUnanswered));
    let (ledger, events) = learned([(0, accepted(None))].into_iter().chain(calls).chain([(5, revoked())]));
    assert_eq!(events, [Granted, Revoked]);
    assert_eq!(ledger.status(&RULES, at(6)), Status::Revoked);
    // And the other way around.
    let calls = (1..=4).map(|minute| (minute, What::CallUnanswered));
    let (_, events) = learned([(0, accepted(None)), (5, revoked())].into_iter().chain(calls));
    assert_eq!(events, [Granted, Revoked]);
}

#[test]
fn a_call_of_the_person_does_not_shorten_a_permission_for_good() {
    let (permanent, events) = learned([(0, accepted(None)), (1, called_back(DAYS_7))]);
    assert_eq!((permanent.status(&RULES, at(2)), events.len()), (Status::Permanent, 1));
    let longer = ledger([(0, accepted(Some(DAYS_7))), (1, called_back(DAYS_7 + 1))]);
    assert_eq!(longer.status(&RULES, at(2)), Status::Temporary(at(DAYS_7 + 1)));
}

#[test]
fn a_temporary_permission_runs_out_by_itself() {
    let ledger = ledger([(0, What::Requested), (1, accepted(Some(DAYS_7)))]);
    assert_eq!(ledger.may_call(&RULES, at(DAYS_7 - 1)), Ok(()));
    assert_eq!(ledger.status(&RULES, at(DAYS_7)), Status::Expired(at(DAYS_7)));
    // The request of 7 days ago has left the window, so the person may be asked at once.
    assert_eq!(ledger.may_call(&RULES, at(DAYS_7)), forbidden(Reason::NoPermission, DAYS_7));
    assert!(ledger.needs_graph(&RULES, at(DAYS_7)));
}

#[test]
fn who_refuses_is_not_called_and_may_be_asked_when_the_limit_allows_it() {
    let mut ledger = ledger([(0, What::Requested), (1, rejected())]);
    assert_eq!(ledger.may_call(&RULES, at(2)), forbidden(Reason::NoPermission, HOURS_24));
    ledger.learn(&fact(HOURS_24, "second", What::Requested), &RULES);
    let two = ledger.may_request(&RULES, at(2 * HOURS_24));
    assert_eq!(two, forbidden(Reason::RequestLimit, DAYS_7), "two in seven days");
    assert_eq!(ledger.may_request(&RULES, at(DAYS_7)), Ok(()));
}

#[test]
fn a_connected_call_begins_the_count_of_requests_anew() {
    let both = [(0, What::Requested), (1, accepted(Some(DAYS_7)))];
    for connected in [answered(), What::CallAnswered { placed: false }] {
        let ledger = ledger(both.clone().into_iter().chain([(2, connected)]));
        assert_eq!(ledger.may_request(&RULES, at(3)), Ok(()));
    }
    assert_eq!(ledger(both).may_request(&RULES, at(3)), forbidden(Reason::RequestLimit, HOURS_24));
}

#[test]
fn the_hundred_and_first_call_of_a_day_is_refused_until_the_first_is_a_day_old() {
    let calls = (1..=100).map(|minute| (minute, answered()));
    let mut ledger = ledger([(0, accepted(None))].into_iter().chain(calls));
    assert_eq!(ledger.may_call(&RULES, at(101)), forbidden(Reason::CallLimit, HOURS_24 + 1));
    assert_eq!(ledger.may_call(&RULES, at(HOURS_24 + 1)), Ok(()));
    // Calls of the person to us do not count.
    ledger.learn(&fact(HOURS_24 + 1, "theirs", What::CallAnswered { placed: false }), &RULES);
    assert_eq!(ledger.call_limits(&RULES, at(HOURS_24 + 1))[0].used, 99);
}

#[test]
fn two_unanswered_calls_warn_four_revoke_and_an_answered_one_forgives() {
    let mut ledger = ledger([(0, accepted(None))]);
    for minute in 1..=3 {
        ledger.learn(&fact(minute, &format!("call{minute}"), What::CallUnanswered), &RULES);
    }
    assert_eq!((ledger.unanswered(&RULES), ledger.may_call(&RULES, at(4))), (3, Ok(())));
    let mut forgiven = ledger.clone();
    forgiven.learn(&fact(4, "answered", answered()), &RULES);
    forgiven.learn(&fact(5, "call5", What::CallUnanswered), &RULES);
    assert_eq!(forgiven.unanswered(&RULES), 1);
    ledger.learn(&fact(4, "call4", What::CallUnanswered), &RULES);
    assert_eq!(ledger.status(&RULES, at(5)), Status::Revoked);
    assert_eq!(ledger.may_call(&RULES, at(5)), forbidden(Reason::NoPermission, 5));
    assert_ne!(ledger.status(&Rules::TEST_NUMBER, at(5)), Status::Revoked, "test numbers have ten");
    // Where no webhook has ever told of a permission, none will tell of a new one: Graph decides.
    let unknown = |first| (1..=9).map(|minute| (minute, What::CallUnanswered)).chain([first]);
    for first in [(0, found(PermissionStatus::Permanent, None)), (0, What::Requested)] {
        assert_eq!(self::ledger(unknown(first)).may_call(&RULES, at(10)), Ok(()));
    }
    // A new permission begins the count anew.
    ledger.learn(&fact(6, "reply", accepted(None)), &RULES);
    assert_eq!((ledger.unanswered(&RULES), ledger.may_call(&RULES, at(7))), (0, Ok(())));
}

#[test]
fn what_is_not_known_is_left_to_graph_and_its_word_is_believed_for_a_minute() {
    assert_eq!(Ledger::default().may_call(&RULES, at(0)), Ok(()));
    let absent = ledger([(0, refused(NO_PERMISSION))]);
    assert_eq!(absent.status(&RULES, at(0)), Status::Absent);
    assert_eq!(absent.may_call(&RULES, at(0)), forbidden(Reason::NoPermission, 0));
    assert_eq!(absent.may_call(&RULES, at(0).plus(BELIEVED_FOR)), Ok(()));
    assert!(absent.needs_graph(&RULES, at(0).plus(BELIEVED_FOR)) && !absent.needs_graph(&RULES, at(0)));
    // A call that goes through shows that the person has permitted it since.
    let mut since = absent;
    since.learn(&fact(2, "call", What::CallUnanswered), &RULES);
    assert_eq!(since.status(&RULES, at(2)), Status::Unknown);
}

#[test]
fn a_look_up_finds_a_permission_and_its_loss() {
    use event::Kind::{Granted, Revoked};
    let (ledger, events) = learned([(0, found(PermissionStatus::Permanent, None))]);
    assert_eq!((ledger.status(&RULES, at(1)), events), (Status::Permanent, vec![]), "the application has asked for it");
    assert_eq!(
        ledger.may_request(&RULES, at(1)),
        Err(Forbidden { reason: Reason::AlreadyPermitted, next_allowed_at: None })
    );
    // No webhook tells of a permission that is withdrawn in the profile.
    let (ledger, events) = learned([(0, accepted(None)), (1, found(PermissionStatus::None, None))]);
    assert_eq!((ledger.status(&RULES, at(1)), events), (Status::Absent, vec![Granted, Revoked]));
    let (ledger, events) = learned([(0, rejected()), (1, found(PermissionStatus::Temporary, Some(DAYS_7)))]);
    assert_eq!(ledger.status(&RULES, at(1)), Status::Temporary(at(DAYS_7)));
    assert_eq!(events[1..], [Granted]);
    // Graph does not say why there is none.
    let (ledger, events) = learned([(0, rejected()), (1, found(PermissionStatus::None, None))]);
    assert_eq!((ledger.status(&RULES, at(1)), events.len()), (Status::Denied, 1));
    let (ledger, _) = learned([(0, refused(PERMANENT))]);
    assert_eq!(ledger.status(&RULES, at(1)), Status::Permanent);
    // That one ran out is no news.
    let (_, events) = learned([(0, accepted(Some(1))), (2, found(PermissionStatus::None, None))]);
    assert_eq!(events, [Granted]);
}

#[test]
fn what_only_graph_told_of_runs_out_into_nothing_known() {
    let ledger = ledger([(0, found(PermissionStatus::Temporary, Some(5)))]);
    assert_eq!(ledger.status(&RULES, at(4)), Status::Temporary(at(5)));
    assert_eq!((ledger.status(&RULES, at(5)), ledger.may_call(&RULES, at(5))), (Status::Unknown, Ok(())));
}

#[test]
fn look_ups_with_one_outcome_fill_no_ledger() {
    let look_ups = (0..200).map(|minute| (minute, found(PermissionStatus::None, None)));
    assert_eq!(ledger(look_ups).facts().len(), 1);
}

fn exhausted(max_allowed: u32, until: i64) -> What {
    let limits = vec![GraphLimit {
        period_s: 86_400,
        max_allowed,
        current_usage: max_allowed,
        expires_at: Some(seconds(until)),
    }];
    What::LookedUp(Box::new(CallPermissions {
        status: PermissionStatus::Temporary,
        expires_at: Some(seconds(DAYS_7)),
        send_request: GraphAction { can_perform: true, limits: Vec::new() },
        start_call: GraphAction { can_perform: false, limits },
    }))
}

#[test]
fn graphs_own_limits_hold_for_as_long_as_graph_says() {
    let full = ledger([(0, exhausted(5, 90))]);
    assert_eq!(full.may_call(&RULES, at(60)), forbidden(Reason::CallLimit, 90));
    assert_eq!(full.may_call(&RULES, at(90)), Ok(()));
    assert_eq!(full.call_limits(&RULES, at(60))[0].max, 5, "Meta has changed its limits before");
}

#[test]
fn a_refusal_without_a_time_is_believed_for_a_minute() {
    for (code, reason) in [(TOO_MANY_CALLS, Reason::CallLimit), (TOO_MANY_REQUESTS, Reason::RequestLimit)] {
        let ledger = ledger([(0, accepted(Some(DAYS_7))), (1, refused(code))]);
        let verdict = |now| match reason {
            Reason::CallLimit => ledger.may_call(&RULES, now),
            _ => ledger.may_request(&RULES, now),
        };
        let next = at(1).plus(BELIEVED_FOR);
        assert_eq!(verdict(at(1)), Err(Forbidden { reason, next_allowed_at: Some(next) }));
        assert_eq!(verdict(next), Ok(()));
    }
}

#[test]
fn a_look_up_that_allows_it_outweighs_our_own_count_until_something_happens() {
    let mut ledger = ledger([(0, What::Requested), (10, found(PermissionStatus::None, None))]);
    assert_eq!(ledger.may_request(&RULES, at(10)), Ok(()));
    ledger.learn(&fact(10, "another", What::Requested), &RULES);
    assert!(ledger.may_request(&RULES, at(10)).is_err());
}

#[test]
fn a_ledger_is_bounded_and_keeps_what_it_stands_on() {
    let calls = (1..=500).map(|minute| (minute, answered()));
    let ledger = ledger([(0, accepted(None))].into_iter().chain(calls));
    assert!(ledger.facts().len() <= 200, "{}", ledger.facts().len());
    assert_eq!(ledger.status(&RULES, at(501)), Status::Permanent);
}

#[test]
fn a_ledger_is_stored_and_read_whole() {
    let all = [
        (0, What::Requested),
        (1, accepted(Some(DAYS_7))),
        (2, called_back(DAYS_7)),
        (3, rejected()),
        (4, revoked()),
        (5, answered()),
        (6, What::CallUnanswered),
        (7, exhausted(100, 9)),
        (8, What::Refused { code: TOO_MANY_CALLS, until: Some(at(9)) }),
    ];
    let ledger = ledger(all);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger, "{text}");
}

#[test]
fn windows_are_a_day_and_a_week() {
    assert_eq!((DAY, WEEK), (Duration::from_secs(86_400), Duration::from_secs(604_800)));
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let what = prop_oneof![
        Just(What::Requested),
        Just(accepted(None)),
        (1..20_i64).prop_map(|until| accepted(Some(until))),
        (1..20_i64).prop_map(called_back),
        Just(rejected()),
        Just(revoked()),
        Just(answered()),
        Just(What::CallUnanswered),
        Just(refused(NO_PERMISSION)),
    ];
    (0..10_i64, 0..30_u32, what).prop_map(|(minutes, id, what)| fact(minutes, &format!("id{id}"), what))
}

proptest! {
    /// Meta's webhooks come twice and in any order.
    #[test]
    fn facts_in_any_order_and_number_give_one_ledger(
        facts in prop::collection::vec(any_fact(), 1..20).prop_map(|mut facts| {
            // One id is one message.
            facts.sort_by(|one, another| one.id.cmp(&another.id));
            facts.dedup_by(|one, another| one.id == another.id);
            facts
        }).prop_shuffle(),
        seed in any::<u64>(),
    ) {
        use rand::seq::SliceRandom;
        use rand::SeedableRng;
        let mut other = [facts.clone(), facts.clone()].concat();
        other.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
        let all = |facts: &[Fact]| {
            let mut ledger = Ledger::default();
            for fact in facts {
                ledger.learn(fact, &RULES);
            }
            ledger
        };
        let (one, another) = (all(&facts), all(&other));
        prop_assert_eq!(&one, &another);
        let mut merged = all(&facts[..facts.len() / 2]);
        merged.merge(all(&facts[facts.len() / 2..]));
        prop_assert_eq!(merged, one);
    }
}
