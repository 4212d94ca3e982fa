//! Guard 3: a sender gets a place in memory only after a packet of it has authenticated.
//!
//! The SRTP context makes a record for every SSRC it is asked about, before it checks anything, and
//! keeps it for ever: a million forged packets would cost 200 MB.

use std::sync::Arc;

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_rtp::header::Header;
use rtc_shared::error::Error;
use rtc_srtp::config::SessionKeys;
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;

use super::srtp::SrtpKeys;

/// A call has one sender; a restart of it may show another few.
const MOST_SENDERS: usize = 8;
/// After so many tries the scratch context and what it remembers are thrown away.
const SCRATCH_TRIES: u32 = 32;
/// Packets that may come late without being taken for replays: 1.3 s of sound.
const REPLAY_WINDOW: usize = 64;

/// Why a packet was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its signature is wrong.
    Unauthenticated,
    /// It has been here before, or is too old to tell.
    Replayed,
    /// There are too many senders already.
    TooManySenders,
    /// It is too short.
    Malformed,
}

/// The inbound half of SRTP.
pub(super) struct SsrcGuard {
    context: Context,
    rtp_senders: Vec<u32>,
    rtcp_senders: Vec<u32>,
    scratch: Scratch,
}

impl SsrcGuard {
    pub fn new(keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> Option<SsrcGuard> {
        let context = Context::new(
            &keys.keys.remote_master_key,
            &keys.keys.remote_master_salt,
            keys.profile,
            Some(srtp_replay_protection(REPLAY_WINDOW)),
            Some(srtcp_replay_protection(REPLAY_WINDOW)),
            crypto.crypto(),
        )
        .ok()?;
        Some(SsrcGuard {
            context,
            rtp_senders: Vec::with_capacity(1),
            rtcp_senders: Vec::with_capacity(1),
            scratch: Scratch { keys: keys.keys.clone(), profile: keys.profile, crypto, context: None, tries: 0 },
        })
    }

    pub fn unlock_rtp(&mut self, header: &Header, datagram: &[u8]) -> Result<BytesMut, Refused> {
        if !self.rtp_senders.contains(&header.ssrc) {
            let scratch = self.scratch.context().ok_or(Refused::Unauthenticated)?;
            scratch.decrypt_rtp_with_header(datagram, header).map_err(|error| refused(&error))?;
            admit(&mut self.rtp_senders, header.ssrc)?;
        }
        self.context.decrypt_rtp_with_header(datagram, header).map_err(|error| refused(&error))
    }

    pub fn unlock_rtcp(&mut self, datagram: &[u8]) -> Result<BytesMut, Refused> {
        let ssrc = datagram.get(4..8).ok_or(Refused::Malformed)?;
        let ssrc = u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]);
        if !self.rtcp_senders.contains(&ssrc) {
            let scratch = self.scratch.context().ok_or(Refused::Unauthenticated)?;
            scratch.decrypt_rtcp(datagram).map_err(|error| refused(&error))?;
            admit(&mut self.rtcp_senders, ssrc)?;
        }
        self.context.decrypt_rtcp(datagram).map_err(|error| refused(&error))
    }
}

fn admit(senders: &mut Vec<u32>, ssrc: u32) -> Result<(), Refused> {
    if senders.len() >= MOST_SENDERS {
        return Err(Refused::TooManySenders);
    }
    senders.push(ssrc);
    Ok(())
}

fn refused(error: &Error) -> Refused {
    match error {
        Error::SrtpSsrcDuplicated(..) | Error::SrtcpSsrcDuplicated(..) => Refused::Replayed,
        Error::ErrTooShortRtp | Error::ErrTooShortRtcp => Refused::Malformed,
        _ => Refused::Unauthenticated,
    }
}

/// A context to try strangers on.
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
                None,
                None,
                self.crypto.crypto(),
            )
            .ok();
        }
        self.tries += 1;
        self.context.as_mut()
    }
}
