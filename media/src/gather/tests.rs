use std::time::{Duration, Instant};

use super::*;

fn pin() -> GatherOptions {
    GatherOptions {
        max_digits: 4,
        first_digit_timeout: Duration::from_secs(5),
        inter_digit_timeout: Duration::from_secs(2),
        terminator: Some('#'),
    }
}

fn seconds(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn enough_digits_end_it() {
    let now = Instant::now();
    let mut gather = Gather::new(pin());
    for digit in ['1', '*', '3'] {
        assert_eq!(gather.press(digit, now), None);
    }
    assert_eq!(gather.press('4', now), Some(Gathered { digits: "1*34".to_owned(), end: GatherEnd::MaxDigits }));
}

#[test]
fn the_terminator_ends_it_and_is_no_digit() {
    let now = Instant::now();
    let mut gather = Gather::new(pin());
    gather.press('7', now);
    assert_eq!(gather.press('#', now), Some(Gathered { digits: "7".to_owned(), end: GatherEnd::Terminator }));
    assert_eq!(Gather::new(pin()).press('#', now).unwrap().digits, "");
}

#[test]
fn time_for_the_first_key_begins_when_the_prompt_is_over() {
    let start = Instant::now();
    let mut gather = Gather::new(pin());
    assert_eq!(gather.handle_timeout(seconds(start, 60)), None);
    gather.prompt_ended(seconds(start, 60));
    assert_eq!(gather.handle_timeout(seconds(start, 64)), None);
    assert_eq!(gather.handle_timeout(seconds(start, 65)).unwrap().end, GatherEnd::FirstDigitTimeout);
}

#[test]
fn every_key_gives_time_for_the_next() {
    let start = Instant::now();
    let mut gather = Gather::new(pin());
    gather.press('1', start);
    // The prompt that the key stopped ends after it; that gives no more time.
    gather.prompt_ended(start);
    assert_eq!(gather.handle_timeout(seconds(start, 1)), None);
    gather.press('2', seconds(start, 1));
    assert_eq!(gather.handle_timeout(seconds(start, 2)), None);
    let gathered = gather.handle_timeout(seconds(start, 3)).unwrap();
    assert_eq!(gathered, Gathered { digits: "12".to_owned(), end: GatherEnd::InterDigitTimeout });
}

#[test]
fn a_stopped_gather_tells_what_it_has() {
    let mut gather = Gather::new(pin());
    gather.press('9', Instant::now());
    assert_eq!(gather.stop(), Gathered { digits: "9".to_owned(), end: GatherEnd::Stopped });
}

#[test]
fn a_stall_of_our_own_costs_no_caller_its_time() {
    let start = Instant::now();
    let gap = Duration::from_secs(60);
    let mut gather = Gather::new(pin());
    gather.shift_deadlines(gap, start);
    gather.prompt_ended(start);
    gather.shift_deadlines(gap, seconds(start, 61));
    assert_eq!(gather.handle_timeout(seconds(start, 61)), None);
    assert_eq!(gather.press('1', seconds(start, 61)), None);
    // Time that began after it is not longer for it.
    gather.shift_deadlines(gap, seconds(start, 62));
    assert_eq!(gather.handle_timeout(seconds(start, 63)), None);
    assert_eq!(gather.handle_timeout(seconds(start, 64)).unwrap().end, GatherEnd::InterDigitTimeout);
}
