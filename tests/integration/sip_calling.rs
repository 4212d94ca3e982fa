//! Calls from SIP phones: a registered phone dials a number, the real service places the call, and both talk.

use anyhow::Context;
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions};
use patchcord_simulator::sip_phone::{Codec, DigestHash, SipAccount, SipAnswer, SipPhone, SipPhoneOptions};
use patchcord_simulator::speech::Speech;
use tokio::time::timeout;

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, caller, objections, until_caller_hears};
use crate::service::{TestOptions, TestService};
use crate::sip::until_phone_hears;

const NUMBER: &str = "12025550143";

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_rings_a_whatsapp_user_and_both_talk() -> anyhow::Result<()> {
    for codec in [Codec::Pcmu, Codec::Opus] {
        let mut scene = Scene::with(codec, AnswerWebhooks::default()).await?;
        let dialled = scene.phone.dial(&scene.account, &format!("+{NUMBER}")).await?;
        let call = scene.callee.next_call().await?;
        scene.phone.response(&dialled, 180).await?;
        call.wait_until(Stage::MediaUp).await?;
        assert_eq!(scene.phone.count_of(&dialled, 200), 0, "nobody has accepted");
        assert_eq!(call.pick_up().await?, 200);
        let answered = scene.phone.answered(&dialled).await?;
        assert_eq!(answered.code(), Some(200), "{answered}");
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&scene.phone, &[CALLER_HZ]).await?;
        assert_eq!(scene.phone.reinvite(&scene.phone.sdp("sendonly")?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
        assert_eq!(scene.phone.reinvite(&scene.phone.sdp("sendrecv")?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        assert_eq!(scene.phone.hang_up().await?, 200);
        let ended = scene.service.event("call.ended").await?.data;
        assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"agent_hung_up".into(), &"agent".into()), "{ended}");
        call.wait_until(Stage::Ended).await?;
        assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whatsapp_user_who_hangs_up_ends_the_phones_call() -> anyhow::Result<()> {
    let (mut scene, call) = Scene::talking().await?;
    call.hang_up().await?;
    let bye = scene.phone.request("BYE").await?;
    assert!(bye.header("Reason").is_some_and(|reason| reason.contains("callee_hung_up")), "{bye}");
    assert_eq!(scene.service.event("call.ended").await?.data["reason"], "callee_hung_up");
    scene.service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_gives_up_ends_the_ringing_at_whatsapp() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let dialled = scene.phone.dial(&scene.account, NUMBER).await?;
    let call = scene.callee.next_call().await?;
    scene.phone.response(&dialled, 180).await?;
    assert_eq!(scene.phone.cancel(&dialled).await?.code(), Some(200));
    assert_eq!(scene.phone.answered(&dialled).await?.code(), Some(487));
    let ended = scene.service.event("call.ended").await?.data;
    assert!(["agent_hung_up", "hung_up_by_api"].contains(&ended["reason"].as_str().unwrap_or_default()), "{ended}");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    scene.service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_by_its_code() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    for (number, code, reason) in
        [("12025550177", 403, "no_permission"), ("alice", 484, "number_invalid"), ("0123", 484, "number_invalid")]
    {
        let dialled = scene.phone.dial(&scene.account, number).await?;
        let refused = scene.phone.answered(&dialled).await?;
        assert_eq!(refused.code(), Some(code), "{number}: {refused}");
        assert!(refused.header("Reason").is_some_and(|text| text.contains(reason)), "{refused}");
    }
    // One call at a time between a number and a person.
    let first = scene.phone.dial(&scene.account, NUMBER).await?;
    let call = scene.callee.next_call().await?;
    scene.phone.response(&first, 180).await?;
    let second = scene.phone.dial(&scene.account, NUMBER).await?;
    assert_eq!(scene.phone.answered(&second).await?.code(), Some(486));
    call.decline().await?;
    assert_eq!(scene.phone.answered(&first).await?.code(), Some(603));
    scene.service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_cannot_become_a_call_is_refused() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let late = scene.phone.dial_with(&scene.account, NUMBER, &[], false).await?;
    assert_eq!(scene.phone.answered(&late).await?.code(), Some(488));
    let reliable = scene.phone.dial_with(&scene.account, NUMBER, &["Require: timer, 100rel"], true).await?;
    let refused = scene.phone.answered(&reliable).await?;
    assert_eq!((refused.code(), refused.header("Unsupported")), (Some(420), Some("100rel")));
    let brief = scene.phone.dial_with(&scene.account, NUMBER, &["Session-Expires: 30"], true).await?;
    let refused = scene.phone.answered(&brief).await?;
    assert_eq!((refused.code(), refused.header("Min-SE")), (Some(422), Some("90")));
    let wrong = SipAccount { password: "guess".to_owned(), ..scene.account.clone() };
    let wrong = scene.phone.dial(&wrong, NUMBER).await?;
    assert_eq!(scene.phone.answered(&wrong).await?.code(), Some(403));
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_at_our_cost_who_may_not() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let bob = SipAccount { name: "bob".to_owned(), password: "secret of bob".to_owned(), ..scene.account.clone() };
    assert_eq!(scene.phone.register(&bob, &[]).await?.code(), Some(200));
    let dialled = scene.phone.dial(&bob, NUMBER).await?;
    let refused = scene.phone.answered(&dialled).await?;
    assert_eq!(refused.code(), Some(403));
    assert!(refused.header("Reason").is_some_and(|reason| reason.contains("calls_not_allowed")), "{refused}");
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_calls_gets_no_answer() -> anyhow::Result<()> {
    let service = service().await?;
    let phone = SipPhone::start(SipPhoneOptions::default()).await?;
    let account = account(&service)?;
    // Nothing is registered yet.
    let dialling = phone.dial(&account, NUMBER);
    assert!(timeout(std::time::Duration::from_secs(2), dialling).await.is_err());
    assert!(phone.received().is_empty());
    assert_eq!(service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_lost_messages_change_nothing() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let dialled = scene.phone.dial(&scene.account, NUMBER).await?;
    let call = scene.callee.next_call().await?;
    scene.phone.response(&dialled, 180).await?;
    let rung = scene.phone.count_of(&dialled, 180);
    scene.phone.repeat(&dialled).await?;
    scene.phone.repeated(&dialled, 180, rung).await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    let response = scene.phone.response(&dialled, 200).await?;
    // Its ACK is lost: the 200 comes again.
    scene.phone.repeated(&dialled, 200, 1).await?;
    scene.phone.acknowledge(&dialled, &response).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(scene.service.count_of("connect"), 1);
    // Too late: the call stands.
    let cancelled = scene.phone.cancel(&dialled).await?;
    assert!([Some(200), Some(481)].contains(&cancelled.code()), "{cancelled}");
    until_phone_hears(&scene.phone, &[CALLER_HZ]).await?;
    assert_eq!(scene.phone.hang_up().await?, 200);
    scene.service.all_ended().await
}

/// A service with a phone of alice, who may call, and somebody who permits calls.
struct Scene {
    service: TestService,
    phone: SipPhone,
    account: SipAccount,
    callee: Callee,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        Self::with(Codec::Pcmu, AnswerWebhooks::default()).await
    }

    async fn with(codec: Codec, webhooks: AnswerWebhooks) -> anyhow::Result<Self> {
        let service = service().await?;
        let callee = service.meta.permit(CalleeOptions { person: caller(), webhooks, ..CalleeOptions::default() });
        let speech = Speech::tone(AGENT_HZ)?;
        let options = SipPhoneOptions {
            codec,
            speech,
            tone_hz: AGENT_HZ,
            answer: SipAnswer::Ignore,
            ..SipPhoneOptions::default()
        };
        let (phone, account) = (SipPhone::start(options).await?, account(&service)?);
        assert_eq!(phone.register(&account, &[]).await?.code(), Some(200));
        Ok(Self { service, phone, account, callee })
    }

    async fn talking() -> anyhow::Result<(Self, Call)> {
        let scene = Self::start().await?;
        let dialled = scene.phone.dial(&scene.account, NUMBER).await?;
        let call = scene.callee.next_call().await?;
        call.wait_until(Stage::MediaUp).await?;
        call.pick_up().await?;
        assert_eq!(scene.phone.answered(&dialled).await?.code(), Some(200));
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        Ok((scene, call))
    }
}

async fn service() -> anyhow::Result<TestService> {
    let sip = "[sip]\nlisten = [\"udp:127.0.0.1:0\"]\n\
               [[sip.users]]\nname = \"alice\"\npassword = \"secret of alice\"\nmay_call = true\n\
               [[sip.users]]\nname = \"bob\"\npassword = \"secret of bob\"\n"
        .to_owned();
    TestService::start_with("prompt:goodbye", TestOptions { sip, ..TestOptions::default() }).await
}

fn account(service: &TestService) -> anyhow::Result<SipAccount> {
    let server = service.app.sip_listening().first().context("it listens")?.address;
    Ok(SipAccount {
        server,
        domain: server.ip().to_string(),
        name: "alice".to_owned(),
        password: "secret of alice".to_owned(),
        hash: DigestHash::Sha256,
    })
}
