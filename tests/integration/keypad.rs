//! The caller's keys: reported, gathered, and protected.

use patchcord_simulator::call::CallerOptions;
use patchcord_simulator::phone::voice::KeyPacket;
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use patchcord::call::event::CallId;

use crate::people::{GOODBYE_NOTES_HZ, SECOND, quiet_caller};
use crate::service::{Talk, TestOptions};

/// A call with an agent that says nothing.
async fn talk() -> anyhow::Result<(Talk, CallId)> {
    let mut talk = Talk::start_with(
        CallerOptions { ..quiet_caller() },
        patchcord_simulator::agent::AgentOptions::default(),
        TestOptions::default(),
    )
    .await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    Ok((talk, id))
}

async fn act(talk: &Talk, call: &CallId, action: &str, body: Value) -> anyhow::Result<Value> {
    talk.service.act(call, action, body).await.map_err(anyhow::Error::msg)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_told_once_to_agent_and_app() -> anyhow::Result<()> {
    let (mut talk, _) = talk().await?;
    talk.call.send_dtmf("19#").await;
    for digit in ["1", "9", "#"] {
        assert_eq!(talk.service.event("call.dtmf").await?.data["digit"], digit);
    }
    talk.session.wait_for_nth_message("dtmf", 3).await?;
    let told: Vec<Value> =
        talk.session.messages_of("dtmf").into_iter().map(|message| message["digit"].clone()).collect();
    assert_eq!(told, ["1", "9", "#"]);
    Ok(())
}

/// Some gateways give each packet of a press, or each copy of its end, a timestamp of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_press_whose_timestamps_move_is_one_key() -> anyhow::Result<()> {
    let (mut talk, _) = talk().await?;
    for all in [false, true] {
        let update = |index: u32| (if all { 160 * index } else { 0 }, 0x0a, 160 * (index as u16 + 1));
        let end = |copy: u32| (160 * if all { 5 + copy } else { copy }, 0x8a, 960);
        let packets = (0..5).map(update).chain((0..3).map(end)).map(|(timestamp_offset, flags, duration)| {
            let [high, low] = u16::to_be_bytes(duration);
            KeyPacket { timestamp_offset, payload: [8, flags, high, low] }
        });
        let packets: Vec<KeyPacket> = packets.collect();
        talk.call.send_key_packets(&packets).await;
        assert_eq!(talk.service.event("call.dtmf").await?.data["digit"], "8", "{all}");
        // Sent after the packets above, so it is reported after them.
        talk.call.send_dtmf("5").await;
        assert_eq!(talk.service.event("call.dtmf").await?.data["digit"], "5", "{all}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_stops_the_prompt_and_the_terminator_ends_the_gather() -> anyhow::Result<()> {
    let (mut talk, id) = talk().await?;
    let begun = act(&talk, &id, "gather", json!({ "prompts": ["hold"], "max_digits": 8 })).await?;
    talk.call.send_dtmf("42#").await;
    let finished = talk.service.event("call.gather_finished").await?;
    assert_eq!(finished.data["gather_id"], begun["gather_id"]);
    assert_eq!((&finished.data["digits"], &finished.data["reason"]), (&"42".into(), &"terminator".into()));
    let refused = talk.service.act(&id, "stop_playback", Value::Null).await;
    assert_eq!(refused, Err("nothing_plays".to_owned()), "the key has stopped the prompt");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_the_time_for_the_first_one_ends_it_after_the_prompt() -> anyhow::Result<()> {
    let (mut talk, id) = talk().await?;
    let waiting = json!({ "prompts": ["goodbye"], "first_digit_timeout_ms": 200 });
    act(&talk, &id, "gather", waiting).await?;
    let finished = talk.service.event("call.gather_finished").await?;
    assert_eq!((&finished.data["digits"], &finished.data["reason"]), (&"".into(), &"first_digit_timeout".into()));
    let heard = talk.call.heard()?;
    assert!(GOODBYE_NOTES_HZ.iter().all(|note| sound::hears(&heard, PHONE_RATE, *note)), "the whole prompt");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_keys_are_told_to_their_owner_alone() -> anyhow::Result<()> {
    let (mut talk, id) = talk().await?;
    act(&talk, &id, "gather", json!({ "max_digits": 4, "protected": true })).await?;
    talk.call.send_dtmf("4711").await;
    assert_eq!(talk.service.event("call.gather_finished").await?.data["digits"], "4711");
    talk.session.wait_for_nth_message("dtmf", 4).await?;
    assert!(talk.session.messages_of("dtmf").iter().all(|message| message["digit"].is_null()), "masked for the agent");

    // The agent's own gather is masked for the app, and complete for the agent.
    talk.session
        .send(&json!({ "type": "command", "request_id": "g", "action": "gather", "max_digits": 2, "protected": true }))
        .await;
    assert_eq!(talk.session.wait_for_message("result").await?["ok"], true);
    talk.call.send_dtmf("08").await;
    let told = talk.session.wait_for_message("event").await?["event"].clone();
    assert_eq!((&told["type"], &told["data"]["digits"]), (&"call.gather_finished".into(), &"08".into()));
    assert_eq!(talk.service.event("call.gather_finished").await?.data["digits"], Value::Null);
    let agent_digits: Vec<Value> =
        talk.session.messages_of("dtmf")[4..].iter().map(|message| message["digit"].clone()).collect();
    assert_eq!(agent_digits, ["0", "8"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_protection_nobody_learns_a_key() -> anyhow::Result<()> {
    let (mut talk, id) = talk().await?;
    act(&talk, &id, "protect", Value::Null).await?;
    talk.call.send_dtmf("5").await;
    assert_eq!(talk.service.event("call.dtmf").await?.data["digit"], Value::Null);
    act(&talk, &id, "unprotect", Value::Null).await?;
    talk.call.send_dtmf("6").await;
    assert_eq!(talk.service.event("call.dtmf").await?.data["digit"], "6");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_and_app_may_press_keys_towards_the_caller() -> anyhow::Result<()> {
    let (talk, id) = talk().await?;
    act(&talk, &id, "send_dtmf", json!({ "digits": "12#" })).await?;
    talk.session.send(&json!({ "type": "dtmf", "digits": "9" })).await;
    assert_eq!(talk.session.wait_for_message("result").await?["ok"], true);
    // Each key takes 160 ms.
    talk.call.hear_for(SECOND).await?;
    assert_eq!(talk.call.heard_digits(), "12#9");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gather_ends_the_first() -> anyhow::Result<()> {
    let (mut talk, id) = talk().await?;
    let first = act(&talk, &id, "gather", json!({})).await?;
    talk.call.send_dtmf("7").await;
    talk.service.event("call.dtmf").await?;
    act(&talk, &id, "gather", json!({})).await?;
    let finished = talk.service.event("call.gather_finished").await?;
    assert_eq!(finished.data["gather_id"], first["gather_id"]);
    assert_eq!((&finished.data["digits"], &finished.data["reason"]), (&"7".into(), &"stopped".into()));
    Ok(())
}
