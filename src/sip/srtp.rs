//! SrtpRules: whether a phone's audio is encrypted, by the configuration and its address. Pure.
//!
//! The keys are in the SDP (SDES, RFC 4568), so they are worth as much as the encryption of the SIP that carries them.

use super::leg::Callee;
use super::uri::{SipUri, Transport};

/// Whether a phone's audio is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Srtp {
    /// No keys are offered.
    #[default]
    Off,
    /// Keys are offered, and the phone may leave them (RFC 8643).
    Offered,
    /// A phone that does not encrypt is not called.
    Required,
}

/// What holds for phones whose address says nothing, and where keys may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SrtpRules {
    /// Of `sip:` addresses; `sips:` ones require it.
    pub usual: Srtp,
    /// Keys may pass over UDP and TCP too, where whoever reads them can listen.
    pub keys_in_clear: bool,
}

impl Srtp {
    const ALL: [Self; 3] = [Self::Off, Self::Offered, Self::Required];

    /// The name in the configuration and in an address.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Offered => "offered",
            Self::Required => "required",
        }
    }

    /// Reads a name.
    pub fn of_name(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|srtp| srtp.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| "srtp is \"off\", \"offered\" or \"required\"".to_owned())
    }
}

impl SrtpRules {
    /// What to do with this phone. The error is for people.
    pub fn for_callee(&self, to: &Callee) -> Result<Srtp, &'static str> {
        match to {
            Callee::Address(uri) => self.for_phone(uri),
            Callee::Phone(phone) => self.over(self.usual, phone.is_encrypted()),
            Callee::Trunk(call) => self.for_targets(&call.trunk.options.targets),
        }
    }

    /// The same of the phone at an address.
    pub fn for_phone(&self, to: &SipUri) -> Result<Srtp, &'static str> {
        let usual = if to.is_secure { Srtp::Required } else { self.usual };
        self.over(to.srtp.unwrap_or(usual), to.transport() == Transport::Tls)
    }

    /// The same of servers that stand for each other: one offer is for them all.
    pub fn for_targets(&self, targets: &[SipUri]) -> Result<Srtp, &'static str> {
        let mut all = targets.iter().map(|target| self.for_phone(target));
        let first = all.next().unwrap_or(Ok(Srtp::Off))?;
        match all.all(|other| other == Ok(first)) {
            true => Ok(first),
            false => Err("one offer goes to all targets, and their SRTP differs: give each the same ;srtp=, and \
                          ;transport=tls to all or to none"),
        }
    }

    fn over(&self, wanted: Srtp, is_encrypted: bool) -> Result<Srtp, &'static str> {
        let may_have_keys = self.keys_in_clear || is_encrypted;
        match wanted {
            Srtp::Off => Ok(Srtp::Off),
            // RFC 8643: opportunistic keys need encrypted signalling too.
            Srtp::Offered if !may_have_keys => Ok(Srtp::Off),
            Srtp::Required if !may_have_keys => {
                Err("SRTP is required, and its keys would be sent unencrypted: give ;transport=tls, \
                     or sip.srtp_keys_in_clear = true in a network of your own")
            }
            allowed @ (Srtp::Offered | Srtp::Required) => Ok(allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_more_than_the_configuration_and_keys_need_tls() {
        let of = |usual, keys_in_clear, to: &str| {
            SrtpRules { usual, keys_in_clear }.for_phone(&SipUri::parse(to).unwrap()).ok()
        };
        use Srtp::{Off, Offered, Required};
        for (usual, address, expected, in_clear) in [
            (Off, "sip:a@b", Some(Off), Off),
            (Off, "sips:a@b", Some(Required), Required),
            (Off, "sips:a@b;srtp=off", Some(Off), Off),
            (Required, "sips:a@b;srtp=offered", Some(Offered), Offered),
            (Offered, "sip:a@b", Some(Off), Offered),
            (Offered, "sip:a@b;transport=tls", Some(Offered), Offered),
            (Required, "sip:a@b;transport=tcp", None, Required),
            (Required, "sip:a@b;transport=tls", Some(Required), Required),
            (Required, "sip:a@b;srtp=off", Some(Off), Off),
        ] {
            assert_eq!(of(usual, false, address), expected, "{address}");
            assert_eq!(of(usual, true, address), Some(in_clear), "{address}");
        }
    }
}
