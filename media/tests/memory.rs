//! Floods of forged datagrams fill no memory. Alone in its process, whose memory is measured.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]
#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    dead_code,
    reason = "shares the network of the peer's tests, of which it uses a part"
)]

#[path = "peer/network.rs"]
mod network;

use std::time::Duration;

use network::{LEFT, PairOptions, RIGHT, address, milliseconds};

const MOST_GROWTH_BYTES: u64 = 10 << 20;

#[test]
fn floods_fill_no_memory() {
    records_of_a_later_epoch();
    forged_senders();
}

fn records_of_a_later_epoch() {
    let mut network = PairOptions::default().build();
    // The left end is server here: its handshake never gets as far as the keys.
    network.filter = Box::new(|datagram, _| !(datagram.is_dtls() && datagram.from == address(LEFT)));
    network.run_for(Duration::from_secs(1));
    let before = resident_bytes();
    let mut record = vec![22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0x04, 0xb0];
    record.resize(13 + 1200, 7);
    for number in 0..50_000u32 {
        record[7..11].copy_from_slice(&number.to_be_bytes());
        let peer = &mut network.right.peer;
        peer.receive(address(RIGHT), address(LEFT), &record, network.now);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MOST_GROWTH_BYTES, "{grown} bytes");
    assert!(network.right.peer.stats().dropped.dtls > 49_000);
}

fn forged_senders() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    network.talk_for(5);
    let before = resident_bytes();
    let mut packet = vec![0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    packet.resize(60, 7);
    let mut report = vec![0x80, 201, 0, 1, 0, 0, 0, 0];
    report.resize(60, 7);
    for ssrc in 0..100_000u32 {
        packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
        report[4..8].copy_from_slice(&ssrc.to_be_bytes());
        let peer = &mut network.right.peer;
        peer.receive(address(RIGHT), address(LEFT), &packet, network.now);
        peer.receive(address(RIGHT), address(LEFT), &report, network.now);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MOST_GROWTH_BYTES, "{grown} bytes");
    // All but the one that took the name of the real sender, whose number was used before.
    assert!(network.right.peer.stats().dropped.unauthenticated >= 199_998);
    network.run_for(milliseconds(100));
    assert_eq!(network.right.packets.len(), 5);
}

/// Resident memory of this process, from Linux.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes = line.split_ascii_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}
