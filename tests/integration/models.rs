//! Speech models without an app: each vendor's protocol, against a strict stand-in.

use patchcord_simulator::call::Stage;
use patchcord_simulator::model::{Model, ModelScript, ModelSession, Vendor};
use patchcord_simulator::sound;
use serde_json::json;

use crate::people::{AGENT_HZ, CALLER_HZ, SECOND_AGENT_HZ, caller, objections, until_caller_hears};
use crate::service::{TestOptions, TestService};

const RATE: u32 = 24_000;
const KEY: &str = "key-of-the-vendor";

/// The model greets, both hear each other, the caller interrupts, and the model hangs up by its function.
async fn a_conversation(vendor: Vendor, agent: &str) -> anyhow::Result<ModelSession> {
    let greeting = sound::tone(AGENT_HZ, RATE, 3000);
    let model = Model::start(ModelScript { vendor, key: KEY.to_owned(), greeting }).await?;
    let route = format!(
        "model = {{ url = \"{}\", key = \"{KEY}\", greeting = \"Hello\", instructions = \"Be brief\", tools = [\"hangup\"] }}",
        model.url()
    );
    let mut service = TestService::start_with(agent, TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    // A minute that nobody hears the end of.
    session.say(&sound::tone(SECOND_AGENT_HZ, RATE, 60_000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    session.hear_speech().await;
    session.say(&sound::tone(AGENT_HZ, RATE, 3000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.call_function("hangup", &json!({})).await;
    session.wait_for_end().await?;
    let end = service.end_of(&call).await?;
    assert_eq!((&end["reason"], &end["hung_up_by"]), (&json!("agent_hung_up"), &json!("agent")), "{vendor:?}: {end}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(session)
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_model_talks_and_learns_what_was_heard_when_interrupted() -> anyhow::Result<()> {
    let session = a_conversation(Vendor::OpenAi, "openai-realtime:gpt-realtime").await?;
    assert_eq!(session.path(), "/v1?model=gpt-realtime");
    let truncated = session.wait_for("truncation", |message| message["type"] == "conversation.item.truncate").await?;
    assert_eq!(truncated["item_id"], "item_later");
    let heard_ms = truncated["audio_end_ms"].as_u64().unwrap_or_default();
    assert!((1..60_000).contains(&heard_ms), "{truncated}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gemini_talks() -> anyhow::Result<()> {
    a_conversation(Vendor::Gemini, "gemini-live:gemini-live").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn elevenlabs_talks_and_its_pings_are_answered() -> anyhow::Result<()> {
    let session = a_conversation(Vendor::ElevenLabs, "elevenlabs:agent_1").await?;
    assert_eq!(session.path(), "/v1?agent_id=agent_1");
    session.wait_for("pong", |message| *message == json!({"type": "pong", "event_id": 1})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deepgram_talks() -> anyhow::Result<()> {
    a_conversation(Vendor::Deepgram, "deepgram-agent:gpt-4o-mini").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_its_key_is_followed_by_the_fallback() -> anyhow::Result<()> {
    let model = Model::start(ModelScript { vendor: Vendor::OpenAi, key: KEY.to_owned(), greeting: Vec::new() }).await?;
    let route = format!("model = {{ url = \"{}\", key = \"another\" }}\nfallback = [\"prompt:goodbye\"]", model.url());
    let agent = "openai-realtime:gpt-realtime";
    let mut service = TestService::start_with(agent, TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    service.event("call.agent_lost").await?;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    Ok(())
}
