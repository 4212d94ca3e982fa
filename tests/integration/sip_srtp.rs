//! SRTP with SIP phones: keys in the SDP, offered and required. The phone's cipher is written by hand in the simulator.

use patchcord_simulator::sip_phone::{SipAnswer, SipPhone, SipPhoneOptions, Suite};

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, caller, until_caller_hears};
use crate::service::{TestOptions, TestService};
use crate::sip::{calling, one_line, phone, sip, until_phone_hears};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_srtp_talks_with_every_suite_and_through_a_rollover() -> anyhow::Result<()> {
    for (rule, profile) in [("required", "RTP/SAVP "), ("offered", "RTP/AVP ")] {
        for suite in [Suite::AesCm, Suite::Gcm256, Suite::Gcm128] {
            // Its numbers wrap within the first seconds.
            let options = SipPhoneOptions { srtp: Some(suite), first_sequence: 65_450, ..phone(SipAnswer::Answer) };
            let keys = format!("srtp = \"{rule}\"\nsrtp_keys_in_clear = true");
            let (mut service, call, phone) = calling(options, sip(&keys, TestOptions::default())).await?;
            let offer = phone.request("INVITE").await?.body;
            let suites: Vec<_> = offer.lines().filter_map(|line| line.strip_prefix("a=crypto:")).collect();
            assert_eq!(suites.len(), 3, "{offer}");
            assert!(offer.contains(profile) && suites[0].starts_with("1 AES_CM_128_HMAC_SHA1_80 inline:"), "{offer}");
            until_caller_hears(&call, &[AGENT_HZ]).await?;
            until_phone_hears(&phone, &[CALLER_HZ]).await?;

            // The keys stay, and with them the count of wraps, whatever is renegotiated.
            let audio = phone.audio().await?;
            audio.wait_for_packets(151).await?;
            for (direction, heard) in [("sendonly", HOLD_NOTE_HZ), ("sendrecv", AGENT_HZ)] {
                let answer = phone.reinvite(&phone.sdp(direction)?, "").await?;
                assert_eq!(answer.code(), Some(200), "{answer}");
                assert!(answer.body.contains("a=crypto:") && answer.body.contains(profile), "{answer}");
                until_caller_hears(&call, &[heard]).await?;
            }
            until_phone_hears(&phone, &[CALLER_HZ]).await?;
            one_line(&phone).await?;
            assert_eq!(phone.hang_up().await?, 200);
            assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_without_srtp_talks_in_clear_if_it_may() -> anyhow::Result<()> {
    let keys = sip("srtp = \"offered\"\nsrtp_keys_in_clear = true", TestOptions::default());
    let (_service, call, phone) = calling(phone(SipAnswer::Answer), keys).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_answers_without_keys_is_refused_where_they_are_required() -> anyhow::Result<()> {
    let keys = sip("srtp = \"required\"\nsrtp_keys_in_clear = true", TestOptions::default());
    let (mut service, call, phone) = calling(phone(SipAnswer::Answer), keys).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["failure"], "protocol_error", "{lost}");
    assert!(lost["detail"].as_str().is_some_and(|detail| detail.contains("does not encrypt its audio")), "{lost}");
    phone.request("BYE").await?;
    service.end_of(&call).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_call_cannot_become_plain_where_keys_are_required() -> anyhow::Result<()> {
    let options = SipPhoneOptions { srtp: Some(Suite::AesCm), ..phone(SipAnswer::Answer) };
    let keys = sip("srtp = \"required\"\nsrtp_keys_in_clear = true", TestOptions::default());
    let (_service, call, phone) = calling(options, keys).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let encrypted = phone.sdp("sendrecv")?;
    let plain: String =
        encrypted.lines().filter(|line| !line.starts_with("a=crypto")).map(|l| format!("{l}\r\n")).collect();
    assert_eq!(phone.reinvite(&plain.replace("RTP/SAVP", "RTP/AVP"), "").await?.code(), Some(488));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_not_sent_over_udp_unless_the_configuration_says_so() -> anyhow::Result<()> {
    let options = SipPhoneOptions { srtp: Some(Suite::AesCm), ..phone(SipAnswer::Answer) };
    let (_service, call, phone) = calling(options, sip("srtp = \"offered\"", TestOptions::default())).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let offer = phone.request("INVITE").await?.body;
    assert!(!offer.contains("a=crypto") && offer.contains("RTP/AVP "), "{offer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_route_says_more_than_the_configuration() -> anyhow::Result<()> {
    let phone = SipPhone::start(SipPhoneOptions { srtp: Some(Suite::Gcm256), ..phone(SipAnswer::Answer) }).await?;
    let uri = format!("{};srtp=required", phone.uri());
    let options = sip("srtp_keys_in_clear = true", TestOptions::default());
    let service = TestService::start_with(&uri, options).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let invite = phone.request("INVITE").await?;
    assert!(invite.body.contains("RTP/SAVP ") && !invite.to_string().contains("srtp="), "{invite}");
    Ok(())
}
