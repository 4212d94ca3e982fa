//! Documents as scripts: what happens, and what is done.

use std::time::Duration;

use super::*;

const VOICE: &str = "https://app.example.com/voice";

/// One call's interpreter, and the time.
struct Call {
    interpreter: Interpreter,
    now: Instant,
}

impl Call {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(fallback: Option<&str>) -> Self {
        let now = Instant::now();
        let source = Source::Url(VOICE.parse().unwrap(), Method::Post);
        let fallback = fallback.map(|url| url.parse().unwrap());
        let mut call = Self { interpreter: Interpreter::new(source, fallback, false, now), now };
        assert_eq!(call.done(), ["fetch /voice"]);
        call
    }

    fn reads(&mut self, verbs: &str) -> Vec<String> {
        self.gets(Input::Fetched(Ok(format!("<Response>{verbs}</Response>"))))
    }

    fn gets(&mut self, input: Input) -> Vec<String> {
        self.interpreter.handle(input, self.now);
        self.done()
    }

    fn waits(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.interpreter.handle_timeout(self.now);
        self.done()
    }

    fn done(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.interpreter.poll_action()).map(|action| told(&action)).collect()
    }
}

fn told(action: &Action) -> String {
    match action {
        Action::Fetch(Request { url, fields, .. }) => {
            let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("fetch {}{fields}", url.path())
        }
        Action::Prepare(sounds) => format!("prepare {}", sounds.len()),
        Action::Answer => "answer".to_owned(),
        Action::Play => "play".to_owned(),
        Action::Gather(keys) => format!("gather {:?}", keys.num_digits),
        Action::OpenStream(stream) => format!("stream {}", stream.url),
        Action::Dial(dial) => format!("dial {}", dial.nouns.len()),
        Action::StopDial(callee) => format!("stop dial {callee}"),
        Action::Tell(Request { url, fields, callee, .. }) => {
            let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("tell {} of {callee:?}{fields}", url.path())
        }
        Action::Reject(reason) => format!("reject {reason:?}"),
        Action::HangUp => "hang up".to_owned(),
        Action::Fail(why) => format!("fail: {why}"),
    }
}

const STREAM: &str = "<Connect><Stream url=\"wss://app.example.com/media\"/></Connect>";

#[test]
fn a_call_is_accepted_once_the_app_hears_it_and_ends_behind_the_last_verb() {
    let mut call = Call::new();
    assert_eq!(call.reads(STREAM), ["stream wss://app.example.com/media"]);
    assert_eq!(call.gets(Input::StreamOpened), ["answer"]);
    assert_eq!(call.gets(Input::Accepted), [""; 0]);
    assert_eq!(call.gets(Input::StreamEnded(Ok(()))), ["hang up"]);
    assert!(call.interpreter.is_over());
    assert_eq!(call.gets(Input::Played), [""; 0], "nothing follows");
}

#[test]
fn the_verbs_behind_a_stream_run_once_the_app_has_left() {
    let mut call = Call::new();
    call.reads(&format!("{STREAM}<Play>a.wav</Play>"));
    call.gets(Input::StreamOpened);
    call.gets(Input::Accepted);
    assert_eq!(call.gets(Input::StreamEnded(Err("it broke".into()))), ["prepare 1"]);
    assert_eq!(call.gets(Input::Prepared(Ok(()))), ["play"]);
    assert_eq!(call.gets(Input::Played), ["hang up"]);
}

#[test]
fn a_stream_that_is_lost_is_a_failure_if_nothing_follows() {
    let mut call = Call::new();
    call.reads(STREAM);
    assert_eq!(call.gets(Input::StreamEnded(Err("HTTP 500".into()))), ["fail: HTTP 500"]);
}

#[test]
fn sounds_are_made_while_the_phone_rings() {
    let mut call = Call::new();
    assert_eq!(call.reads("<Say>Hello</Say><Pause length=\"2\"/><Hangup/>"), ["prepare 1"]);
    assert_eq!(call.gets(Input::Prepared(Ok(()))), ["answer"]);
    assert_eq!(call.gets(Input::Accepted), ["play"]);
    assert_eq!(call.gets(Input::Played), [""; 0]);
    assert_eq!(call.waits(1), [""; 0]);
    assert_eq!(call.waits(1), ["hang up"]);
}

#[test]
fn digits_go_to_the_action_and_none_to_the_next_verb() {
    let menu = "<Gather numDigits=\"1\" action=\"menu\"><Play>menu.wav</Play></Gather><Redirect/>";
    let mut call = Call::new();
    assert_eq!(call.reads(menu), ["prepare 1"]);
    assert_eq!(call.gets(Input::Prepared(Ok(()))), ["answer"]);
    assert_eq!(call.gets(Input::Accepted), ["gather Some(1)"]);
    let nothing = Input::Gathered { digits: String::new(), is_finished: false };
    assert_eq!(call.gets(nothing), ["fetch /voice"], "an empty URL is the document's own");
    call.reads(menu);
    call.gets(Input::Prepared(Ok(())));
    let digits = Input::Gathered { digits: "5".into(), is_finished: false };
    assert_eq!(call.gets(digits), ["fetch /menu Digits=5 FinishedOnKey="]);
    assert_eq!(call.reads("<Gather action=\"pin\"/>"), ["gather None"]);
    let digits = Input::Gathered { digits: "12".into(), is_finished: true };
    assert_eq!(call.gets(digits), ["fetch /pin Digits=12 FinishedOnKey=#"]);
    assert_eq!(call.reads("<Gather actionOnEmptyResult=\"true\"/>"), ["gather None"]);
    let nothing = Input::Gathered { digits: String::new(), is_finished: false };
    assert_eq!(call.gets(nothing), ["fetch /pin Digits= FinishedOnKey="]);
}

#[test]
fn the_action_of_a_dial_learns_how_it_ended() {
    let dial = "<Dial action=\"/dialled\" timeout=\"10\" timeLimit=\"60\"><Sip>sip:a@b</Sip></Dial>";
    let mut call = Call::new();
    assert_eq!(call.reads(dial), ["answer"]);
    assert_eq!(call.gets(Input::Accepted), ["dial 1"]);
    assert_eq!(call.gets(Input::DialEnded(0, DialStatus::Busy)), ["fetch /dialled DialCallStatus=busy"]);
    call.reads(dial);
    assert_eq!(call.waits(10), ["stop dial 0", "fetch /dialled DialCallStatus=no-answer"]);
    assert_eq!(call.gets(Input::DialEnded(0, DialStatus::Failed)), [""; 0], "it comes late");
    call.reads(dial);
    call.gets(Input::DialAnswered(0));
    call.now += Duration::from_secs(5);
    let ended = call.gets(Input::DialEnded(0, DialStatus::Failed));
    assert_eq!(ended, ["fetch /dialled DialCallStatus=completed DialCallDuration=5"]);
    call.reads(dial);
    call.gets(Input::DialAnswered(0));
    assert_eq!(call.gets(Input::Key('*')), [""; 0], "no hangupOnStar");
    let ended = call.waits(60);
    assert_eq!(ended, ["stop dial 0", "fetch /dialled DialCallStatus=completed DialCallDuration=60"]);
    assert_eq!(call.reads("<Dial>1</Dial><Hangup/>"), ["dial 1"]);
    assert_eq!(call.gets(Input::DialEnded(0, DialStatus::NoAnswer)), ["hang up"]);
}

/// Three who ring together for the caller of an accepted call.
fn ringing(attributes: &str) -> Call {
    let all = "initiated answered completed";
    let sip = |name: &str| format!("<Sip statusCallback=\"/{name}\" statusCallbackEvent=\"{all}\">sip:{name}@b</Sip>");
    let dial = format!("<Dial action=\"/dialled\" {attributes}>{}{}<Sip>sip:c@b</Sip></Dial>", sip("one"), sip("two"));
    let mut call = Call::new();
    assert_eq!(call.reads(&dial), ["answer"]);
    let told = ["one", "two"].iter().zip(0..);
    let told: Vec<String> = told.map(|(name, at)| format!("tell /{name} of Some({at}) CallStatus=initiated")).collect();
    assert_eq!(call.gets(Input::Accepted), ["dial 3", &told[0], &told[1]]);
    call
}

#[test]
fn the_first_who_answers_has_the_caller_and_the_others_stop_ringing() {
    let mut call = ringing("");
    let busy = call.gets(Input::DialEnded(0, DialStatus::Busy));
    assert_eq!(busy, ["tell /one of Some(0) CallStatus=busy CallDuration=0"], "the others ring on");
    assert_eq!(call.gets(Input::DialAnswered(0)), [""; 0], "it was lost");
    assert_eq!(call.gets(Input::DialAnswered(1)), ["stop dial 2", "tell /two of Some(1) CallStatus=in-progress"]);
    assert_eq!(call.gets(Input::DialAnswered(2)), [""; 0], "it was too late");
    assert_eq!(call.gets(Input::DialEnded(2, DialStatus::Completed)), [""; 0]);
    call.now += Duration::from_secs(7);
    let ended = [
        "tell /two of Some(1) CallStatus=completed CallDuration=7",
        "fetch /dialled DialCallStatus=completed DialCallDuration=7",
    ];
    assert_eq!(call.gets(Input::DialEnded(1, DialStatus::Completed)), ended);
}

#[test]
fn of_several_who_do_not_answer_the_action_learns_of_the_nearest() {
    let mut call = ringing("");
    call.gets(Input::DialEnded(1, DialStatus::Busy));
    call.gets(Input::DialEnded(0, DialStatus::Failed));
    let ended = call.gets(Input::DialEnded(2, DialStatus::NoAnswer));
    assert_eq!(ended, ["fetch /dialled DialCallStatus=busy"]);
    let mut call = ringing("timeout=\"10\"");
    call.gets(Input::DialEnded(0, DialStatus::Failed));
    let ended = call.waits(10);
    let two = ["stop dial 1", "tell /two of Some(1) CallStatus=no-answer CallDuration=0", "stop dial 2"];
    assert_eq!(ended, [&two[..], &["fetch /dialled DialCallStatus=no-answer"]].concat());
}

#[test]
fn a_star_of_the_caller_ends_the_dial_if_the_document_says_so() {
    let mut call = ringing("hangupOnStar=\"true\"");
    assert_eq!(call.gets(Input::Key('*')), [""; 0], "nobody has answered");
    call.gets(Input::DialAnswered(2));
    assert_eq!(call.gets(Input::Key('1')), [""; 0]);
    let ended = ["stop dial 2", "fetch /dialled DialCallStatus=completed DialCallDuration=0"];
    assert_eq!(call.gets(Input::Key('*')), ended);
}

#[test]
fn nobody_rings_or_talks_for_an_app_that_has_no_caller_any_more() {
    let mut call = ringing("");
    let canceled = |name: &str, at: u32| format!("tell /{name} of Some({at}) CallStatus=canceled CallDuration=0");
    let stopped = ["stop dial 0", &canceled("one", 0), "stop dial 1", &canceled("two", 1), "stop dial 2"];
    assert_eq!(call.gets(Input::Left), stopped);
    assert!(call.interpreter.is_over());
    let mut call = ringing("");
    call.gets(Input::DialAnswered(0));
    let ended = ["stop dial 0", "tell /one of Some(0) CallStatus=completed CallDuration=0"];
    assert_eq!(call.gets(Input::Left), ended);
}

#[test]
fn a_call_is_rejected_only_while_it_rings() {
    assert_eq!(Call::new().reads("<Reject reason=\"busy\"/>"), ["reject Busy"]);
    let mut call = Call::new();
    assert_eq!(call.reads("<Pause/><Reject/>"), [""; 0]);
    assert_eq!(call.waits(1), ["reject Rejected"]);
    let mut call = Call::new();
    call.gets(Input::Accepted);
    assert_eq!(call.reads("<Reject/>"), ["hang up"]);
}

#[test]
fn a_circle_of_redirects_is_told_and_a_menu_that_repeats_is_none() {
    let mut call = Call::new();
    for _ in 1..MAX_DETOURS {
        assert_eq!(call.reads("<Redirect>/voice</Redirect>"), ["fetch /voice"]);
    }
    let failed = call.reads("<Redirect>/voice</Redirect>");
    assert!(failed[0].starts_with("fail: 10 documents in a row"), "{failed:?}");
    let mut call = Call::new();
    for _ in 1..MAX_DOCUMENTS {
        call.reads("<Pause/><Redirect/>");
        assert_eq!(call.waits(1), ["fetch /voice"]);
    }
    call.reads("<Pause/><Redirect/>");
    assert!(call.waits(1)[0].starts_with("fail: the call had 1000 documents"));
}

#[test]
fn the_fallback_is_asked_once() {
    let fallback = Some("https://app.example.com/fallback");
    let asked = "fetch /fallback ErrorCode=11200 ErrorUrl=https://app.example.com/voice";
    let mut call = Call::with(fallback);
    assert_eq!(call.gets(Input::Fetched(Err("HTTP 500".into()))), [asked]);
    assert_eq!(call.reads("<Redirect>/broken</Redirect>"), ["fetch /broken"]);
    assert_eq!(call.gets(Input::Fetched(Err("HTTP 500".into()))), ["fail: HTTP 500"]);
    assert_eq!(Call::with(fallback).reads("<Fly/>"), [asked], "a document that cannot be read is a failure too");
    assert_eq!(Call::new().reads("<Fly/>"), ["fail: <Fly> is not supported"]);
}

#[test]
fn a_document_that_came_with_a_request_has_whole_urls_only() {
    let now = Instant::now();
    let run = |document: &str| {
        let source = Source::Document(format!("<Response>{document}</Response>"));
        let mut interpreter = Interpreter::new(source, None, true, now);
        std::iter::from_fn(|| interpreter.poll_action()).map(|action| told(&action)).collect::<Vec<_>>()
    };
    assert_eq!(run("<Redirect>https://app.example.com/next</Redirect>"), ["fetch /next"]);
    assert_eq!(run("<Redirect>/next</Redirect>"), ["fail: the document leads to a URL that is none"]);
    assert_eq!(run("<Gather/>"), ["answer", "gather None"]);
    assert_eq!(run(""), ["hang up"]);
}
