//! Agents written for other platforms: each protocol carries a whole call.

use patchcord_simulator::call::Stage;
use patchcord_simulator::foreign_agent::{ForeignAgent, ForeignCall, Protocol};
use serde_json::json;

use crate::people::{AGENT_HZ, CALLER_HZ, SECOND_AGENT_HZ, caller, objections, tone, until_caller_hears};
use crate::service::{TestOptions, TestService};

/// Both hear each other, a mark comes back, a clear takes effect, a key arrives, and each side can hang up.
async fn whole_calls(protocol: Protocol, sample_rate: u32) -> anyhow::Result<Vec<ForeignCall>> {
    let agent = ForeignAgent::start(protocol, sample_rate).await?;
    let route = format!(
        "dialect = \"{}\"\nsample_rate = {sample_rate}\nparameters = {{ language = \"de\" }}",
        protocol.dialect()
    );
    let mut service = TestService::start_with(&agent.url(), TestOptions { route, ..TestOptions::default() }).await?;

    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.say(&tone(AGENT_HZ, 2000)).await;
    session.mark("greeting").await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_mark("greeting").await?;
    session.wait_for_tone(CALLER_HZ).await?;
    // A minute that nobody hears the end of.
    session.say(&tone(AGENT_HZ, 60_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.clear().await;
    session.say(&tone(SECOND_AGENT_HZ, 5000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    call.send_dtmf("5").await;
    session.wait_for_key('5').await?;
    session.hang_up().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up", "{protocol:?}");
    assert_eq!(objections(&call), [], "{}", call.seen());

    let call = service.call(caller()).await?;
    let second = agent.wait_for_call(2).await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hang_up().await?;
    assert_eq!(second.wait_for_end().await?, 1000, "{protocol:?}");
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up", "{protocol:?}");
    Ok(vec![session, second])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_twilio_talks_with_a_caller() -> anyhow::Result<()> {
    let calls = whole_calls(Protocol::Twilio, 8000).await?;
    let messages = calls[1].messages();
    assert_eq!(messages[0], json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}));
    assert_eq!(messages[1]["start"]["customParameters"]["language"], "de");
    assert_eq!(messages.last().map(|message| message["event"].clone()), Some(json!("stop")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_telnyx_talks_with_a_caller_in_pcmu_and_in_wideband() -> anyhow::Result<()> {
    whole_calls(Protocol::Telnyx, 8000).await?;
    let calls = whole_calls(Protocol::Telnyx, 16_000).await?;
    assert_eq!(calls[0].messages()[1]["start"]["media_format"]["encoding"], "L16");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_plivo_talks_with_a_caller_in_mu_law_and_in_wideband() -> anyhow::Result<()> {
    whole_calls(Protocol::Plivo, 8000).await?;
    let calls = whole_calls(Protocol::Plivo, 16_000).await?;
    assert!(calls[0].messages().iter().any(|message| message["event"] == "clearedAudio"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_exotel_talks_with_a_caller() -> anyhow::Result<()> {
    whole_calls(Protocol::Exotel, 24_000).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_vonage_talks_with_a_caller() -> anyhow::Result<()> {
    let calls = whole_calls(Protocol::Vonage, 24_000).await?;
    let connected = json!({"event": "websocket:connected", "content-type": "audio/l16;rate=24000", "language": "de"});
    assert_eq!(calls[0].messages()[0], connected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_jambonz_talks_with_a_caller() -> anyhow::Result<()> {
    let calls = whole_calls(Protocol::Jambonz, 16_000).await?;
    let offered = calls[0].header("sec-websocket-protocol");
    assert_eq!(offered.as_deref(), Some("audio.drachtio.org, audio.jambonz.org"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_asterisk_talks_with_a_caller_in_both_forms_of_control() -> anyhow::Result<()> {
    whole_calls(Protocol::Asterisk, 8000).await?;
    whole_calls(Protocol::AsteriskJson, 16_000).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_protocol_knows_is_passed_over_and_the_call_goes_on() -> anyhow::Result<()> {
    let agent = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let route = "dialect = \"twilio\"".to_owned();
    let service = TestService::start_with(&agent.url(), TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let deep = "[".repeat(100_000);
    for junk in ["", "hello", "null", "{}", r#"{"event":"media"}"#, r#"{"event":"later"}"#, r#"{"event":7}"#, &deep] {
        session.send_text(junk).await;
    }
    session.send_text(r#"{"event":"media","media":{"payload":"§"}}"#).await;
    session.say(&tone(AGENT_HZ, 3000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upgrade_is_signed_as_the_app_expects() -> anyhow::Result<()> {
    let agent = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let keys = "dialect = \"twilio\"\ntwilio_auth_token = \"12345\"\ntwilio_url = \"wss://bot.example.com/media\"";
    let options = TestOptions { route: keys.to_owned(), ..TestOptions::default() };
    let service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    // By openssl: HMAC-SHA1 over the public address.
    assert_eq!(session.header("x-twilio-signature").as_deref(), Some("/wAl+WqMkvPvBcVutOs5CBheh4o="));
    call.hang_up().await?;

    let keys = "agent_secret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\"\ndialect = \"vonage\"";
    let agent = ForeignAgent::start(Protocol::Vonage, 16_000).await?;
    let options = TestOptions { route: keys.to_owned(), ..TestOptions::default() };
    let service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    let id = session.header("webhook-id").unwrap_or_default();
    assert!(id.starts_with("call_"), "{id}");
    assert!(session.header("webhook-signature").is_some_and(|signature| signature.starts_with("v1,")));
    call.hang_up().await?;
    Ok(())
}
