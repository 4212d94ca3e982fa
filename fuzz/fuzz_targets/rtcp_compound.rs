//! RTCP compounds after decryption: any reports, read to their end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::rtcp::{NtpTime, RtcpPart, is_rtcp, read_compound};

fuzz_target!(|compound: &[u8]| {
    let _ = is_rtcp(compound);
    let mut parts = 0;
    for part in read_compound(compound) {
        parts += 1;
        let (ssrc, blocks) = match &part {
            RtcpPart::SenderReport { ssrc, blocks, .. } | RtcpPart::ReceiverReport { ssrc, blocks } => (*ssrc, blocks),
            RtcpPart::Goodbye => continue,
        };
        let Some(block) = blocks.about(ssrc) else { continue };
        assert_eq!(block.ssrc, ssrc);
        assert!((-(1 << 23)..1 << 23).contains(&block.lost), "{block:?}");
        let _ = block.round_trip(NtpTime(u64::from(block.last_sender_report) << 16));
    }
    assert!(parts <= compound.len() / 4, "{parts} parts in {} bytes", compound.len());
});
