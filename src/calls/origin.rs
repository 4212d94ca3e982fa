//! Origin: how a call came to be.

use patchcord_media::sdp::{Offer, SdpError};

use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::routes::Number;
use crate::whatsapp::WaCallId;
use crate::whatsapp::webhook::{Connect, Direction};

/// How a call came to be. Sessions and the registry read it through these methods alone, so calls that the business
/// places are one more variant.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A WhatsApp user called, and Meta's `connect` webhook offered the call.
    Offered(Box<Connect>),
}

impl Origin {
    /// Meta's id of the call, if the call begins with one.
    pub fn wacid(&self) -> Option<&WaCallId> {
        match self {
            Self::Offered(connect) => Some(&connect.call_id),
        }
    }

    /// What agents and events say of the call.
    pub fn description(&self, number: &Number) -> CallDescription {
        match self {
            Self::Offered(connect) => CallDescription {
                wacid: Some(connect.call_id.as_str().to_owned()),
                direction: match connect.direction {
                    Direction::UserInitiated => CallDirection::UserInitiated,
                    Direction::BusinessInitiated => CallDirection::BusinessInitiated,
                },
                user: WhatsAppUser {
                    wa_id: connect.from.wa_id.clone(),
                    user_id: connect.from.user_id.clone(),
                    name: connect.from.name.clone(),
                },
                number: BusinessNumber {
                    phone_number_id: number.phone_number_id.as_str().to_owned(),
                    display_phone_number: connect.display_phone_number.clone(),
                },
            },
        }
    }

    /// Meta's SDP offer.
    pub fn offer(&self) -> Result<Offer, SdpError> {
        match self {
            Self::Offered(connect) => Offer::parse(&connect.session.sdp),
        }
    }

    /// What the next process needs to take the call over: personal, for the store alone.
    pub fn to_stored(&self) -> String {
        match self {
            Self::Offered(connect) => connect.to_stored(),
        }
    }
}
