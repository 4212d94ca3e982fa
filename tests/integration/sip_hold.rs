//! Hold by SIP phones, beyond the plain one: from the first answer on, in storms, and before a transfer.

use anyhow::Context;
use futures_util::future::join_all;
use patchcord_simulator::sip_phone::{Codec, SipAnswer, SipMessage, SipPhoneOptions};

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, until_caller_hears};
use crate::service::TestOptions;
use crate::sip::{calling, one_line, phone, talking, until_phone_hears};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_answers_with_a_hold_lets_the_caller_wait_with_music() -> anyhow::Result<()> {
    let nowhere = Some("0.0.0.0:4000".parse()?);
    for (direction, claims) in [("sendonly", None), ("inactive", None), ("sendrecv", nowhere)] {
        let options = SipPhoneOptions { direction, claims, ..phone(SipAnswer::Answer) };
        let (mut service, call, phone) = calling(options, TestOptions::default()).await?;
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
        let held = service.event("call.held").await?;
        assert_eq!(service.live_calls().await?, 1, "{direction}: {held:?}");
        let here = format!("m=audio {}", phone.audio().await?.address().port());
        let resumed = phone.sdp("sendrecv")?.replace("0.0.0.0", "127.0.0.1").replace("m=audio 4000", &here);
        assert_eq!(phone.reinvite(&resumed, "").await?.code(), Some(200));
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&phone, &[CALLER_HZ]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_our_sdp_counts_its_changes() -> anyhow::Result<()> {
    let (_service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let (session, first) = origin(&phone.request("INVITE").await?)?;
    let mut versions = Vec::new();
    for direction in ["sendrecv", "sendrecv", "sendonly", "sendonly", "inactive", "sendrecv"] {
        let answer = phone.reinvite(&phone.sdp(direction)?, "").await?;
        let (same, version) = origin(&answer)?;
        assert_eq!(same, session);
        versions.push(version - first);
    }
    // The first answer is narrower than the offer was.
    assert_eq!(versions, [1, 1, 2, 2, 3, 4]);
    until_caller_hears(&call, &[AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_changes_is_answered_and_the_last_one_holds() -> anyhow::Result<()> {
    let (service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let (hold, resume) = (phone.sdp("sendonly")?, phone.sdp("sendrecv")?);
    let storm = (0..16).map(|count| phone.reinvite(if count % 2 == 0 { &hold } else { &resume }, ""));
    let codes: Vec<_> = join_all(storm).await.into_iter().map(|answer| answer.map(|answer| answer.code())).collect();
    for code in codes {
        // 500 is for one that another has overtaken (RFC 3261 §12.2.2).
        assert!(matches!(code?, Some(200 | 491 | 500)));
    }
    for (sdp, heard) in [(&hold, HOLD_NOTE_HZ), (&resume, AGENT_HZ)] {
        assert_eq!(phone.reinvite(sdp, "").await?.code(), Some(200));
        until_caller_hears(&call, &[heard]).await?;
    }
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    one_line(&phone).await?;
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

/// Session id and version of its SDP.
fn origin(message: &SipMessage) -> anyhow::Result<(u64, u64)> {
    let line = message.body.lines().find_map(|line| line.strip_prefix("o=- ")).context("an origin")?;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).context("two numbers")
}
