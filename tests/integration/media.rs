//! Audio over bad networks, from different phones, and for many calls at once.

use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::call::{CallerOptions, EndedBy, Stage};
use patchcord_simulator::network::{Conditions, NetworkOptions};
use patchcord_simulator::objection::Objection;
use patchcord_simulator::phone::offer::OfferQuirks;
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;

use crate::offers::replace_line;
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, agent, agent_hears_next, caller, caller_hears_first, heard_voices, objections,
    quiet_caller, tone,
};
use crate::recording::{loud_seconds, path_of, recorded};
use crate::service::{Talk, TestOptions, TestService};

fn losing(share: f64) -> NetworkOptions {
    NetworkOptions::both_ways(Conditions { loss: share, ..Conditions::default() })
}

/// Both hear each other, and only each other.
pub async fn both_hear(caller: CallerOptions, options: TestOptions) -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller, agent(), options).await?;
    let Talk { session, call, .. } = &mut talk;
    assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ], "{}", call.seen());
    assert_eq!(heard_voices(&caller_hears_first(call, SECOND).await?), [AGENT_HZ], "{}", call.seen());
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_get_through_networks_that_lose_packets() -> anyhow::Result<()> {
    for (share, seed) in [(0.05, 1), (0.05, 2), (0.2, 3), (0.2, 4)] {
        let caller = CallerOptions { network: losing(share), seed: Some(seed), ..caller() };
        both_hear(caller, TestOptions::default()).await.with_context(|| format!("{share} lost, seed {seed}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_a_bad_day_goes_on() -> anyhow::Result<()> {
    both_hear(CallerOptions { network: NetworkOptions::bad_day(), seed: Some(5), ..caller() }, TestOptions::default())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_never_opens_ends_the_call() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let options = TestOptions { calls: r#"media_timeout = "2s""#.to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(CallerOptions { network: NetworkOptions::cut(), ..caller() }).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"media_never_connected".into(), &"operator".into()), "{ended}");
    assert_eq!(agent.wait_for_session(1).await?.wait_for_message("stop").await?["reason"], "media_never_connected");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.actions(), ["pre_accept", "terminate"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_vanishes_is_noticed_and_then_given_up() -> anyhow::Result<()> {
    let limits = "media_lost_warn = \"1s\"\nmedia_lost_end = \"4s\"".to_owned();
    let options = TestOptions { calls: limits, ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    call.vanish().await;
    service.event("call.media_silent").await?;
    let ended = service.end_of(call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"media_lost".into(), &"caller".into()), "{ended}");
    assert_eq!(session.wait_for_message("stop").await?["reason"], "media_lost");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

/// A muted phone behind a relay may send neither RTP nor RTCP, but its side answers the connectivity checks.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_sends_nothing_is_given_up_later_than_one_who_is_gone() -> anyhow::Result<()> {
    let limits = "media_lost_warn = \"1s\"\nmedia_lost_end = \"4s\"\nmedia_silent_end = \"8s\"".to_owned();
    let options = TestOptions { calls: limits, ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.hear_for(SECOND).await?;
    let since = Instant::now();
    let muted = Conditions { muted: true, ..Conditions::default() };
    call.set_network(NetworkOptions { to_service: muted, ..NetworkOptions::default() }).await;
    service.event("call.media_silent").await?;
    let ended = service.end_of(call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"media_lost".into(), &"caller".into()), "{ended}");
    assert!(since.elapsed() >= Duration::from_secs(7), "after {:?}", since.elapsed());
    Ok(())
}

/// Hold and resume, another device, a relay that changes: each comes with an SSRC of its own.
#[tokio::test(flavor = "multi_thread")]
async fn every_sender_of_a_call_is_heard_and_recorded() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), AgentOptions::default(), recorded()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.hear_for(SECOND).await?;
    let in_turns = [1, 12, 1, 12, 0];
    for (turn, sender) in (1..=12).chain(in_turns).enumerate() {
        call.speak_as(sender).await;
        let heard = agent_hears_next(session, SECOND / 2).await?;
        // Packets in flight from the previous sender arrive first.
        assert_eq!(heard_voices(&heard[heard.len() / 5..]), [CALLER_HZ], "turn {turn}, {}", call.seen());
    }
    call.hang_up().await?;
    let finished = service.event("call.recording_finished").await?.data;
    let loud = loud_seconds(&std::fs::read(path_of(service, &finished))?);
    let recorded = finished["duration_ms"].as_f64().unwrap_or_default() / 1000.0;
    assert!(recorded > 8.0 && loud > 0.7 * recorded, "{loud} s of sound in {finished}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pauses_of_a_caller_with_dtx_last_as_long_for_the_agent() -> anyhow::Result<()> {
    let mut pattern = tone(CALLER_HZ, 1000);
    pattern.resize(3 * PHONE_RATE as usize, 0);
    for encoding in ["pcm_s16le", "opus"] {
        let caller = CallerOptions { speech: Speech::pcm(&pattern)?.looped(), dtx: true, ..quiet_caller() };
        let route = if encoding == "opus" { "encoding = \"opus\"".to_owned() } else { String::new() };
        let options = TestOptions { route, ..TestOptions::default() };
        let mut talk = Talk::start_with(caller, AgentOptions::default(), options).await?;
        let Talk { session, call, .. } = &mut talk;
        session.hear_for(SECOND).await?;
        let before = call.counts().await;
        let heard = agent_hears_next(session, 9 * SECOND).await?;
        let sent = call.counts().await.sent - before.sent;
        let frames = heard.len() as u64 / 320;
        assert!(sent < frames * 2 / 3, "{encoding}: {sent} packets in {frames} frames");
        let loud = heard.chunks(320).filter(|frame| sound::rms(frame) > 300.0).count() as f64 / frames as f64;
        assert!((0.25..0.42).contains(&loud), "{encoding}: {loud} of the time is sound, not a third");
        assert_eq!(objections(call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_how_a_call_sounds() -> anyhow::Result<()> {
    for (share, level) in [(0.0, "good"), (0.4, "poor")] {
        let mut talk = Talk::start_with(caller(), agent(), TestOptions::default()).await?;
        talk.call.set_network(losing(share)).await;
        let told = talk.service.event("call.quality").await?.data;
        assert_eq!(told["level"], level, "{told}");
        let loss = told["loss_from_caller_percent"].as_f64().unwrap_or_default() / 100.0;
        assert!((loss - share).abs() < 0.15, "{told}");
        talk.call.hang_up().await?;
        let ended = talk.service.end_of(&talk.call).await?;
        assert_eq!(ended["sound"]["worst_quality"], told);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_comes_back_in_time_saves_the_call() -> anyhow::Result<()> {
    let limits = "media_lost_warn = \"1s\"\nmedia_lost_end = \"20s\"".to_owned();
    let options = TestOptions { calls: limits, ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    call.set_network(NetworkOptions::cut()).await;
    service.event("call.media_silent").await?;
    call.set_network(NetworkOptions::default()).await;
    service.event("call.media_back").await?;
    let before = session.heard().len();
    let heard = session.hear_for(SECOND * (before as u32 / PHONE_RATE + 2)).await?;
    assert_eq!(heard_voices(&heard[before..]), [CALLER_HZ]);
    call.hang_up().await?;
    assert_eq!(service.end_of(call).await?["reason"], "caller_hung_up");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_muted_phone_is_a_living_call_in_which_the_agent_hears_silence() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.hear_for(SECOND).await?;
    call.go_silent().await;
    let before = session.heard().len();
    let heard = session.hear_for(SECOND * (before as u32 / PHONE_RATE + 3)).await?;
    assert_eq!(heard_voices(&heard[heard.len() - PHONE_RATE as usize..]), [] as [f64; 0]);
    call.speak_again().await;
    let before = session.heard().len();
    let heard = session.hear_for(SECOND * (before as u32 / PHONE_RATE + 2)).await?;
    assert_eq!(heard_voices(&heard[before..]), [CALLER_HZ]);
    assert!(!service.kinds().contains(&"call.ended"));
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_offer_did_not_promise_ends_the_call() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let other = ["AB"; 32].join(":");
    let fingerprint = format!("a=fingerprint:sha-256 {other}");
    let call = service.call_with_offer(caller(), |offer| replace_line(offer, "a=fingerprint", &fingerprint)).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"fingerprint_mismatch".into(), &"caller".into()), "{ended}");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.count_of("accept"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_offer_that_was_seen_is_understood() -> anyhow::Result<()> {
    let usual = OfferQuirks::default;
    let all = [
        OfferQuirks { extmap: true, ..usual() },
        OfferQuirks { lf_line_ends: true, ..usual() },
        OfferQuirks { foreign_lines: true, ..usual() },
        OfferQuirks { no_ssrc: true, ..usual() },
        OfferQuirks { extmap: true, lf_line_ends: true, foreign_lines: true, no_ssrc: true, ..usual() },
    ];
    for quirks in all {
        let named = format!("{quirks:?}");
        both_hear(CallerOptions { offer_quirks: quirks, ..caller() }, TestOptions::default()).await.context(named)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_both_families_is_heard_by_a_service_with_one_or_both() -> anyhow::Result<()> {
    let both = || CallerOptions { ipv6: true, ..caller() };
    both_hear(both(), TestOptions::default()).await?;
    both_hear(both(), TestOptions { ipv6: true, ..TestOptions::default() }).await?;
    both_hear(caller(), TestOptions { ipv6: true, ..TestOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_at_ipv6_alone_is_heard() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let service = TestService::start_with(&agent.url(), TestOptions { ipv6: true, ..TestOptions::default() }).await?;
    let without_ipv4 = |offer: &str| {
        offer.split_inclusive("\r\n").filter(|line| !line.starts_with("a=candidate") || line.contains("::1")).collect()
    };
    let call = service.call_with_offer(CallerOptions { ipv6: true, ..caller() }, without_ipv4).await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    assert_eq!(heard_voices(&agent.wait_for_session(1).await?.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_reaches_the_agent_and_the_events_once() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    call.send_dtmf("1590*#").await;
    session.wait_for_nth_message("dtmf", 6).await?;
    assert_eq!(digits(&session.messages_of("dtmf")), "1590*#");
    for digit in ["1", "5", "9", "0", "*", "#"] {
        let event = service.event("call.dtmf").await?;
        assert_eq!(event.data["digit"], digit);
        assert!(event.data["duration_ms"].as_u64().is_some_and(|held| held >= 40), "{}", event.data);
    }
    assert_eq!(heard_voices(&session.heard()), [CALLER_HZ], "keys are not sound");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_counts_once_though_packets_are_lost_and_doubled() -> anyhow::Result<()> {
    let bad = Conditions { loss: 0.1, duplication: 0.2, ..Conditions::default() };
    let caller = CallerOptions { network: NetworkOptions::both_ways(bad), seed: Some(6), ..caller() };
    let mut talk = Talk::start_with(caller, agent(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    // The last key may be reported with the next one, if all its end packets are lost; it is not counted here.
    call.send_dtmf("1123581321#").await;
    session.wait_for_nth_message("dtmf", 10).await.with_context(|| call.seen())?;
    assert!(digits(&session.messages_of("dtmf")).starts_with("1123581321"), "{}", call.seen());
    Ok(())
}

fn digits(messages: &[serde_json::Value]) -> String {
    messages.iter().filter_map(|message| message["digit"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_calls_at_once_and_everyone_hears_only_their_own_agent() -> anyhow::Result<()> {
    const CALLS: usize = 20;
    // Far enough apart to be distinguished after Opus. An agent has the voice of another call's caller.
    let voice = |person: usize| 300.0 + 150.0 * (person % CALLS) as f64;
    let agent_voice = |call: usize| voice(call + 7);
    let everybody: Vec<f64> = (0..CALLS).map(voice).collect();
    let agent = Agent::start(AgentOptions::default()).await?;
    let service = TestService::start(&agent.url()).await?;
    let mut calls = Vec::new();
    for index in 0..CALLS {
        let speech = Speech::tone(voice(index))?;
        calls.push(service.call(CallerOptions { speech, ..quiet_caller() }).await?);
    }
    for (index, call) in calls.iter().enumerate() {
        call.wait_until_within(Stage::Accepted, Duration::from_secs(30)).await?;
        agent.wait_for_session(index + 1).await?;
    }
    let conversations = agent.sessions().into_iter().map(async |session| {
        let wacid = session.wait_for_message("start").await?["wacid"].take();
        let index = calls.iter().position(|call| call.wacid() == wacid).context("a session of no call")?;
        session.say(&tone(agent_voice(index), 10_000)).await;
        let heard = session.hear_for(2 * SECOND).await?;
        assert_eq!(sound::voices_heard(&heard, PHONE_RATE, &everybody), [voice(index)], "agent {index}");
        let call = &calls[index];
        call.wait_until(Stage::FirstSound).await?;
        let before = call.heard_packets().len() as u32;
        let heard = call.hear_for(Duration::from_millis(20) * (before + 50)).await?;
        assert_eq!(sound::voices_heard(&heard, PHONE_RATE, &everybody), [agent_voice(index)], "caller {index}");
        assert_eq!(objections(call), [] as [Objection; 0], "{}", call.seen());
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(conversations).await?;
    Ok(())
}
