//! Documents as scripts: what happens, and what is done.

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
        Action::Dial(callee) => format!("dial {callee:?}"),
        Action::StopDial => "stop dial".to_owned(),
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
    assert_eq!(call.gets(Input::Accepted), ["dial Sip(\"sip:a@b\")"]);
    assert_eq!(call.gets(Input::DialEnded(DialStatus::Busy)), ["fetch /dialled DialCallStatus=busy"]);
    call.reads(dial);
    assert_eq!(call.waits(10), ["stop dial", "fetch /dialled DialCallStatus=no-answer"]);
    assert_eq!(call.gets(Input::DialEnded(DialStatus::Failed)), [""; 0], "it comes late");
    call.reads(dial);
    call.gets(Input::DialAnswered);
    call.now += Duration::from_secs(5);
    let ended = call.gets(Input::DialEnded(DialStatus::Failed));
    assert_eq!(ended, ["fetch /dialled DialCallStatus=completed DialCallDuration=5"]);
    call.reads(dial);
    call.gets(Input::DialAnswered);
    let ended = call.waits(60);
    assert_eq!(ended, ["stop dial", "fetch /dialled DialCallStatus=completed DialCallDuration=60"]);
    assert_eq!(call.reads("<Dial>1</Dial><Hangup/>"), ["dial Number(\"1\")"]);
    assert_eq!(call.gets(Input::DialEnded(DialStatus::NoAnswer)), ["hang up"]);
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
