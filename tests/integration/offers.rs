//! Unusual offers, and offers that cannot be answered: those are rejected at once, without effect on other calls.

use anyhow::Context;
use patchcord_simulator::call::{CallerOptions, EndedBy, Stage};
use patchcord_simulator::phone::offer::{OfferQuirks, SecondFingerprint};
use serde_json::Value;

use crate::media::both_hear;
use crate::people::{AGENT_HZ, CALLER_HZ, SECOND, agent, caller, heard_voices, objections, quiet_caller};
use crate::service::{Talk, TestOptions, TestService};

const SDES: &str = include_str!("../../media/tests/fixtures/sdp-offer-sdes.sdp");

fn with_quirks(offer_quirks: OfferQuirks) -> CallerOptions {
    CallerOptions { offer_quirks, ..caller() }
}

/// RFC 8122 §5: a certificate that matches any of the fingerprints is valid.
#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_fingerprints_may_be_the_callers() -> anyhow::Result<()> {
    for place in [SecondFingerprint::Behind, SecondFingerprint::Before] {
        let quirks = OfferQuirks { second_fingerprint: Some(place), ..OfferQuirks::default() };
        both_hear(with_quirks(quirks), TestOptions::default()).await.with_context(|| format!("{place:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_with_spaces_at_the_ends_of_its_lines_is_one_without() -> anyhow::Result<()> {
    let quirks = OfferQuirks { trailing_spaces: true, ..OfferQuirks::default() };
    both_hear(with_quirks(quirks), TestOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_is_answered_and_other_media_beside_it_refused() -> anyhow::Result<()> {
    for more_media in [
        include_str!("../fixtures/sdp/data-section.sdp"),
        include_str!("../fixtures/sdp/video-section-refused.sdp"),
        "m=video 9 UDP/TLS/RTP/SAVPF 97 98\r\na=mid:video\r\na=inactive\r\n",
        "m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:1\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n",
    ] {
        let quirks = OfferQuirks { more_media, ..OfferQuirks::default() };
        both_hear(with_quirks(quirks), TestOptions::default()).await.with_context(|| more_media.to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_candidates_of_the_highest_priorities_are_tried_however_many_stand_before_them() -> anyhow::Result<()> {
    let quirks = OfferQuirks { dead_candidates: 60, ..OfferQuirks::default() };
    both_hear(with_quirks(quirks), TestOptions::default()).await
}

/// RFC 3264 §6.1. The simulator objects to an answer that does not mirror the direction.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_only_sends_is_heard_and_gets_no_sound() -> anyhow::Result<()> {
    let quirks = OfferQuirks { direction: Some("sendonly"), ..OfferQuirks::default() };
    let mut talk = Talk::start_with(with_quirks(quirks), agent(), TestOptions::default()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    assert_eq!(heard_voices(&session.hear_for(2 * SECOND).await?), [CALLER_HZ], "{}", call.seen());
    assert_eq!(call.heard()?.len(), 0, "{}", call.seen());
    assert!(call.answer().is_some_and(|answer| answer.contains("a=recvonly\r\n")));
    call.hang_up().await?;
    assert_eq!(service.end_of(call).await?["reason"], "caller_hung_up");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_of_every_direction_are_answered() -> anyhow::Result<()> {
    for (direction, answered) in [("recvonly", "a=sendonly"), ("inactive", "a=inactive")] {
        let quirks = OfferQuirks { direction: Some(direction), ..OfferQuirks::default() };
        let caller = CallerOptions { offer_quirks: quirks, ..quiet_caller() };
        let talk = Talk::start_with(caller, agent(), TestOptions::default()).await?;
        let answer = talk.call.answer().context("an answer")?;
        assert!(answer.lines().any(|line| line == answered), "{direction}: {answer}");
        if direction == "recvonly" {
            assert_eq!(heard_voices(&talk.call.hear_for(2 * SECOND).await?), [AGENT_HZ], "{}", talk.call.seen());
        }
        assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    }
    Ok(())
}

/// A call that is rejected because of its offer; the detail of the end must say why.
async fn is_refused(service: &mut TestService, why: &str, rewrite: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
    let call = service.call_with_offer(quiet_caller(), rewrite).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!(ended["reason"], "offer_refused", "{ended}");
    let detail = ended["detail"].as_str().context("a detail")?;
    assert!(detail.contains(why), "{why:?} is not in {detail:?}");
    assert!(detail.len() < 300, "{detail:?} is for people");
    let after = ended["stages"]["ended_ms"].as_f64().context("ended_ms")?;
    assert!(after < 5000.0, "{why}: refused after {after} ms");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Rejected), "{why}");
    assert_eq!(call.objections(), [], "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_cannot_be_answered_is_rejected_at_meta_and_the_reason_is_told() -> anyhow::Result<()> {
    let mut service = TestService::start("prompt:goodbye").await?;
    let service = &mut service;
    is_refused(service, "64 KiB", |offer| offer.replace("s=-\r\n", &format!("s={}\r\n", "x".repeat(1 << 20)))).await?;
    is_refused(service, "64 KiB", |offer| with_candidates(offer, 10_000)).await?;
    is_refused(service, "1000 lines", |offer| offer.replace("s=-\r\n", &format!("s=-\r\n{}", "a=x\r\n".repeat(2000))))
        .await?;
    is_refused(service, "control character", |offer| offer.replace("s=-", "s=\0")).await?;
    is_refused(service, "audio", |offer| offer.replace("m=audio", "m=application")).await?;
    is_refused(service, "port 0", |offer| replace_line(offer, "m=audio", "m=audio 0 UDP/TLS/RTP/SAVPF 111 126"))
        .await?;
    is_refused(service, "SDES", |_| SDES.to_owned()).await?;
    is_refused(service, "sha-256", |offer| offer.replace("sha-256", "sha-1")).await?;
    is_refused(service, "fingerprint", |offer| replace_line(offer, "a=fingerprint", "a=x")).await?;
    is_refused(service, "Opus", |offer| offer.replace("opus/48000/2", "PCMU/8000")).await?;
    is_refused(service, "ICE", |offer| replace_line(offer, "a=ice-pwd", "a=x")).await?;
    is_refused(service, "SDP", |_| "not an SDP at all".to_owned()).await?;
    is_refused(service, "SDP", |_| "\r\n".to_owned()).await?;
    assert_eq!(service.count_of("pre_accept"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_with_an_empty_offer_is_rejected_at_meta() -> anyhow::Result<()> {
    let mut service = TestService::start("prompt:goodbye").await?;
    is_refused(&mut service, "SDP", |_| String::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_offers_do_not_disturb_a_call_beside_them() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, call, session, .. } = &mut talk;
    for _ in 0..10 {
        is_refused(service, "64 KiB", |offer| with_candidates(offer, 10_000)).await?;
        is_refused(service, "64 KiB", |offer| offer.repeat(1000)).await?;
    }
    let heard = session.hear_for(SECOND).await?.len();
    session.hear_for(SECOND * (heard as u32 / 16_000 + 1)).await?;
    assert_eq!(heard_voices(&call.heard()?), [AGENT_HZ]);
    call.hang_up().await?;
    let ended: Value = service.end_of(call).await?;
    assert_eq!(ended["reason"], "caller_hung_up");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

fn with_candidates(offer: &str, count: usize) -> String {
    let more: String = (0..count)
        .map(|n| {
            format!(
                "a=candidate:{n} 1 udp 2122260223 198.51.{}.{} 3480 typ host generation 0\r\n",
                n >> 8 & 255,
                n & 255
            )
        })
        .collect();
    offer.replacen("a=ice-ufrag", &format!("{more}a=ice-ufrag"), 1)
}

/// Replaces each line with this prefix.
pub fn replace_line(offer: &str, beginning: &str, replacement: &str) -> String {
    let lines = offer.split_inclusive("\r\n");
    lines.map(|line| if line.starts_with(beginning) { format!("{replacement}\r\n") } else { line.to_owned() }).collect()
}
