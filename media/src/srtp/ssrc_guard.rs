//! A sender gets memory only after one of its packets has authenticated.
//!
//! The SRTP context makes a record for every SSRC it is asked about, before it checks anything, and
//! keeps it forever: a million forged packets would cost 200 MB. So each sender has a context of its
//! own, strangers are tried on a scratch context, and of too many senders the one that has been
//! silent for longest is forgotten.

use std::sync::Arc;

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_rtp::header::Header;
use rtc_shared::error::Error;
use rtc_srtp::config::SessionKeys;
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;

use super::SrtpKeys;

/// A call has one sender at a time; hold, resume and another device bring a few more.
const MOST_SENDERS: usize = 8;
/// After this many tries the scratch context is replaced, with everything it remembers.
const SCRATCH_TRIES: u32 = 32;
/// Packets that may be late without being taken for replays: 1.3 s of audio.
const REPLAY_WINDOW: usize = 64;

/// Why a packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its authentication tag is wrong.
    Unauthenticated,
    /// It was received before, or is too old to tell.
    Replayed,
    /// It is too short.
    Malformed,
}

/// The inbound half of SRTP.
pub(super) struct SsrcGuard {
    /// In the order in which they were last heard, by RTP or RTCP. A forgotten sender that comes back is a new one:
    /// its rollover counter begins at zero again (RFC 3711 §3.3.1).
    senders: Vec<Sender>,
    scratch: Scratch,
}

struct Sender {
    ssrc: u32,
    context: Context,
}

impl SsrcGuard {
    pub fn new(keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> Option<SsrcGuard> {
        let mut scratch = Scratch { keys: keys.keys.clone(), profile: keys.profile, crypto, context: None, tries: 0 };
        scratch.context()?;
        Some(SsrcGuard { senders: Vec::with_capacity(1), scratch })
    }

    pub fn unprotect_rtp(&mut self, header: &Header, datagram: &[u8]) -> Result<BytesMut, Refused> {
        self.unlock(header.ssrc, |context| context.decrypt_rtp_with_header(datagram, header))
    }

    pub fn unprotect_rtcp(&mut self, datagram: &[u8]) -> Result<BytesMut, Refused> {
        let ssrc = datagram.get(4..8).ok_or(Refused::Malformed)?;
        let ssrc = u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]);
        self.unlock(ssrc, |context| context.decrypt_rtcp(datagram))
    }

    fn unlock(
        &mut self,
        ssrc: u32,
        open: impl FnOnce(&mut Context) -> Result<BytesMut, Error>,
    ) -> Result<BytesMut, Refused> {
        let Some(index) = self.senders.iter().rposition(|sender| sender.ssrc == ssrc) else {
            let scratch = self.scratch.context().ok_or(Refused::Unauthenticated)?;
            let packet = open(scratch).map_err(|error| refused(&error))?;
            self.admit(ssrc);
            return Ok(packet);
        };
        let packet = open(&mut self.senders[index].context).map_err(|error| refused(&error))?;
        self.senders[index..].rotate_left(1);
        Ok(packet)
    }

    /// An unknown sender has authenticated: the scratch context becomes its own.
    fn admit(&mut self, ssrc: u32) {
        let Some(context) = self.scratch.context.take() else { return };
        if self.senders.len() >= MOST_SENDERS {
            self.senders.remove(0);
        }
        self.senders.push(Sender { ssrc, context });
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of hundreds of errors")]
fn refused(error: &Error) -> Refused {
    match error {
        Error::SrtpSsrcDuplicated(..) | Error::SrtcpSsrcDuplicated(..) => Refused::Replayed,
        Error::ErrTooShortRtp | Error::ErrTooShortRtcp => Refused::Malformed,
        _ => Refused::Unauthenticated,
    }
}

/// A scratch context for unknown senders.
struct Scratch {
    keys: SessionKeys,
    profile: ProtectionProfile,
    crypto: Arc<dyn RTCCryptoProvider>,
    context: Option<Context>,
    tries: u32,
}

impl Scratch {
    fn context(&mut self) -> Option<&mut Context> {
        if self.tries >= SCRATCH_TRIES {
            self.context = None;
        }
        if self.context.is_none() {
            self.tries = 0;
            self.context = Context::new(
                &self.keys.remote_master_key,
                &self.keys.remote_master_salt,
                self.profile,
                Some(srtp_replay_protection(REPLAY_WINDOW)),
                Some(srtcp_replay_protection(REPLAY_WINDOW)),
                self.crypto.crypto(),
            )
            .ok();
        }
        self.tries += 1;
        self.context.as_mut()
    }
}
