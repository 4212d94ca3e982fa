//! `<Dial>` of apps that answer TwiML: phones ring for the caller, and the app learns how it went.

use std::collections::BTreeMap;

use patchcord_simulator::call::Call;
use patchcord_simulator::sip_phone::{SipAnswer, SipPhone};
use patchcord_simulator::twiml_app::{Asked, TwimlApp};

use crate::people::{AGENT_HZ, CALLER_HZ, caller, objections, until_caller_hears};
use crate::service::{TestOptions, TestService};
use crate::sip::{phone, sip, until_phone_hears};
use crate::twiml::{ACCOUNT, TOKEN, account};

/// A caller whose app dials these phones, each with a status callback of its own: `/phone/0` and so on.
struct Dialling {
    app: TwimlApp,
    service: TestService,
    call: Call,
    phones: Vec<SipPhone>,
}

async fn dialling(attributes: &str, answers: &[SipAnswer]) -> anyhow::Result<Dialling> {
    let app = TwimlApp::start(TOKEN).await?;
    let (mut phones, mut nouns) = (Vec::new(), String::new());
    for (index, answer) in answers.iter().enumerate() {
        let path = format!("/phone/{index}");
        app.says(&path, "");
        let phone = SipPhone::start(phone(answer.clone())).await?;
        let events = "initiated ringing answered completed";
        let told = format!("statusCallback=\"{path}\" statusCallbackEvent=\"{events}\"");
        nouns += &format!("<Sip {told}>{}</Sip>", phone.uri());
        phones.push(phone);
    }
    app.says("/voice", format!("<Dial action=\"/dialled\" callerId=\"+12025550100\" {attributes}>{nouns}</Dial>"));
    app.says("/dialled", "<Hangup/>");
    let options = sip("", TestOptions { more_routes: account(""), ..TestOptions::default() });
    let service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let call = service.call(caller()).await?;
    Ok(Dialling { app, service, call, phones })
}

impl Dialling {
    /// `CallStatus` and `CallDuration` that a phone's callback was told of; the requests are whole.
    async fn told(&self, phone: usize, times: usize) -> anyhow::Result<Vec<(String, Option<String>)>> {
        let parent = self.app.wait_for("/voice", 1).await?.fields["CallSid"].clone();
        let mut told = Vec::new();
        for nth in 1..=times {
            let Asked { fields, is_signed, .. } = self.app.wait_for(&format!("/phone/{phone}"), nth).await?;
            let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
            assert!(is_signed, "{fields:?}");
            assert_eq!((field("ParentCallSid"), field("AccountSid")), (parent.as_str(), ACCOUNT), "{fields:?}");
            assert_eq!((field("Direction"), field("To")), ("outbound-dial", self.phones[phone].uri().as_str()));
            assert!(field("CallSid") != parent && field("CallSid").starts_with("CA"), "{fields:?}");
            told.push((field("CallStatus").to_owned(), fields.get("CallDuration").cloned()));
        }
        Ok(told)
    }

    /// What the `action` was told of the dial.
    async fn dialled(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(self.app.wait_for("/dialled", 1).await?.fields)
    }
}

fn stages(told: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    told.iter().map(|(status, talked)| ((*status).to_owned(), talked.map(str::to_owned))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_ring_together_and_the_first_who_answers_has_the_caller() -> anyhow::Result<()> {
    let mut dialling = dialling("", &[SipAnswer::Ring, SipAnswer::Refuse(486), SipAnswer::Ring]).await?;
    for phone in &dialling.phones {
        phone.request("INVITE").await?;
    }
    assert_eq!(dialling.told(1, 2).await?, stages(&[("initiated", None), ("busy", Some("0"))]));
    dialling.phones[2].answer().await?;
    dialling.phones[0].request("CANCEL").await?;
    until_caller_hears(&dialling.call, &[AGENT_HZ]).await?;
    until_phone_hears(&dialling.phones[2], &[CALLER_HZ]).await?;
    assert_eq!(dialling.told(0, 2).await?, stages(&[("initiated", None), ("canceled", Some("0"))]));
    assert_eq!(dialling.phones[2].hang_up().await?, 200);
    let fields = dialling.dialled().await?;
    assert_eq!(fields["DialCallStatus"], "completed");
    let talked = fields["DialCallDuration"].clone();
    let completed = [("initiated", None), ("in-progress", None), ("completed", Some(talked.as_str()))];
    assert_eq!(dialling.told(2, 3).await?, stages(&completed));
    assert_eq!(fields["DialCallSid"], dialling.app.wait_for("/phone/2", 1).await?.fields["CallSid"]);
    assert_eq!(dialling.service.end_of(&dialling.call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&dialling.call), [], "{}", dialling.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_dial_without_an_answer_ended_is_in_its_status() -> anyhow::Result<()> {
    for (answers, attributes, status) in [
        (&[SipAnswer::Refuse(486)][..], "", "busy"),
        (&[SipAnswer::Refuse(603)], "", "busy"),
        (&[SipAnswer::Refuse(404)], "", "failed"),
        (&[SipAnswer::Ring], "timeout=\"1\"", "no-answer"),
        (&[SipAnswer::Refuse(404), SipAnswer::Refuse(486)], "", "busy"),
    ] {
        let dialling = dialling(attributes, answers).await?;
        let fields = dialling.dialled().await?;
        assert_eq!(fields["DialCallStatus"], status, "{answers:?}: {fields:?}");
        assert!(!fields.contains_key("DialCallDuration"), "{answers:?}: {fields:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_star_sends_the_callee_away_if_the_document_says_so() -> anyhow::Result<()> {
    let dialling = dialling("hangupOnStar=\"true\"", &[SipAnswer::Answer]).await?;
    until_caller_hears(&dialling.call, &[AGENT_HZ]).await?;
    dialling.call.send_dtmf("5*").await;
    dialling.phones[0].request("BYE").await?;
    assert_eq!(dialling.dialled().await?["DialCallStatus"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_takes_the_callees_along() -> anyhow::Result<()> {
    let mut ringing = dialling("", &[SipAnswer::Ring]).await?;
    ringing.phones[0].request("INVITE").await?;
    assert_eq!(ringing.told(0, 1).await?, stages(&[("initiated", None)]));
    ringing.call.hang_up().await?;
    ringing.phones[0].request("CANCEL").await?;
    assert_eq!(ringing.told(0, 2).await?[1..], stages(&[("canceled", Some("0"))]));
    assert_eq!(ringing.service.end_of(&ringing.call).await?["reason"], "caller_hung_up");
    let talking = dialling("", &[SipAnswer::Answer]).await?;
    until_caller_hears(&talking.call, &[AGENT_HZ]).await?;
    talking.call.hang_up().await?;
    talking.phones[0].request("BYE").await?;
    assert_eq!(talking.told(0, 3).await?[2].0, "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_dialled_by_the_pattern_of_the_configuration() -> anyhow::Result<()> {
    let phone = SipPhone::start(phone(SipAnswer::Answer)).await?;
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "<Dial action=\"/dialled\"><Number>+44 7700 900123</Number></Dial>");
    app.says("/dialled", "<Hangup/>");
    let pattern = format!("dial_number = \"sip:{{number}}@{}\"", phone.address());
    let options = sip("", TestOptions { more_routes: account(&pattern), ..TestOptions::default() });
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let call = service.call(caller()).await?;
    let invite = phone.request("INVITE").await?;
    assert_eq!(invite.start, format!("INVITE sip:+447700900123@{} SIP/2.0", phone.address()));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    phone.hang_up().await?;
    assert_eq!(app.wait_for("/dialled", 1).await?.fields["DialCallStatus"], "completed");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}
