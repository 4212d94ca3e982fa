//! Attended transfers: a phone that talks to a colleague hands its caller over into that call.

use patchcord_simulator::sip_phone::{SipAnswer, SipMessage, SipPhone, SipPhoneOptions};

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND_AGENT_HZ, until_caller_hears};
use crate::service::TestOptions;
use crate::sip::{calling, phone, sip, until_phone_hears};

/// The dialog of the phone and its colleague, as `Replaces` names it.
const REPLACES: &str = "12345@192.0.2.5;to-tag=a1;from-tag=b2";
const REPLACES_ESCAPED: &str = "12345%40192.0.2.5%3Bto-tag%3Da1%3Bfrom-tag%3Db2";

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_hands_its_caller_over_into_its_call_with_a_colleague() -> anyhow::Result<()> {
    for referred_by in [Some("<sip:200@pbx.example>"), None] {
        let colleague =
            SipPhone::start(SipPhoneOptions { tone_hz: SECOND_AGENT_HZ, ..phone(SipAnswer::Answer) }).await?;
        let rule = format!("refer_to = [\"{}\"]", colleague.uri());
        let (mut service, call, first) = calling(phone(SipAnswer::Answer), sip(&rule, TestOptions::default())).await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        // Phones hold the caller first.
        assert_eq!(first.reinvite(&first.sdp("sendonly")?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
        let refer_to = format!("Refer-To: <{}?Replaces={REPLACES_ESCAPED}&Subject=x>", colleague.uri());
        let by = referred_by.map(|by| format!("Referred-By: {by}"));
        let headers: Vec<&str> = [refer_to.as_str()].into_iter().chain(by.as_deref()).collect();
        assert_eq!(first.send("REFER", &headers, "").await?.code(), Some(202));

        let invite = colleague.request("INVITE").await?;
        assert_eq!(
            (invite.header("Replaces"), invite.header("Referred-By")),
            (Some(REPLACES), referred_by),
            "{invite}"
        );
        assert!(invite.header("Subject").is_none() && !invite.start.contains('?'), "{invite}");
        until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
        until_phone_hears(&colleague, &[CALLER_HZ]).await?;
        assert_eq!(last_notify(&first).await?, "SIP/2.0 200 OK\r\n");
        first.request("BYE").await?;
        let methods: Vec<_> =
            first.received().iter().filter_map(|message| message.method().map(str::to_owned)).collect();
        assert_eq!(
            methods.iter().rev().find(|method| *method != "ACK").map(String::as_str),
            Some("BYE"),
            "{methods:?}"
        );
        assert_eq!(service.event("call.transferred").await?.data["completed"], true);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_holds_and_fails_to_hand_over_learns_the_code_and_comes_back() -> anyhow::Result<()> {
    for (code, line) in [(486, "SIP/2.0 486 Busy Here"), (603, "SIP/2.0 603 Decline"), (481, "SIP/2.0 481 ")] {
        let colleague = SipPhone::start(phone(SipAnswer::Refuse(code))).await?;
        let rule = format!("refer_to = [\"{}\"]", colleague.uri());
        let (mut service, call, first) = calling(phone(SipAnswer::Answer), sip(&rule, TestOptions::default())).await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        // The REFER follows the hold at once, before its answer: baresip did so and drew a 491 elsewhere.
        let hold = first.sdp("sendonly")?;
        let refer_to = format!("Refer-To: <{}?Replaces={REPLACES_ESCAPED}>", colleague.uri());
        let refer = [refer_to.as_str()];
        let (held, referred) = tokio::join!(first.reinvite(&hold, ""), first.send("REFER", &refer, ""));
        assert_eq!((held?.code(), referred?.code()), (Some(200), Some(202)));
        let told = last_notify(&first).await?;
        assert!(told.starts_with(line), "{told}");
        let failed = service.event("call.transferred").await?.data;
        assert_eq!((&failed["completed"], &failed["sip_code"]), (&false.into(), &code.into()), "{failed}");
        // It still holds.
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
        assert_eq!(first.reinvite(&first.sdp("sendrecv")?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&first, &[CALLER_HZ]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refer_smuggles_is_refused() -> anyhow::Result<()> {
    let colleague = SipPhone::start(phone(SipAnswer::Answer)).await?;
    let rule = format!("refer_to = [\"{}\"]", colleague.uri());
    let (service, call, first) = calling(phone(SipAnswer::Answer), sip(&rule, TestOptions::default())).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    for (headers, code) in [("?Replaces=a%0D%0AX-Evil:%20y", 400), ("?Replaces=%zz", 400), ("?Replaces=", 400)] {
        let response = first.send("REFER", &[&format!("Refer-To: <{}{headers}>", colleague.uri())], "").await?;
        assert_eq!(response.code(), Some(code), "{headers}");
    }
    assert_eq!(first.send("REFER", &[], "").await?.code(), Some(400));
    assert_eq!(service.live_calls().await?, 1);
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert!(colleague.received().is_empty());
    Ok(())
}

/// The body of the NOTIFY that ends the subscription.
async fn last_notify(phone: &SipPhone) -> anyhow::Result<String> {
    let is_last = |message: &SipMessage| {
        let is_over = message.header("Subscription-State").is_some_and(|state| state.starts_with("terminated"));
        is_over.then(|| message.body.clone())
    };
    phone.wait_for("the last NOTIFY", is_last).await
}
