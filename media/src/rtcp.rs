//! RTCP reports (RFC 3550 §6), read and written.
//!
//! No crate because a call needs two report types, and reading them in place needs no allocation.

mod reports;

use std::time::Duration;

pub(crate) use reports::Reports;

/// Seconds since an arbitrary instant as 32.32 fixed point, the form of NTP timestamps.
///
/// RFC 3550 §4 lets a sender without a wall clock count from any instant: only differences are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(pub u64);

/// A receiver's report on one sender's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The sender of the packets.
    pub ssrc: u32,
    /// Share of packets lost since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the start; negative when duplicates arrived.
    pub lost: i32,
    /// Highest sequence number received, with the count of wraps above it.
    pub highest_sequence: u32,
    /// Interarrival jitter in ticks of the RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time, 0 if there was none.
    pub last_sender_report: u32,
    /// Time since that report arrived, in 1/65536 s.
    pub delay: u32,
}

/// A sender's report on itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report was made.
    pub ntp: NtpTime,
    /// The RTP timestamp of that instant.
    pub timestamp: u32,
    /// Packets sent since the start.
    pub packets: u32,
    /// Payload bytes sent since the start.
    pub bytes: u32,
}

/// One part of a compound packet. Parts that do not concern audio are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RtcpPart<'a> {
    /// A sender report.
    SenderReport {
        /// SSRC of the reporter.
        ssrc: u32,
        /// Its report on itself.
        info: SenderInfo,
        /// Its reports on others.
        blocks: ReportBlocks<'a>,
    },
    /// A receiver report.
    ReceiverReport {
        /// SSRC of the reporter.
        ssrc: u32,
        /// Its reports on others.
        blocks: ReportBlocks<'a>,
    },
    /// A sender leaves. A hint only: calls end by signalling.
    Goodbye,
}

/// The report blocks of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportBlocks<'a>(&'a [u8]);

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const BLOCK_BYTES: usize = 24;
const SENDER_INFO_BYTES: usize = 20;

/// Whether a datagram whose first byte says RTP is RTCP (RFC 5761 §4).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

/// A sender or receiver report and a source description, as RFC 3550 §6.1 wants them together.
pub fn write_report(ssrc: u32, cname: &str, sender: Option<&SenderInfo>, block: Option<&ReportBlock>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    let count = u8::from(block.is_some());
    let kind = if sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
    bytes.extend([0x80 | count, kind, 0, 0]);
    bytes.extend(ssrc.to_be_bytes());
    if let Some(sender) = sender {
        bytes.extend(sender.ntp.0.to_be_bytes());
        bytes.extend(sender.timestamp.to_be_bytes());
        bytes.extend(sender.packets.to_be_bytes());
        bytes.extend(sender.bytes.to_be_bytes());
    }
    if let Some(block) = block {
        write_block(&mut bytes, block);
    }
    set_length(&mut bytes, 0);
    write_source_description(&mut bytes, ssrc, cname);
    bytes
}

/// Appends a BYE.
fn write_goodbye(compound: &mut Vec<u8>, ssrc: u32) {
    compound.extend([0x81, GOODBYE, 0, 1]);
    compound.extend(ssrc.to_be_bytes());
}

/// Reads a compound packet part by part, up to the first malformed one.
pub fn read_compound(compound: &[u8]) -> impl Iterator<Item = RtcpPart<'_>> {
    let mut rest = compound;
    std::iter::from_fn(move || {
        loop {
            let header = rest.first_chunk::<4>()?;
            let words = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let (part, after) = rest.split_at_checked(4 + 4 * words)?;
            if header[0] >> 6 != 2 {
                return None;
            }
            rest = after;
            if let Some(part) = read_part(part) {
                return Some(part);
            }
        }
    })
}

impl ReportBlocks<'_> {
    /// The block about this sender.
    pub fn about(&self, ssrc: u32) -> Option<ReportBlock> {
        self.0.chunks_exact(BLOCK_BYTES).find(|block| word(block, 0) == ssrc).map(|block| ReportBlock {
            ssrc,
            fraction_lost: block[4],
            // A signed number of 24 bits.
            lost: (word(block, 4) << 8).cast_signed() >> 8,
            highest_sequence: word(block, 8),
            jitter: word(block, 12),
            last_sender_report: word(block, 16),
            delay: word(block, 20),
        })
    }
}

impl NtpTime {
    /// The time `elapsed` after the start. The start is not 0, because 0 in a report means "never".
    pub fn after(elapsed: Duration) -> NtpTime {
        let seconds = (elapsed.as_secs() + 1) << 32;
        let fraction = (u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000;
        NtpTime(seconds | fraction)
    }

    /// The 32 bits that reports refer to: 16 bits of seconds, 16 of fraction.
    pub fn middle(self) -> u32 {
        u32::try_from((self.0 >> 16) & 0xffff_ffff).unwrap_or_default()
    }
}

impl ReportBlock {
    /// The round trip that this block proves, when it came at `now` (RFC 3550 §6.4.1). `None` when
    /// it refers to no report of ours, claims to have kept it for longer than it was away, or would prove more than
    /// 10 s: some stacks echo a timestamp that was never ours.
    pub fn round_trip(&self, now: NtpTime) -> Option<Duration> {
        let away = now.middle().wrapping_sub(self.last_sender_report);
        let trip = from_short(away.checked_sub(self.delay)?);
        (self.last_sender_report != 0 && trip <= LONGEST_ROUND_TRIP).then_some(trip)
    }
}

/// A longer one is not plausible for a call that still goes on.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

/// A duration in 1/65536 s.
pub fn to_short(duration: Duration) -> u32 {
    u32::try_from((duration.as_micros() << 16) / 1_000_000).unwrap_or(u32::MAX)
}

fn from_short(short: u32) -> Duration {
    Duration::from_nanos((u64::from(short) * 1_000_000_000) >> 16)
}

fn read_part(part: &[u8]) -> Option<RtcpPart<'_>> {
    let count = usize::from(part[0] & 0x1f);
    let blocks_at = |from: usize| {
        let blocks = part.get(from..from + count * BLOCK_BYTES)?;
        Some(ReportBlocks(blocks))
    };
    match part[1] {
        SENDER_REPORT if part.len() >= 8 + SENDER_INFO_BYTES => Some(RtcpPart::SenderReport {
            ssrc: word(part, 4),
            info: SenderInfo {
                ntp: NtpTime((u64::from(word(part, 8)) << 32) | u64::from(word(part, 12))),
                timestamp: word(part, 16),
                packets: word(part, 20),
                bytes: word(part, 24),
            },
            blocks: blocks_at(8 + SENDER_INFO_BYTES)?,
        }),
        RECEIVER_REPORT if part.len() >= 8 => {
            Some(RtcpPart::ReceiverReport { ssrc: word(part, 4), blocks: blocks_at(8)? })
        }
        GOODBYE => Some(RtcpPart::Goodbye),
        _ => None,
    }
}

fn write_block(bytes: &mut Vec<u8>, block: &ReportBlock) {
    let lost = block.lost.clamp(-0x80_0000, 0x7f_ffff).cast_unsigned() & 0xff_ffff;
    bytes.extend(block.ssrc.to_be_bytes());
    bytes.extend(((u32::from(block.fraction_lost) << 24) | lost).to_be_bytes());
    bytes.extend(block.highest_sequence.to_be_bytes());
    bytes.extend(block.jitter.to_be_bytes());
    bytes.extend(block.last_sender_report.to_be_bytes());
    bytes.extend(block.delay.to_be_bytes());
}

fn write_source_description(bytes: &mut Vec<u8>, ssrc: u32, cname: &str) {
    const CNAME: u8 = 1;
    let start = bytes.len();
    let name = cname.as_bytes().get(..255).unwrap_or(cname.as_bytes());
    bytes.extend([0x81, SOURCE_DESCRIPTION, 0, 0]);
    bytes.extend(ssrc.to_be_bytes());
    bytes.push(CNAME);
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name);
    // At least one null ends the list of items.
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    set_length(bytes, start);
}

fn set_length(bytes: &mut [u8], start: usize) {
    let words = u16::try_from((bytes.len() - start) / 4 - 1).unwrap_or(u16::MAX);
    bytes[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

/// The big-endian word at `at`; 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block() -> ReportBlock {
        ReportBlock {
            ssrc: 7,
            fraction_lost: 12,
            lost: -3,
            highest_sequence: 0x0001_0005,
            jitter: 480,
            last_sender_report: 0x0001_8000,
            delay: 0x8000,
        }
    }

    #[test]
    fn a_written_report_reads_back_the_same() {
        let sender = SenderInfo { ntp: NtpTime(0x0102_0304_0506_0708), timestamp: 960, packets: 50, bytes: 4000 };
        let bytes = write_report(9, "patchcord", Some(&sender), Some(&block()));
        assert_eq!(bytes.len() % 4, 0);
        let parts: Vec<_> = read_compound(&bytes).collect();
        let [RtcpPart::SenderReport { ssrc: 9, info, blocks }] = &parts[..] else {
            panic!("{parts:?}");
        };
        assert_eq!(*info, sender);
        assert_eq!(blocks.about(7), Some(block()));
        assert_eq!(blocks.about(8), None);
    }

    #[test]
    fn a_receiver_says_who_it_is_without_having_sent() {
        let bytes = write_report(9, "patchcord", None, None);
        let parts: Vec<_> = read_compound(&bytes).collect();
        assert!(matches!(parts[..], [RtcpPart::ReceiverReport { ssrc: 9, .. }]));
        // RFC 3550 §6.1: the description of the source follows.
        assert_eq!(bytes[8..10], [0x81, 202]);
        assert!(is_rtcp(&bytes));
    }

    #[test]
    fn the_round_trip_leaves_out_the_time_that_the_report_was_kept() {
        let sent = NtpTime::after(Duration::from_secs(10));
        let heard =
            ReportBlock { last_sender_report: sent.middle(), delay: to_short(Duration::from_secs(2)), ..block() };
        let now = NtpTime::after(Duration::from_millis(12_080));
        let trip = heard.round_trip(now).unwrap();
        assert!(trip.abs_diff(Duration::from_millis(80)) < Duration::from_millis(1));
        let liar = ReportBlock { delay: to_short(Duration::from_secs(3)), ..heard };
        assert_eq!(liar.round_trip(now), None);
        let never = ReportBlock { last_sender_report: 0, ..heard };
        assert_eq!(never.round_trip(now), None);
        let of_another_clock =
            ReportBlock { last_sender_report: now.middle().wrapping_sub(1 << 31), delay: 0, ..heard };
        assert_eq!(of_another_clock.round_trip(now), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for part in read_compound(&bytes) {
                if let RtcpPart::SenderReport { blocks, .. } | RtcpPart::ReceiverReport { blocks, .. } = part {
                    let _ = blocks.about(0);
                }
            }
        }
    }
}
