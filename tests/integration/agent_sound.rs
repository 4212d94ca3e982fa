//! The agent's audio: every format, marks, clear, pause, and overflow.

use std::time::Duration;

use patchcord_media::opus::SILENCE;
use patchcord_simulator::agent::{AgentAudio, AgentOptions, Encoding, Pace};
use patchcord_simulator::call::{Call, CallerOptions};
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;
use serde_json::json;

use crate::people::{
    AGENT_HZ, SECOND, caller_hears_next, objections, quiet_caller, speech_synthesis, talking, tone, understood,
};
use crate::service::{Talk, TestOptions};

/// Real speech both ways, in this format.
async fn speech_is_understood_both_ways(agent: AgentOptions, route: &str) -> anyhow::Result<()> {
    // Sent in advance, so that a busy machine does not make the agent stutter.
    let agent = AgentOptions { greeting: sound::agent_clip(), pace: Pace::Burst, ..agent };
    let caller = CallerOptions { speech: Speech::caller(), ..quiet_caller() };
    let options = TestOptions { route: route.to_owned(), accept_takes: SECOND, ..TestOptions::default() };
    let mut talk = Talk::start_with(caller, agent, options).await?;
    let Talk { session, call, .. } = &mut talk;
    let heard = call.hear_for(4 * SECOND).await?;
    let found = sound::find(&sound::agent_clip(), &heard);
    assert!(found.similarity > 0.8, "{route} {:?}: the caller hears {found:?}", session.audio());
    assert!(sound::beginning_is_whole(&sound::agent_clip(), &heard), "{route} {:?}", session.audio());
    session.hear_for(6 * SECOND).await?;
    let share = understood(&sound::caller_clip(), &session.heard_at_phone_rate());
    assert!(share >= 0.4, "{route} {:?}: the agent understands {share} of the seconds", session.audio());
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

fn asking_for(encoding: Encoding, sample_rate: u32) -> AgentOptions {
    AgentOptions { audio: Some(AgentAudio { encoding, sample_rate }), ..AgentOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_ask_for_any_rate_in_ready() -> anyhow::Result<()> {
    for rate in [8000, 16_000, 24_000, 48_000] {
        speech_is_understood_both_ways(asking_for(Encoding::Pcm, rate), "").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_set_the_rate_and_the_profile() -> anyhow::Result<()> {
    speech_is_understood_both_ways(AgentOptions::default(), "sample_rate = 8000\nprofile = \"hq\"").await?;
    speech_is_understood_both_ways(AgentOptions::default(), "sample_rate = 48000").await
}

#[tokio::test(flavor = "multi_thread")]
async fn opus_is_passed_on_both_ways() -> anyhow::Result<()> {
    speech_is_understood_both_ways(asking_for(Encoding::Opus, 48_000), "").await?;
    speech_is_understood_both_ways(AgentOptions::default(), "encoding = \"opus\"\nsample_rate = 48000").await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_be_cut_anywhere() -> anyhow::Result<()> {
    let chunk_bytes = vec![1, 333, 7, 2001, 640, 3];
    speech_is_understood_both_ways(AgentOptions { chunk_bytes, ..AgentOptions::default() }, "").await?;
    let chunk_bytes = vec![64_001];
    speech_is_understood_both_ways(AgentOptions { chunk_bytes, ..speech_synthesis() }, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_says_ready_is_taken_by_the_routes_word() -> anyhow::Result<()> {
    speech_is_understood_both_ways(AgentOptions { sends_ready: false, ..AgentOptions::default() }, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_are_played_in_their_order_when_their_sound_was_heard() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    for name in ["first", "second", "third"] {
        session.say(&tone(AGENT_HZ, 400)).await;
        session.send(&json!({"type": "mark", "name": name})).await;
    }
    session.wait_for_nth_message("mark", 3).await?;
    let marks = session.messages_of("mark");
    let told: Vec<_> = marks.iter().map(|mark| (mark["name"].as_str(), mark["status"].as_str())).collect();
    assert_eq!(told, [Some("first"), Some("second"), Some("third")].map(|name| (name, Some("played"))));
    // A mark with nothing before it is played at once.
    session.send(&json!({"type": "mark", "name": "nothing"})).await;
    assert_eq!(session.wait_for_nth_message("mark", 4).await?["status"], "played");
    let frames = talking(&call.heard_packets()).into_iter().filter(|talks| *talks).count();
    assert!((59..=63).contains(&frames), "{frames} frames of 60 were heard");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_silences_the_agent_at_once_and_says_what_was_heard() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    session.say(&tone(AGENT_HZ, 6000)).await;
    session.send(&json!({"type": "mark", "name": "the end"})).await;
    while talking(&call.heard_packets()).into_iter().filter(|talks| *talks).count() < 25 {
        call.hear_for(Duration::from_millis(20) * (call.heard_packets().len() as u32 + 1)).await?;
    }
    session.send(&json!({"type": "clear"})).await;
    let cleared = session.wait_for_message("cleared").await?;
    let (played, dropped) = (cleared["played_ms"].as_u64().unwrap(), cleared["dropped_ms"].as_u64().unwrap());
    assert_eq!(played + dropped, 6000, "{cleared}");
    assert!(played >= 480, "{cleared}");
    assert_eq!(session.wait_for_message("mark").await?["status"], "cleared");

    let packets = call.heard_packets().len() as u32;
    call.hear_for(Duration::from_millis(20) * (packets + 50)).await?;
    let frames = talking(&call.heard_packets());
    assert!(frames.ends_with(&[false; 25]), "silence after clear");
    let heard = frames.into_iter().filter(|talks| *talks).count() as u64;
    // The last frame of the tone and the one that flushes its end.
    assert!(heard * 20 <= played + 40, "{} ms were heard, {played} ms were said to be", heard * 20);

    session.say(&tone(AGENT_HZ, 400)).await;
    session.send(&json!({"type": "mark", "name": "again"})).await;
    assert_eq!(
        session.wait_for_nth_message("mark", 2).await?,
        json!({"type": "mark", "name": "again", "status": "played"})
    );
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_keeps_the_rest_and_resume_goes_on_with_it() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    session.say(&tone(AGENT_HZ, 2000)).await;
    session.send(&json!({"type": "mark", "name": "the end"})).await;
    while !talking(&call.heard_packets()).contains(&true) {
        call.hear_for(Duration::from_millis(20) * (call.heard_packets().len() as u32 + 1)).await?;
    }
    session.send(&json!({"type": "pause"})).await;
    while !talking(&call.heard_packets()).ends_with(&[false; 20]) {
        call.hear_for(Duration::from_millis(20) * (call.heard_packets().len() as u32 + 1)).await?;
    }
    assert_eq!(session.messages_of("mark"), [] as [serde_json::Value; 0]);
    session.send(&json!({"type": "resume"})).await;
    assert_eq!(session.wait_for_message("mark").await?["status"], "played");
    let packets = call.heard_packets().len() as u32;
    call.hear_for(Duration::from_millis(20) * (packets + 10)).await?;
    let frames = talking(&call.heard_packets()).into_iter().filter(|talks| *talks).count();
    assert!((99..=104).contains(&frames), "{frames} frames of 100 were heard");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

/// The notes of an utterance, in their order.
const NOTES_HZ: [f64; 4] = [500.0, 800.0, 1100.0, 700.0];

/// 500 ms of each note with a peak of about 8,000, as little-endian samples at this rate.
fn notes(hertz: &[f64], rate: u32) -> Vec<u8> {
    let samples = hertz.iter().flat_map(|hz| sound::tone(*hz, rate, 500));
    samples.flat_map(|sample| (sample / 11 * 8).to_le_bytes()).collect()
}

fn peak(pcm: &[i16]) -> u16 {
    pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0)
}

fn ready(encoding: &str, sample_rate: u32) -> serde_json::Value {
    json!({"type": "ready", "audio": {"encoding": encoding, "sample_rate": sample_rate}})
}

/// How many packets in a row were the cached silence or not, from the first one on that was not.
fn spurts_heard(call: &Call) -> Vec<usize> {
    let cached: Vec<bool> = call.heard_packets().iter().map(|packet| packet.payload[..] == SILENCE).collect();
    let first = cached.iter().position(|is_cached| !is_cached).unwrap_or(cached.len());
    cached[first..].chunk_by(|left, right| left == right).map(<[bool]>::len).collect()
}

/// Until the caller has heard something and then so many frames of silence.
async fn until_silent(call: &Call, frames: usize) -> anyhow::Result<()> {
    loop {
        let heard = talking(&call.heard_packets());
        if heard.contains(&true) && heard.ends_with(&vec![false; frames]) {
            return Ok(());
        }
        call.hear_for(Duration::from_millis(20) * (heard.len() as u32 + 1)).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_too_many_spoils_nothing_that_the_agent_says_later() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    let mut first = notes(&[300.0], PHONE_RATE);
    first.push(0x11);
    session.send_binary(first).await;
    until_silent(call, 75).await?;
    session.send_binary(notes(&NOTES_HZ, PHONE_RATE)).await;
    let heard = caller_hears_next(call, 4 * SECOND).await?;
    assert_eq!(sound::voices_heard(&heard, PHONE_RATE, &NOTES_HZ), NOTES_HZ);
    assert!((6_000..12_000).contains(&peak(&heard)), "{}", peak(&heard));
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_said_before_ready_is_heard_before_what_it_says_after() -> anyhow::Result<()> {
    for rate in [16_000, 24_000, 48_000, 8000] {
        let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
        let Talk { session, call, .. } = &mut talk;
        session.send_binary(notes(&NOTES_HZ[..1], PHONE_RATE)).await;
        session.send(&json!({"type": "mark", "name": "before"})).await;
        session.send(&ready("pcm_s16le", rate)).await;
        session.send_binary(notes(&NOTES_HZ[1..], rate)).await;
        session.send(&json!({"type": "mark", "name": "after"})).await;
        session.wait_for_nth_message("mark", 2).await?;
        until_silent(call, 10).await?;
        let heard = call.heard()?;
        assert_eq!(sound::voices_heard(&heard, PHONE_RATE, &NOTES_HZ), NOTES_HZ, "{rate}");
        assert!((6_000..12_000).contains(&peak(&heard)), "{rate}: {}", peak(&heard));
        let marks: Vec<_> = session.messages_of("mark").iter().map(|mark| mark["name"].clone()).collect();
        assert_eq!(marks, ["before", "after"], "{rate}");
        assert!(session.messages_of("mark").iter().all(|mark| mark["status"] == "played"), "{rate}");
        assert_eq!(session.messages_of("error"), [] as [serde_json::Value; 0]);
        assert_eq!(objections(call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_changes_its_form_again_and_again_is_told_what_it_loses() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    // Nothing is played before all of it has arrived.
    session.send(&json!({"type": "pause"})).await;
    for rate in [8000, 16_000, 8000, 16_000] {
        session.send_binary(notes(&[300.0], 24_000 - rate)).await;
        session.send(&ready("pcm_s16le", rate)).await;
    }
    let error = session.wait_for_message("error").await?;
    assert_eq!(error["code"], "sound_dropped", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.starts_with("2000 ms of your sound")), "{error}");
    session.send_binary(notes(&NOTES_HZ, PHONE_RATE)).await;
    session.send(&json!({"type": "resume"})).await;
    until_silent(call, 10).await?;
    let heard = call.heard()?;
    assert_eq!(sound::voices_heard(&heard, PHONE_RATE, &NOTES_HZ), NOTES_HZ);
    assert!(!sound::hears(&heard, PHONE_RATE, 300.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_that_an_agent_streams_is_the_cached_packet_in_the_same_line() -> anyhow::Result<()> {
    let options = TestOptions { route: "record = true".to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), options).await?;
    let Talk { session, call, .. } = &mut talk;
    let mut said = notes(&[500.0], PHONE_RATE);
    said.resize(said.len() + 4 * PHONE_RATE as usize, 0);
    said.extend(notes(&[800.0], PHONE_RATE));
    session.send_binary(said).await;
    session.send(&json!({"type": "mark", "name": "the end"})).await;
    session.wait_for_message("mark").await?;
    // Sound, silence, sound, and the silence after it.
    let mut spurts = spurts_heard(call);
    while spurts.len() < 4 {
        call.hear_for(Duration::from_millis(20) * (call.heard_packets().len() as u32 + 1)).await?;
        spurts = spurts_heard(call);
    }
    // Five of the hundred silent frames are encoded, and one more at the end.
    assert_eq!(spurts[..3], [25 + 5, 95, 25 + 1], "{spurts:?}");
    assert_eq!(sound::voices_heard(&call.heard()?, PHONE_RATE, &NOTES_HZ), [500.0, 800.0]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_two_minutes_at_once_are_answered_with_xoff_and_can_still_be_cleared() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.say(&tone(AGENT_HZ, 120_500)).await;
    let xoff = session.wait_for_message("xoff").await?;
    assert!((115_000..=121_000).contains(&xoff["queued_ms"].as_u64().unwrap()), "{xoff}");
    // The agent obeys and sends no more audio, but then clears its queue.
    session.stop_saying().await;
    session.send(&json!({"type": "clear"})).await;
    let cleared = session.wait_for_message("cleared").await?;
    assert!(cleared["dropped_ms"].as_u64().unwrap() > 100_000, "{cleared}");
    let xon = session.wait_for_message("xon").await?;
    assert_eq!(xon["queued_ms"], 0, "{xon}");

    session.say(&tone(AGENT_HZ, 400)).await;
    session.send(&json!({"type": "mark", "name": "after"})).await;
    assert_eq!(session.wait_for_message("mark").await?["status"], "played");
    call.hang_up().await?;
    assert_eq!(service.end_of(call).await?["reason"], "caller_hung_up");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_ten_minutes_of_audio_is_read_at_once() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), speech_synthesis(), TestOptions::default()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    let minute: Vec<u8> = tone(AGENT_HZ, 59_000).into_iter().flat_map(i16::to_le_bytes).collect();
    for _ in 0..10 {
        session.send_binary(minute.clone()).await;
    }
    session.send(&json!({"type": "clear"})).await;
    let cleared = session.wait_for_message("cleared").await?;
    let sum = cleared["played_ms"].as_u64().unwrap() + cleared["dropped_ms"].as_u64().unwrap();
    assert_eq!(sum, 590_000, "{cleared}");
    assert_eq!((session.messages_of("xoff").len(), session.ended()), (1, None));
    session.wait_for_message("xon").await?;
    session.say(&tone(AGENT_HZ, 400)).await;
    session.bye().await;
    assert_eq!(service.end_of(call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}
