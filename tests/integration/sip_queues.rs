//! SIP users in a queue: their phones ring for callers that wait, by the rules of the queue.

use anyhow::Context;
use patchcord_simulator::sip_phone::{DigestHash, SipAccount, SipAnswer, SipPhone, SipPhoneOptions};

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND_AGENT_HZ, caller, until_caller_hears};
use crate::service::{TestOptions, TestService};
use crate::sip::until_phone_hears;

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_waits_until_a_phone_registers_and_its_user_has_the_caller() -> anyhow::Result<()> {
    let mut service = service("").await?;
    let call = service.call(caller()).await?;
    service.event("queue.entered").await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let phone = phone(&service, "alice", SipAnswer::Ring, AGENT_HZ).await?;
    let offered = service.event("queue.offered").await?.data;
    assert_eq!(offered["agent"], "sip-user:alice", "{offered}");
    phone.request("INVITE").await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    phone.answer().await?;
    assert_eq!(service.event("queue.answered").await?.data["agent"], "sip-user:alice");
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_phone_and_one_that_does_not_answer_are_followed_by_the_next() -> anyhow::Result<()> {
    let mut service = service("ring_timeout = \"2s\"").await?;
    let busy = phone(&service, "alice", SipAnswer::Refuse(486), AGENT_HZ).await?;
    let silent = phone(&service, "bob", SipAnswer::Ring, AGENT_HZ).await?;
    let call = service.call(caller()).await?;
    silent.request("INVITE").await?;
    silent.request("CANCEL").await?;
    busy.request("INVITE").await?;
    let answers = phone(&service, "carol", SipAnswer::Answer, SECOND_AGENT_HZ).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    until_phone_hears(&answers, &[CALLER_HZ]).await?;
    let declined = service.event("queue.missed").await?.data;
    assert!(declined["reason"] == "declined" || declined["reason"] == "missed", "{declined}");
    call.hang_up().await?;
    answers.request("BYE").await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_stops_the_ringing() -> anyhow::Result<()> {
    let service = service("").await?;
    let phone = phone(&service, "alice", SipAnswer::Ring, AGENT_HZ).await?;
    let call = service.call(caller()).await?;
    phone.request("INVITE").await?;
    call.hang_up().await?;
    phone.request("CANCEL").await?;
    service.all_ended().await
}

async fn phone(service: &TestService, name: &str, answer: SipAnswer, tone_hz: f64) -> anyhow::Result<SipPhone> {
    let phone = SipPhone::start(SipPhoneOptions { answer, tone_hz, ..SipPhoneOptions::default() }).await?;
    let server = service.app.sip_listening().first().context("it listens")?.address;
    let (domain, name) = (server.ip().to_string(), name.to_owned());
    let password = format!("secret of {name}");
    let account = SipAccount { server, domain, name, password, hash: DigestHash::Md5 };
    assert_eq!(phone.register(&account, &[]).await?.code(), Some(200));
    Ok(phone)
}

/// A service whose callers wait in a queue of alice, bob and carol.
async fn service(keys: &str) -> anyhow::Result<TestService> {
    let user = |name: &str| format!("[[sip.users]]\nname = \"{name}\"\npassword = \"secret of {name}\"\n");
    let sip = format!(
        "[sip]\nlisten = [\"udp:127.0.0.1:0\"]\n{}{}{}[queues.support]\nsip_users = [\"alice\", \"bob\", \"carol\"]\n{keys}\n",
        user("alice"),
        user("bob"),
        user("carol")
    );
    TestService::start_with("queue:support", TestOptions { sip, ..TestOptions::default() }).await
}
