//! TwiML or an NCCO of an app: it is read or refused, and a call whose app answers nothing else comes to an end.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use patchcord::twilio::interpreter::{Action, DialStatus, Input, Interpreter};
use patchcord::twilio::{Method, Notation, Source};

fuzz_target!(|document: &str| {
    for notation in [Notation::Twiml, Notation::Ncco] {
        if let Ok(verbs) = notation.parse(document) {
            assert!(verbs.len() <= 500);
        }
        ends(notation, document);
    }
});

fn ends(notation: Notation, document: &str) {
    let mut now = Instant::now();
    let url = "https://app.example.com/voice".parse().unwrap();
    let mut call = Interpreter::new(Source::Url(url, Method::Post), None, false, now).reading(notation);
    // At most a thousand documents of at most five hundred verbs; the fuzzer's time is for shorter ones.
    for _ in 0..10_000 {
        let Some(action) = call.poll_action() else {
            if call.is_over() {
                return;
            }
            now = call.poll_timeout().unwrap_or(now + Duration::from_secs(1)).max(now);
            call.handle_timeout(now);
            continue;
        };
        let input = match action {
            Action::Fetch(_) => Input::Fetched(Ok(document.to_owned())),
            Action::Prepare(_) => Input::Prepared(Ok(())),
            Action::Answer => Input::Accepted,
            Action::Play => Input::Played,
            Action::Gather(_) => Input::Gathered { digits: "1".to_owned(), is_finished: false },
            Action::OpenStream(_) => Input::StreamEnded(Ok(())),
            Action::Dial(_) => Input::DialEnded(0, DialStatus::Busy),
            Action::StopDial(_) | Action::Tell(_) => continue,
            Action::Reject(_) | Action::HangUp | Action::Fail(_) => return,
        };
        call.handle(input, now);
    }
}
