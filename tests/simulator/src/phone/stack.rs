//! The WebRTC stack under a phone: str0m, set up as Meta's relay is.

use std::sync::{Arc, LazyLock};

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::format::{Codec, CodecConfig, FormatParams};
use str0m::media::{Frequency, Pt};
use str0m::{IceCreds, RtcConfig};

use super::TELEPHONE_EVENT;

/// One certificate for every phone of the process, as making one costs more than a call's handshake.
static CERTIFICATE: LazyLock<(Arc<CryptoProvider>, Option<DtlsCert>)> = LazyLock::new(|| {
    let provider = Arc::new(str0m::crypto::from_feature_flags());
    let certificate = provider.dtls_provider.generate_certificate();
    (provider, certificate)
});

/// An ICE-lite stack that offers Opus and telephone events and hands over raw RTP.
pub(super) fn config(credentials: &IceCreds) -> RtcConfig {
    let (provider, certificate) = &*CERTIFICATE;
    let mut config = RtcConfig::new()
        .set_crypto_provider(provider.clone())
        .set_ice_lite(true)
        .set_rtp_mode(true)
        .set_dtls_version(DtlsVersion::Dtls12)
        .set_local_ice_credentials(credentials.clone())
        .clear_extension_map()
        .clear_codecs()
        .enable_opus(true, false);
    add_telephone_events(config.codec_config());
    match certificate {
        Some(certificate) => config.set_dtls_cert(certificate.clone()),
        None => config,
    }
}

/// The clock is 8000 in the SDP; on the wire the events share the sound's 48000 timestamps.
pub(crate) fn add_telephone_events(config: &mut CodecConfig) {
    let (number, clock) = (Pt::new_with_value(TELEPHONE_EVENT), Frequency::FORTY_EIGHT_KHZ);
    config.add_config(number, None, Codec::Tele, clock, None, FormatParams::default());
}
