//! SRTP (RFC 3711, RFC 7714): protecting and unprotecting packets with the keys of a DTLS handshake or of an SDP.

mod ssrc_guard;

use std::sync::Arc;

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_dtls::state::State;
use rtc_rtp::header::Header;
use rtc_srtp::config::{Config, LABEL_EXTRACTOR_DTLS_SRTP, SessionKeys};
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;

use crate::rtp::{FIXED_HEADER_BYTES, RtpHeader};
use crate::sdp::phone::{CryptoSuite, SdesKeys};
pub(crate) use ssrc_guard::Refused;
use ssrc_guard::SsrcGuard;

/// The cryptographic library.
pub(crate) type CryptoProvider = Arc<dyn RTCCryptoProvider>;

/// The library's default provider; None if it has none.
pub(crate) fn crypto_provider() -> Option<CryptoProvider> {
    rtc_crypto::default_provider().ok()
}

/// The profile and the keys of both directions.
pub(crate) struct SrtpKeys {
    pub profile: ProtectionProfile,
    pub keys: SessionKeys,
}

impl SrtpKeys {
    /// The result of a finished handshake. `None` when no profile was agreed on.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of profiles, most of which are not offered")]
    pub fn export(state: &State) -> Option<SrtpKeys> {
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => ProtectionProfile::AeadAes256Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            _ => return None,
        };
        let mut config = Config { profile, ..Config::default() };
        let length = config.keying_material_len();
        let material = state.export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], length).ok()?;
        config.set_session_keys_from_keying_material(material.as_ref(), state.is_client()).ok()?;
        Some(SrtpKeys { profile, keys: config.keys })
    }

    /// Keys from an SDP. `None` when they have a wrong length.
    pub fn sdes(keys: &SdesKeys) -> Option<SrtpKeys> {
        let profile = match keys.suite {
            CryptoSuite::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            CryptoSuite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            CryptoSuite::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        };
        let (local, remote) = (keys.local.split(keys.suite)?, keys.remote.split(keys.suite)?);
        let keys = SessionKeys {
            local_master_key: local.0.to_vec(),
            local_master_salt: local.1.to_vec(),
            remote_master_key: remote.0.to_vec(),
            remote_master_salt: remote.1.to_vec(),
        };
        Some(SrtpKeys { profile, keys })
    }

    /// The profile's name in RFC 5764 and RFC 7714.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of profiles; the only other one exported")]
    pub fn profile_name(&self) -> &'static str {
        match self.profile {
            ProtectionProfile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            ProtectionProfile::AeadAes256Gcm => "AEAD_AES_256_GCM",
            _ => "AES128_CM_HMAC_SHA1_80",
        }
    }
}

/// Both directions of one call.
pub(crate) struct Srtp {
    outbound: Context,
    inbound: SsrcGuard,
    /// Reused from packet to packet.
    header: Header,
    plain: Vec<u8>,
}

impl Srtp {
    pub fn new(keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> Option<Srtp> {
        Some(Srtp {
            outbound: outbound(keys, &crypto)?,
            inbound: SsrcGuard::new(keys, crypto)?,
            header: Header::default(),
            plain: Vec::with_capacity(256),
        })
    }

    /// Replaces the key of what we send; sequence numbers begin anew for the receiver.
    pub fn replace_outbound(&mut self, keys: &SrtpKeys, crypto: &Arc<dyn RTCCryptoProvider>) -> Option<()> {
        self.outbound = outbound(keys, crypto)?;
        Some(())
    }

    /// Replaces the key of what we receive, and forgets all senders.
    pub fn replace_inbound(&mut self, keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> Option<()> {
        self.inbound = SsrcGuard::new(keys, crypto)?;
        Some(())
    }

    /// Encrypts an RTP packet.
    pub fn protect_rtp(&mut self, header: RtpHeader, payload: &[u8]) -> Option<BytesMut> {
        self.plain.clear();
        self.plain.extend_from_slice(&header.to_bytes());
        self.plain.extend_from_slice(payload);
        describe(&mut self.header, header, FIXED_HEADER_BYTES);
        self.outbound.encrypt_rtp_with_header(&self.plain, &self.header).ok()
    }

    /// Encrypts a compound RTCP packet.
    pub fn protect_rtcp(&mut self, compound: &[u8]) -> Option<BytesMut> {
        self.outbound.encrypt_rtcp(compound).ok()
    }

    /// Decrypts a packet; its header is included.
    pub fn unprotect_rtp(
        &mut self,
        header: RtpHeader,
        header_length: usize,
        datagram: &[u8],
    ) -> Result<BytesMut, Refused> {
        describe(&mut self.header, header, header_length);
        self.inbound.unprotect_rtp(&self.header, datagram)
    }

    /// Decrypts a compound RTCP packet.
    pub fn unprotect_rtcp(&mut self, datagram: &[u8]) -> Result<BytesMut, Refused> {
        self.inbound.unprotect_rtcp(datagram)
    }
}

fn outbound(keys: &SrtpKeys, crypto: &Arc<dyn RTCCryptoProvider>) -> Option<Context> {
    let SessionKeys { local_master_key, local_master_salt, .. } = &keys.keys;
    Context::new(local_master_key, local_master_salt, keys.profile, None, None, crypto.crypto()).ok()
}

/// Fills in what the context needs of a header: SSRC, sequence number and length. Contributors and extensions count as
/// words and are not read.
fn describe(described: &mut Header, header: RtpHeader, length: usize) {
    described.ssrc = header.ssrc;
    described.sequence_number = header.sequence;
    described.csrc.resize(length.saturating_sub(FIXED_HEADER_BYTES) / 4, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [ProtectionProfile; 3] =
        [ProtectionProfile::AeadAes128Gcm, ProtectionProfile::AeadAes256Gcm, ProtectionProfile::Aes128CmHmacSha1_80];

    fn keys(profile: ProtectionProfile, we_are_client: bool) -> SrtpKeys {
        let mut config = Config { profile, ..Config::default() };
        let material: Vec<u8> = (0..=255).take(config.keying_material_len()).collect();
        config.set_session_keys_from_keying_material(&material, we_are_client).unwrap();
        SrtpKeys { profile, keys: config.keys }
    }

    fn both_ends(profile: ProtectionProfile) -> (Srtp, Srtp) {
        let crypto = rtc_crypto::default_provider().unwrap();
        let client = Srtp::new(&keys(profile, true), Arc::clone(&crypto)).unwrap();
        let server = Srtp::new(&keys(profile, false), crypto).unwrap();
        (client, server)
    }

    fn header(sequence: u16) -> RtpHeader {
        RtpHeader { payload_type: 111, marker: false, sequence, timestamp: 960, ssrc: 7 }
    }

    #[test]
    fn sound_and_reports_pass_under_every_profile() {
        for profile in PROFILES {
            let (mut client, mut server) = both_ends(profile);
            for number in 0..70_000u32 {
                let header = header((number & 0xffff) as u16);
                let locked = client.protect_rtp(header, b"sound").unwrap();
                let unlocked = server.unprotect_rtp(header, 12, &locked).unwrap();
                assert_eq!(unlocked[12..], *b"sound");
                assert_eq!(server.unprotect_rtp(header, 12, &locked), Err(Refused::Replayed));
            }
            let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
            let locked = client.protect_rtcp(&report).unwrap();
            assert_eq!(server.unprotect_rtcp(&locked).unwrap(), report[..]);
            assert_eq!(server.unprotect_rtcp(&locked), Err(Refused::Replayed));
        }
    }

    #[test]
    fn contributors_and_extensions_stay_readable() {
        for profile in PROFILES {
            let (mut client, mut server) = both_ends(profile);
            let header = header(1);
            let mut packet = header.to_bytes().to_vec();
            packet[0] |= 0x10 | 1;
            packet.extend([0, 0, 0, 5, 0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0]);
            packet.extend(b"sound");
            describe(&mut client.header, header, 24);
            let locked = client.outbound.encrypt_rtp_with_header(&packet, &client.header).unwrap();
            assert_eq!(locked[..24], packet[..24]);
            assert_eq!(server.unprotect_rtp(header, 24, &locked).unwrap(), packet[..]);
        }
    }

    /// The packets of one sender after the other, as locked by `client`: who was let in.
    fn heard(client: &mut Srtp, server: &mut Srtp, senders: &[(u32, u16)]) -> Vec<bool> {
        let unlocked = senders.iter().map(|(ssrc, sequence)| {
            let header = RtpHeader { ssrc: *ssrc, ..header(*sequence) };
            let locked = client.protect_rtp(header, b"sound").unwrap();
            server.unprotect_rtp(header, 12, &locked).is_ok()
        });
        unlocked.collect()
    }

    #[test]
    fn every_new_sender_is_heard_and_the_one_silent_for_longest_is_forgotten() {
        for profile in PROFILES {
            let (mut client, mut server) = both_ends(profile);
            // Sender 1 goes on between all others, so it is never the one to be forgotten.
            let senders: Vec<(u32, u16)> =
                (1..100).flat_map(|number| [(1, number), (1 + u32::from(number), 1)]).collect();
            assert!(heard(&mut client, &mut server, &senders).iter().all(|heard| *heard));
        }
    }

    #[test]
    fn senders_that_take_turns_keep_their_numbers() {
        let (mut client, mut server) = both_ends(ProtectionProfile::AeadAes128Gcm);
        // Across the wrap of their sequence numbers, which a forgotten sender would not survive.
        let turns: Vec<(u32, u16)> =
            (65_000..66_000_u32).flat_map(|number| (0..8).map(move |ssrc| (ssrc, (number & 0xffff) as u16))).collect();
        assert!(heard(&mut client, &mut server, &turns).iter().all(|heard| *heard));
    }

    #[test]
    fn reports_keep_a_silent_sender_in_its_place() {
        let (mut client, mut server) = both_ends(ProtectionProfile::AeadAes128Gcm);
        let header = RtpHeader { ssrc: 9, ..header(1) };
        let first = client.protect_rtp(header, b"sound").unwrap();
        assert!(server.unprotect_rtp(header, 12, &first).is_ok());
        for other in 10..30 {
            let report = client.protect_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 9]).unwrap();
            assert!(server.unprotect_rtcp(&report).is_ok());
            assert_eq!(heard(&mut client, &mut server, &[(other, 1)]), [true]);
        }
        assert_eq!(server.unprotect_rtp(header, 12, &first), Err(Refused::Replayed), "it is known still");
    }

    #[test]
    fn forged_packets_take_nobodys_place() {
        let (mut client, mut server) = both_ends(ProtectionProfile::AeadAes128Gcm);
        let header = header(1);
        let first = client.protect_rtp(header, b"sound").unwrap();
        assert!(server.unprotect_rtp(header, 12, &first).is_ok());
        for ssrc in 100..1000 {
            let forged = RtpHeader { ssrc, ..header };
            let mut datagram = forged.to_bytes().to_vec();
            datagram.extend([0; 40]);
            assert_eq!(server.unprotect_rtp(forged, 12, &datagram), Err(Refused::Unauthenticated));
        }
        assert_eq!(server.unprotect_rtp(header, 12, &first), Err(Refused::Replayed), "it is known still");
        assert_eq!(heard(&mut client, &mut server, &[(100, 1)]), [true], "its forgeries are not held against it");
    }
}
