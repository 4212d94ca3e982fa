//! Agents named by URL, within the operator's allow list or the key's scope.

use patchcord_simulator::agent::Agent;
use serde_json::{Value, json};

use super::client::{Client, OUTWARD, WRITER, keys};
use crate::people::heard_voices;
use crate::people::{AGENT_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller, caller_hears_next};
use crate::service::{Talk, TestOptions};

async fn talk_with(outbound: &str) -> anyhow::Result<(Talk, String)> {
    let options = TestOptions { api: keys(), more_routes: outbound.to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    Ok((talk, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_the_list_is_put_through_by_its_url() -> anyhow::Result<()> {
    let (talk, id) = talk_with("[outbound]\nallow = [\"127.0.0.0/8\"]").await?;
    let other = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let client = Client::new(&talk.service, WRITER);
    let connected = client.act(&id, "connect", json!({ "url": other.url(), "parameters": { "tier": "gold" } })).await?;
    assert_eq!(connected.status, 202, "{connected:?}");
    let session = other.wait_for_session(1).await?;
    assert_eq!(session.wait_for_message("start").await?["parameters"]["tier"], "gold");
    session.wait_for_message("accepted").await?;
    // Up to here the caller has heard hold music.
    caller_hears_next(&talk.call, SECOND).await?;
    assert_eq!(heard_voices(&caller_hears_next(&talk.call, SECOND).await?), [SECOND_AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_led_where_the_operator_does_not_want_it() -> anyhow::Result<()> {
    let (talk, id) = talk_with("").await?;
    let (writer, outward) = (Client::new(&talk.service, WRITER), Client::new(&talk.service, OUTWARD));
    let other = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let named = |url: &str| -> Value { json!({ "url": url }) };
    for (client, url, code) in [
        (&writer, other.url().as_str(), "url_not_allowed"),
        (&writer, "wss://bots.example.com/call", "url_not_allowed"),
        (&outward, other.url().as_str(), "url_not_allowed"),
        (&outward, "wss://2130706433/", "url_not_allowed"),
        (&outward, "wss://[::ffff:169.254.169.254]/", "url_not_allowed"),
        (&outward, "wss://localhost/", "url_not_allowed"),
        (&outward, "wss://nobody.invalid/call", "url_unresolved"),
        (&outward, "https://bots.example.com/call", "invalid_url"),
        (&outward, "wss://user:secret@bots.example.com/call", "invalid_url"),
        (&outward, "", "invalid_url"),
    ] {
        for action in ["connect", "transfer"] {
            client.act(&id, action, named(url)).await?.is_problem(422, code);
        }
    }
    // The same limits hold for commands of the agent.
    let command = json!({ "type": "command", "request_id": 1, "action": "connect", "url": other.url() });
    talk.session.send(&command).await;
    let result = talk.session.wait_for_message("result").await?;
    assert_eq!((&result["ok"], &result["code"]), (&false.into(), &"url_not_allowed".into()), "{result}");

    assert_eq!(other.connections(), 0);
    assert_eq!(heard_voices(&caller_hears_next(&talk.call, SECOND).await?), [AGENT_HZ]);
    Ok(())
}
