//! Later offers of a SIP phone in a connection that stands (RFC 3264 §8): hold, other payload types, an ICE restart.

use std::time::Instant;

use super::dtls::DtlsRole;
use super::ice::Remote;
use super::{Peer, PeerError, PeerOptions};
use crate::sdp::{self, Offer, Setup};

impl Peer {
    /// Answers a later offer. The certificates and the DTLS connection stay (RFC 8842 §5.3); with other credentials ICE
    /// restarts, as in [`Peer::take_fragment`]. From then on we send audio only if the offer receives it. An error changes
    /// nothing.
    pub fn answer_again(&mut self, options: &PeerOptions, offer: &Offer, now: Instant) -> Result<String, PeerError> {
        let dtls = self.dtls.as_ref().ok_or(PeerError::UnexpectedAnswer)?;
        let setup = match (dtls.role(), offer.setup) {
            (DtlsRole::Client, Setup::Actpass | Setup::Passive) => Setup::Active,
            (DtlsRole::Server, Setup::Actpass | Setup::Active) => Setup::Passive,
            (DtlsRole::Client, Setup::Active) | (DtlsRole::Server, Setup::Passive) => {
                return Err(PeerError::OtherConnection);
            }
        };
        if !offer.fingerprints.iter().any(|one| dtls.expects(one)) {
            return Err(PeerError::OtherConnection);
        }
        let remote = Remote { ufrag: &offer.ufrag, pwd: &offer.pwd, is_lite: offer.ice_lite };
        self.follow_remote(options, remote, &offer.candidates, now)?;
        self.media.negotiate(offer.telephone_event, offer.direction.receives());
        self.version += 1;
        let next = self.next_ice.as_deref().filter(|ice| ice.is_with(&offer.ufrag, &offer.pwd));
        let ice = next.unwrap_or(&self.ice);
        Ok(self.describe(options, ice, |local| sdp::write_answer(local, offer, setup)))
    }
}
