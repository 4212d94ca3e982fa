//! Documents and what is read of them.

use super::*;

fn read(verbs: &str) -> Result<Vec<Verb>, String> {
    parse(&format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response>{verbs}</Response>\n"))
        .map_err(|error| error.to_string())
}

fn file(url: &str) -> Sound {
    Sound { source: SoundSource::File(url.to_owned()), times: 1 }
}

#[test]
fn a_stream_is_read_with_its_parameters() {
    let document = "<Connect action='/after' method='GET'><Stream url=\"wss://bot.example.com/m?a=1&amp;b=2\" name='x'
         statusCallback='/stream' statusCallbackMethod='get'>
        <Parameter name=\"from\" value=\"+1 &lt;x&gt;\"/></Stream></Connect><Hangup/>";
    let connect = Connect {
        url: "wss://bot.example.com/m?a=1&b=2".to_owned(),
        name: Some("x".to_owned()),
        status_callback: Some(Callback { url: "/stream".to_owned(), method: Method::Get }),
        parameters: BTreeMap::from([("from".to_owned(), "+1 <x>".to_owned())]),
        action: Some(Callback { url: "/after".to_owned(), method: Method::Get }),
        vonage: None,
    };
    assert_eq!(read(document), Ok(vec![Verb::Connect(connect), Verb::Hangup]));
}

#[test]
fn sounds_are_files_prompts_and_texts() {
    let say = |text: &str| SoundSource::Text { text: text.to_owned(), voice: "alice".into(), language: "de".into() };
    let document =
        "<Say voice='alice' language='de' loop='0'>Tom &amp; <break/><emphasis>J&#233;r&ocirc;me</emphasis></Say>"
            .replace("&ocirc;", "ô");
    assert_eq!(read(&document), Ok(vec![Verb::Sound(Sound { source: say("Tom & Jérôme"), times: 1000 })]));
    let prompt = Sound { source: SoundSource::Prompt("goodbye".to_owned()), times: 2 };
    let document = "<Play> https://app.example.com/a.mp3\n</Play><Play loop='2'>prompt:goodbye</Play><Pause/>";
    let pause = Verb::Pause(Duration::from_secs(1));
    assert_eq!(
        read(document),
        Ok(vec![Verb::Sound(file("https://app.example.com/a.mp3")), Verb::Sound(prompt), pause])
    );
}

#[test]
fn a_gather_has_twilios_defaults() {
    let usual = Gather {
        num_digits: None,
        timeout: Duration::from_secs(5),
        finish_on_key: Some('#'),
        action: Callback::default(),
        action_on_empty_result: false,
        sounds: Vec::new(),
    };
    assert_eq!(read("<Gather/>"), Ok(vec![Verb::Gather(usual.clone())]));
    let document = "<Gather input='dtmf speech' numDigits='4' timeout='3' finishOnKey='' action='/pin' \
        actionOnEmptyResult='true' speechTimeout='auto'><Play>pin.wav</Play><Pause length='2'/></Gather>";
    let silence = Sound { source: SoundSource::Silence(Duration::from_secs(2)), times: 1 };
    let gather = Gather {
        num_digits: Some(4),
        timeout: Duration::from_secs(3),
        finish_on_key: None,
        action: Callback { url: "/pin".to_owned(), method: Method::Post },
        action_on_empty_result: true,
        sounds: vec![file("pin.wav"), silence],
    };
    assert_eq!(read(document), Ok(vec![Verb::Gather(gather)]));
}

#[test]
fn callees_are_numbers_addresses_and_routes() {
    let callee = |verbs: &str| match read(verbs).as_deref() {
        Ok([Verb::Dial(dial)]) => Ok(dial.nouns[0].callee.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.clone()),
    };
    assert_eq!(callee("<Dial>+1 (202) 555-0143</Dial>"), Ok(Callee::Number("+12025550143".to_owned())));
    assert_eq!(callee("<Dial><Number url='/x'>202</Number></Dial>"), Ok(Callee::Number("202".to_owned())));
    assert_eq!(callee("<Dial>\n<Sip>sip:a@b</Sip></Dial>"), Ok(Callee::Sip("sip:a@b".to_owned())));
    assert_eq!(callee("<Dial><Client>sales</Client></Dial>"), Ok(Callee::Route("sales".to_owned())));
    assert!(callee("<Dial>support</Dial>").unwrap_err().contains("<Dial> holds no phone number"));
    let many = format!("<Dial>{}</Dial>", "<Sip>sip:a@b</Sip>".repeat(9));
    assert!(callee(&many).unwrap_err().contains("more than 8 callees"));
}

#[test]
fn callees_ring_together_and_each_has_a_status_callback() {
    let document = "<Dial hangupOnStar='true' callerId='+1'><Number statusCallback='/s' statusCallbackMethod='GET' \
        statusCallbackEvent='initiated answered'>1</Number><Client statusCallback='/t'>sales</Client></Dial>";
    let verbs = read(document).unwrap();
    let [Verb::Dial(dial)] = &verbs[..] else { panic!("{verbs:?}") };
    assert!(dial.hangup_on_star && dial.has_caller_id);
    let told = |url: &str, method, stages| (Callback { url: url.to_owned(), method }, Stages::read([stages]).unwrap());
    assert_eq!(dial.nouns[0].status, Some(told("/s", Method::Get, "initiated answered")));
    assert_eq!(dial.nouns[1].status, Some(told("/t", Method::Post, "completed")));
}

#[test]
fn mistakes_name_the_verb() {
    for (verbs, what) in [
        ("<Record/>", "<Record> is not supported"),
        ("<Reject reason='rude'/>", "reason of <Reject> is not rejected or busy"),
        ("<Gather input='speech'/>", "input of <Gather> is not dtmf"),
        ("<Gather finishOnKey='12'/>", "finishOnKey of <Gather>"),
        ("<Gather numDigits='0'/>", "numDigits of <Gather> is not a whole number from 1 to 128"),
        ("<Gather><Dial>1</Dial></Gather>", "<Dial> inside of <Gather> is not supported"),
        ("<Pause length='-1'/>", "length of <Pause>"),
        ("<Connect/>", "<Connect> has one <Stream>"),
        ("<Connect><Room>a</Room></Connect>", "<Room> inside of <Connect> is not supported"),
        ("<Connect><Stream/></Connect>", "<Stream> has no url"),
        ("<Connect><Stream url='wss://a' track='both_tracks'/></Connect>", "track of <Stream>"),
        ("<Connect><Stream url='wss://a'><Say>a</Say></Stream></Connect>", "<Stream> has <Parameter"),
        ("<Redirect method='PUT'>/a</Redirect>", "method of <Redirect> is not GET or POST"),
        ("<Play digits='1'/>", "<Play digits>"),
        ("<Enqueue>support</Enqueue>", "<Enqueue> is not supported"),
        ("<Dial><Queue>support</Queue></Dial>", "<Queue> inside of <Dial> is not supported"),
        ("<Dial><Conference>a</Conference></Dial>", "<Conference> inside of <Dial> is not supported"),
        ("<Dial sequential='true'><Sip>sip:a@b</Sip></Dial>", "sequential of <Dial> is not false"),
        ("<Dial record='record-from-answer'>1</Dial>", "record of <Dial> is not do-not-record"),
        ("<Dial><Sip statusCallbackEvent='won'>sip:a@b</Sip></Dial>", "statusCallbackEvent of <Sip>"),
        ("<Say/>", "<Say> is empty"),
        ("<Say>&boom;</Say>", "an entity"),
        ("<Say", "is not closed"),
        ("<Say a", "an attribute of <Say>"),
        ("</Say>", "no XML"),
    ] {
        let error = read(verbs).unwrap_err();
        assert!(error.contains(what), "{verbs}: {error}");
    }
    assert!(parse("<Play/>").unwrap_err().to_string().contains("<Play>, not <Response>"));
    for document in ["", "hello", "<Response>", "<Response/><Response/>", "{\"a\":1}"] {
        assert!(parse(document).is_err(), "{document}");
    }
}

#[test]
fn bombs_are_refused() {
    let entities = "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Response><Say>&b;</Say></Response>";
    assert!(parse(entities).unwrap_err().to_string().contains("DTD"));
    assert!(read(&"<Say>a</Say>".repeat(501)).unwrap_err().contains("more than 500 elements"));
    assert!(read(&"<Gather>".repeat(10_000)).unwrap_err().contains("64 KiB"));
    assert!(read(&"<Gather>".repeat(100)).unwrap_err().contains("nests deeper"));
    assert!(read(&format!("<Say>{}</Say>", "a".repeat(70_000))).unwrap_err().contains("64 KiB"));
    assert!(read(&format!("<Say>{}</Say>", "a".repeat(5_000))).unwrap_err().contains("4096"));
    let sounds = format!("<Gather>{}</Gather>", "<Play loop='0'>a.wav</Play>".repeat(33));
    assert!(read(&sounds).unwrap_err().contains("more than 32 sounds"));
    let attributes: String = (0..40).map(|number| format!(" a{number}=''")).collect();
    assert!(read(&format!("<Pause{attributes}/>")).unwrap_err().contains("attribute"));
}
