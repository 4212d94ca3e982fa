//! Reports: counts the packets of one RTP session, and reports on them to the remote.

use std::time::{Duration, Instant};

use super::{NtpTime, ReportBlock, RtcpPart, SenderInfo, read_compound, to_short, write_goodbye, write_report};
use crate::rtp::{FIXED_HEADER_BYTES, RtpHeader};
use crate::sdp::CNAME;

/// Often enough for NATs and statistics; RFC 3550 §6.2 asks for no more.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Counters of one session's packets.
pub(crate) struct Reports {
    ssrc: u32,
    clock: Clock,
    /// The DTMF type: such packets share a timestamp, so their arrival says nothing about jitter.
    telephone_event: Option<u8>,
    sent: Sent,
    reception: Option<Reception>,
    /// Lost packets of earlier senders of the remote.
    lost_before: i64,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub heard: Option<Heard>,
    due: Option<Instant>,
}

/// Arrival times in ticks of the RTP timestamps.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
    hz: u64,
}

/// The remote's latest report on our packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub lost: i32,
    pub fraction_lost: u8,
    pub jitter: Duration,
    pub round_trip: Option<Duration>,
}

#[derive(Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    last: Option<(u32, Instant)>,
    reported: u64,
}

impl Heard {
    pub fn loss_percent(self) -> u8 {
        u8::try_from(u32::from(self.fraction_lost) * 100 / 256).unwrap_or(100)
    }
}

impl Reports {
    pub fn new(ssrc: u32, clock_hz: u32, now: Instant) -> Reports {
        Reports {
            ssrc,
            clock: Clock { started: now, hz: u64::from(clock_hz.max(1)) },
            telephone_event: None,
            sent: Sent::default(),
            reception: None,
            lost_before: 0,
            packets_in: 0,
            bytes_in: 0,
            heard: None,
            due: None,
        }
    }

    pub fn set_telephone_event(&mut self, payload_type: Option<u8>) {
        self.telephone_event = payload_type;
    }

    /// Starts the reports with the first frame: before a call is accepted nothing may be sent. Returns
    /// whether it was the first.
    pub fn begin(&mut self, now: Instant) -> bool {
        let is_first = self.due.is_none();
        self.due.get_or_insert(now + REPORT_INTERVAL);
        is_first
    }

    pub fn sent(&mut self, header: RtpHeader, payload_bytes: usize, now: Instant) {
        self.sent.packets += 1;
        self.sent.bytes += payload_bytes as u64;
        if self.telephone_event != Some(header.payload_type) {
            self.sent.last = Some((header.timestamp, now));
        }
    }

    pub fn received(&mut self, header: RtpHeader, packet_bytes: usize, now: Instant) {
        self.packets_in += 1;
        self.bytes_in += packet_bytes.saturating_sub(FIXED_HEADER_BYTES) as u64;
        let timed = self.telephone_event != Some(header.payload_type);
        match &mut self.reception {
            Some(reception) if reception.ssrc == header.ssrc => {
                reception.received(header, timed, now, self.clock);
            }
            reception => {
                self.lost_before += reception.as_ref().map_or(0, Reception::lost);
                *reception = Some(Reception::new(header, now, self.clock));
            }
        }
    }

    pub fn read(&mut self, compound: &[u8], now: Instant) {
        for part in read_compound(compound) {
            match part {
                RtcpPart::SenderReport { ssrc, info, blocks } => {
                    if let Some(reception) = &mut self.reception
                        && reception.ssrc == ssrc
                    {
                        reception.sender_report = Some((info.ntp.middle(), now));
                    }
                    self.hear(blocks.about(self.ssrc), now);
                }
                RtcpPart::ReceiverReport { blocks, .. } => self.hear(blocks.about(self.ssrc), now),
                RtcpPart::Goodbye => {}
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The compound report that is due, if one is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = Some(now + REPORT_INTERVAL);
        let sender = self.sender_info(now);
        let block = self.reception.as_mut().map(|reception| reception.report(now));
        Some(write_report(self.ssrc, CNAME, sender.as_ref(), block.as_ref()))
    }

    /// A last report with the goodbye, if anything was sent (RFC 3550 §6.3.7).
    pub fn goodbye(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.sent.last?;
        let sender = self.sender_info(now);
        let block = self.reception.as_mut().map(|reception| reception.report(now));
        let mut compound = write_report(self.ssrc, CNAME, sender.as_ref(), block.as_ref());
        write_goodbye(&mut compound, self.ssrc);
        Some(compound)
    }

    pub fn packets_out(&self) -> u64 {
        self.sent.packets
    }

    pub fn bytes_out(&self) -> u64 {
        self.sent.bytes
    }

    /// Inbound packets that never arrived; late ones are subtracted again.
    pub fn lost(&self) -> i64 {
        self.lost_before + self.reception.as_ref().map_or(0, Reception::lost)
    }

    pub fn jitter(&self) -> Duration {
        self.clock.duration(self.reception.as_ref().map_or(0, Reception::jitter))
    }

    pub fn remote_ssrc(&self) -> Option<u32> {
        self.reception.as_ref().map(|reception| reception.ssrc)
    }

    fn hear(&mut self, block: Option<ReportBlock>, now: Instant) {
        let Some(block) = block else { return };
        let known = self.heard.and_then(|heard| heard.round_trip);
        self.heard = Some(Heard {
            lost: block.lost,
            fraction_lost: block.fraction_lost,
            jitter: self.clock.duration(block.jitter),
            round_trip: block.round_trip(self.ntp(now)).or(known),
        });
    }

    /// `None` when nothing was sent since the previous report (RFC 3550 §6.4).
    fn sender_info(&mut self, now: Instant) -> Option<SenderInfo> {
        let (timestamp, at) = self.sent.last?;
        if self.sent.packets == self.sent.reported {
            return None;
        }
        self.sent.reported = self.sent.packets;
        Some(SenderInfo {
            ntp: self.ntp(now),
            timestamp: timestamp.wrapping_add(self.clock.ticks(now.saturating_duration_since(at))),
            // The counters wrap by design.
            packets: (self.sent.packets & 0xffff_ffff) as u32,
            bytes: (self.sent.bytes & 0xffff_ffff) as u32,
        })
    }

    fn ntp(&self, now: Instant) -> NtpTime {
        NtpTime::after(now.saturating_duration_since(self.clock.started))
    }
}

/// Reception from one sender (RFC 3550 appendices A.1, A.3 and A.8).
struct Reception {
    ssrc: u32,
    first: i64,
    highest: i64,
    packets: i64,
    /// Expected and received at the previous report.
    reported: (i64, i64),
    transit: u32,
    /// Sixteen times the jitter in ticks, to keep its fraction.
    jitter_16: u32,
    sender_report: Option<(u32, Instant)>,
}

impl Reception {
    fn new(header: RtpHeader, now: Instant, clock: Clock) -> Reception {
        let sequence = i64::from(header.sequence);
        Reception {
            ssrc: header.ssrc,
            first: sequence,
            highest: sequence,
            packets: 1,
            reported: (0, 0),
            transit: clock.transit(header, now),
            jitter_16: 0,
            sender_report: None,
        }
    }

    fn received(&mut self, header: RtpHeader, timed: bool, now: Instant, clock: Clock) {
        self.packets += 1;
        // The step from the highest number, short way round.
        let step = header.sequence.wrapping_sub((self.highest & 0xffff) as u16).cast_signed();
        self.highest = self.highest.max(self.highest + i64::from(step));
        if timed {
            let transit = clock.transit(header, now);
            let change = transit.wrapping_sub(self.transit).cast_signed().unsigned_abs();
            self.transit = transit;
            // A jump of more than 10 s is a new timeline, not jitter.
            if u64::from(change) < 10 * clock.hz {
                self.jitter_16 = self.jitter_16 + change - ((self.jitter_16 + 8) >> 4);
            }
        }
    }

    fn expected(&self) -> i64 {
        self.highest - self.first + 1
    }

    fn lost(&self) -> i64 {
        self.expected() - self.packets
    }

    fn jitter(&self) -> u32 {
        self.jitter_16 >> 4
    }

    fn report(&mut self, now: Instant) -> ReportBlock {
        let expected = self.expected() - self.reported.0;
        let lost = expected - (self.packets - self.reported.1);
        self.reported = (self.expected(), self.packets);
        let fraction = if expected > 0 { (lost.max(0) * 256 / expected).min(255) } else { 0 };
        let (last_sender_report, delay) = match self.sender_report {
            Some((middle, at)) => (middle, to_short(now.saturating_duration_since(at))),
            None => (0, 0),
        };
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: i32::try_from(self.lost()).unwrap_or(i32::MAX),
            highest_sequence: (self.highest & 0xffff_ffff) as u32,
            jitter: self.jitter(),
            last_sender_report,
            delay,
        }
    }
}

impl Clock {
    /// How much later a packet arrived than its timestamp says, in ticks from an arbitrary zero.
    fn transit(self, header: RtpHeader, now: Instant) -> u32 {
        self.ticks(now.saturating_duration_since(self.started)).wrapping_sub(header.timestamp)
    }

    fn duration(self, ticks: u32) -> Duration {
        Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / self.hz)
    }

    /// RTP time wraps by design.
    fn ticks(self, elapsed: Duration) -> u32 {
        let ticks = elapsed.as_secs() * self.hz + u64::from(elapsed.subsec_nanos()) * self.hz / 1_000_000_000;
        (ticks & 0xffff_ffff) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u16, timestamp: u32) -> RtpHeader {
        RtpHeader { payload_type: 111, marker: false, sequence, timestamp, ssrc: 7 }
    }

    fn frame(start: Instant, number: u32) -> (RtpHeader, Instant) {
        let sequence = (65_530 + number) as u16;
        let at = start + Duration::from_millis(u64::from(number) * 20);
        (header(sequence, 0xffff_f000u32.wrapping_add(number * 960)), at)
    }

    #[test]
    fn losses_are_counted_across_the_wrap_and_late_packets_taken_off() {
        let start = Instant::now();
        let mut reports = Reports::new(1, 48_000, start);
        for number in (0..100).filter(|number| number % 10 != 5) {
            let (header, at) = frame(start, number);
            reports.received(header, 60, at);
        }
        assert_eq!(reports.lost(), 10);
        assert_eq!(reports.jitter(), Duration::ZERO);
        let (late, _) = frame(start, 55);
        reports.received(late, 60, start + Duration::from_secs(2));
        assert_eq!(reports.lost(), 9);
        assert_eq!(reports.packets_in, 91);
    }

    #[test]
    fn a_second_sender_does_not_look_like_loss() {
        let start = Instant::now();
        let mut reports = Reports::new(1, 48_000, start);
        reports.received(header(10, 0), 60, start);
        reports.received(header(12, 1920), 60, start);
        reports.received(RtpHeader { ssrc: 8, ..header(40_000, 5) }, 60, start);
        assert_eq!(reports.lost(), 1);
        assert_eq!(reports.remote_ssrc(), Some(8));
    }

    #[test]
    fn nothing_is_reported_before_the_first_packet_is_sent() {
        let start = Instant::now();
        let mut reports = Reports::new(1, 48_000, start);
        let (received, at) = frame(start, 0);
        reports.received(received, 60, at);
        assert_eq!(reports.poll_timeout(), None);
        reports.sent(header(0, 0), 8, start);
        assert!(reports.begin(start) && !reports.begin(start + Duration::from_secs(1)));
        let due = reports.poll_timeout().unwrap();
        assert_eq!(due, start + Duration::from_secs(5));
        let compound = reports.handle_timeout(due).unwrap();
        let part = read_compound(&compound).next();
        let Some(RtcpPart::SenderReport { ssrc: 1, info, blocks }) = part else {
            panic!("{part:?}");
        };
        assert_eq!((info.packets, info.bytes, info.timestamp), (1, 8, 240_000));
        assert_eq!(blocks.about(7).map(|block| block.lost), Some(0));
    }

    #[test]
    fn a_silent_sender_reports_as_a_receiver() {
        let start = Instant::now();
        let mut reports = Reports::new(1, 48_000, start);
        reports.sent(header(0, 0), 8, start);
        reports.begin(start);
        assert!(reports.handle_timeout(start + Duration::from_secs(5)).is_some());
        let second = reports.handle_timeout(start + Duration::from_secs(10)).unwrap();
        let part = read_compound(&second).next();
        assert!(matches!(part, Some(RtcpPart::ReceiverReport { .. })));
    }
}
