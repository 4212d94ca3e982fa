//! SIP phones behind a NAT: their SDP names an address that nobody reaches.

use std::net::SocketAddr;

use anyhow::Context;
use patchcord_simulator::sip_phone::{SipAnswer, SipPhoneOptions};
use patchcord_simulator::sound::{self, PHONE_RATE};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, until_caller_hears};
use crate::service::{DEADLINE, TestOptions};
use crate::sip::{calling, phone, sip, until_phone_hears};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_nat_is_heard_and_hears_and_nobody_else() -> anyhow::Result<()> {
    let dead = UdpSocket::bind("127.0.0.1:0").await?;
    let options = SipPhoneOptions { claims: Some(dead.local_addr()?), ..phone(SipAnswer::Answer) };
    let (_service, call, phone) = calling(options, sip("latching = true", TestOptions::default())).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;

    let port = port_of(&phone.request("INVITE").await?.body)?;
    // From another address, and from that of the phone, which is found already.
    for ip in ["127.0.0.2", "127.0.0.1"] {
        let Ok(stranger) = UdpSocket::bind((ip, 0)).await else { continue };
        let before = call.heard()?.len();
        for sequence in 0..100_u16 {
            stranger.send_to(&packet(sequence), ("127.0.0.1", port)).await?;
        }
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        let heard = call.heard()?;
        assert_eq!(sound::voices_heard(&heard[before..], PHONE_RATE, &[AGENT_HZ, SQUARE_HZ]), [AGENT_HZ], "{ip}");
        assert!(stranger.try_recv(&mut [0; 100]).is_err(), "a stranger hears nothing: {ip}");
    }

    // A hold whose SDP says nothing new keeps the address.
    for (direction, heard) in [("sendonly", HOLD_NOTE_HZ), ("sendrecv", AGENT_HZ)] {
        assert_eq!(phone.reinvite(&phone.sdp(direction)?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[heard]).await?;
    }
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_latching_such_a_phone_is_not_heard() -> anyhow::Result<()> {
    let dead = UdpSocket::bind("127.0.0.1:0").await?;
    let claimed: SocketAddr = dead.local_addr()?;
    let options = SipPhoneOptions { claims: Some(claimed), ..phone(SipAnswer::Answer) };
    let (mut service, call, phone) = calling(options, TestOptions::default()).await?;
    service.event("call.accepted").await?;
    // The audio goes to where the SDP says.
    let mut buffer = [0; 2000];
    for _ in 0..50 {
        timeout(DEADLINE, dead.recv_from(&mut buffer)).await.context("the service sends nothing there")??;
    }
    assert_eq!(phone.audio().await?.packets(), []);
    assert_eq!(sound::voices_heard(&call.heard()?, PHONE_RATE, &[AGENT_HZ]), [] as [f64; 0]);
    Ok(())
}

/// The tone of [`packet`].
const SQUARE_HZ: f64 = 800.0;

/// 20 ms of a rough tone in G.711 mu-law.
fn packet(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend([1, 2, 3, 4]);
    packet.extend((0..160).map(|at| if at % 10 < 5 { 0x00 } else { 0x80 }));
    packet
}

fn port_of(offer: &str) -> anyhow::Result<u16> {
    let media = offer.lines().find_map(|line| line.strip_prefix("m=audio ")).context("an audio section")?;
    Ok(media.split(' ').next().context("a port")?.parse()?)
}
