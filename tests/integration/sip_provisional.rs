//! What a phone says before it answers: reliable provisional responses (RFC 3262), early media, requests; and why it refuses.

use patchcord_simulator::call::Stage;
use patchcord_simulator::sip_phone::{Reliable, SipAnswer, SipPhoneOptions};

use crate::people::{AGENT_HZ, CALLER_HZ, until_caller_hears};
use crate::service::TestOptions;
use crate::sip::{calling, phone, until_phone_hears};

/// 183 with SDP, PRACK, 200 without.
const RELIABLE: Reliable = Reliable { sdp_in_183: true, sdp_in_200: false, lost_pracks: 0, answers: true };

#[tokio::test(flavor = "multi_thread")]
async fn a_reliable_183_is_acknowledged_and_its_sdp_is_the_answer() -> anyhow::Result<()> {
    for reliable in [
        RELIABLE,
        Reliable { sdp_in_200: true, ..RELIABLE },
        Reliable { sdp_in_183: false, sdp_in_200: true, ..RELIABLE },
        Reliable { lost_pracks: 1, ..RELIABLE },
    ] {
        let (mut service, call, phone) = calling(phone(SipAnswer::Reliable(reliable)), TestOptions::default()).await?;
        let invite = phone.request("INVITE").await?;
        assert!(invite.header("Supported").is_some_and(|tags| tags.contains("100rel")), "{invite}");
        let prack = phone.request("PRACK").await?;
        assert_eq!(prack.header("RAck"), Some(format!("7001 {}", invite.header("CSeq").unwrap_or_default()).as_str()));
        assert!(prack.start.starts_with("PRACK sip:200@"), "to the contact of the 183: {prack}");
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&phone, &[CALLER_HZ]).await?;
        assert_eq!(phone.hang_up().await?, 200, "{reliable:?}");
        assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn early_media_is_not_heard_and_early_requests_are_answered() -> anyhow::Result<()> {
    let waits = Reliable { answers: false, ..RELIABLE };
    let (service, call, phone) = calling(phone(SipAnswer::Reliable(waits)), TestOptions::default()).await?;
    phone.request("PRACK").await?;
    // It talks already, to an address that we told it.
    let audio = phone.audio().await?;
    let offer = audio.sdp(2, "sendonly");
    let sdp = ["Content-Type: application/sdp"];
    for (method, headers, body, code) in [
        ("UPDATE", &sdp[..], offer.as_str(), 491),
        ("UPDATE", &[], "", 200),
        ("OPTIONS", &[], "", 200),
        ("INFO", &[], "", 481),
        ("BYE", &[], "", 481),
    ] {
        assert_eq!(phone.send(method, headers, body).await?.code(), Some(code), "{method}");
    }
    assert_eq!(service.count_of("accept"), 0);
    assert_eq!(audio.packets(), []);
    assert_eq!(call.heard()?, [] as [i16; 0]);
    phone.answer().await?;
    call.wait_until(Stage::Accepted).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_while_its_prack_is_on_its_way() -> anyhow::Result<()> {
    let slow = Reliable { lost_pracks: 1, answers: false, ..RELIABLE };
    let (service, call, phone) = calling(phone(SipAnswer::Reliable(slow)), TestOptions::default()).await?;
    phone.request("PRACK").await?;
    // Meta has our answer: the end is the caller's, and not that of a pre_accept that came too late.
    call.wait_until(Stage::MediaUp).await?;
    call.hang_up().await?;
    let cancel = phone.request("CANCEL").await?;
    let reason = cancel.header("Reason").unwrap_or_default();
    assert!(reason.starts_with("SIP;cause=200;text=\"caller_"), "{cancel}");
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why_and_what_it_asks_for_is_not_done() -> anyhow::Result<()> {
    let moved = vec!["Contact: <sip:premium@192.0.2.1>".to_owned(), "Retry-After: 0".to_owned()];
    let network = vec!["Reason: Q.850;cause=19;text=\"No answer from +1 202 555 0100\"".to_owned()];
    let busy = vec!["Retry-After: 99999999999999999999 (soon);duration=x".to_owned()];
    for (code, headers_of_answer, detail) in [
        (302, moved, "SIP 302 Redirection, which is not followed"),
        (480, network, "SIP 480 Temporarily Unavailable (Q.850 19 No answer from)"),
        (503, busy, "SIP 503 Service Unavailable"),
    ] {
        let options = SipPhoneOptions { headers_of_answer, ..phone(SipAnswer::Refuse(code)) };
        let (mut service, call, phone) = calling(options, TestOptions::default()).await?;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["detail"], &lost["sip_code"]), (&detail.into(), &code.into()), "{lost}");
        service.end_of(&call).await?;
        let invites = phone.received().iter().filter(|message| message.method() == Some("INVITE")).count();
        assert_eq!(invites, 1, "nothing is tried again");
    }
    Ok(())
}
