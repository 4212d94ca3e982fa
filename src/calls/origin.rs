//! Origin: how a call came to be.

use std::time::Duration;

use patchcord_media::sdp::{Offer, SdpError};

use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::event::CallId;
use crate::routes::Number;
use crate::whatsapp::WaCallId;
use crate::whatsapp::graph::{CallbackData, Callee};
use crate::whatsapp::webhook::{Connect, Direction};

/// How a call came to be. Sessions and the registry read it through these methods alone.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A WhatsApp user called, and Meta's `connect` webhook offered the call.
    Offered(Box<Connect>),
    /// The application has us call a WhatsApp user.
    Placed(Box<Placement>),
}

/// A call that the application has us place.
#[derive(Clone)]
pub struct Placement {
    /// Whom to call.
    pub callee: Callee,
    /// The application's own text, which Meta returns in the webhooks of the call.
    pub tracker: Option<CallbackData>,
    /// How long the callee's phone rings.
    pub ring_timeout: Duration,
}

impl Origin {
    /// Meta's id of the call, if the call begins with one.
    pub fn wacid(&self) -> Option<&WaCallId> {
        match self {
            Self::Offered(connect) => Some(&connect.call_id),
            Self::Placed(_) => None,
        }
    }

    /// The call that we place, if it is one.
    pub fn placement(&self) -> Option<&Placement> {
        match self {
            Self::Offered(_) => None,
            Self::Placed(placement) => Some(placement),
        }
    }

    /// What agents and events say of the call.
    pub fn description(&self, number: &Number) -> CallDescription {
        let phone_number_id = number.phone_number_id.as_str().to_owned();
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
                number: BusinessNumber { phone_number_id, display_phone_number: connect.display_phone_number.clone() },
            },
            Self::Placed(placement) => CallDescription {
                wacid: None,
                direction: CallDirection::BusinessInitiated,
                user: placement.user(),
                number: BusinessNumber { phone_number_id, display_phone_number: None },
            },
        }
    }

    /// Meta's SDP offer; None for a call that we place.
    pub fn offer(&self) -> Option<Result<Offer, SdpError>> {
        match self {
            Self::Offered(connect) => Some(Offer::parse(&connect.session.sdp)),
            Self::Placed(_) => None,
        }
    }

    /// What the next process needs to take the call over: personal, for the store alone. None for a call that no other
    /// process can go on with.
    pub fn to_stored(&self) -> Option<String> {
        match self {
            Self::Offered(connect) => Some(connect.to_stored()),
            Self::Placed(_) => None,
        }
    }
}

impl Placement {
    /// What Meta returns with each webhook of the call: the application's tracker, or our id.
    pub fn callback_data(&self, call: &CallId) -> CallbackData {
        let own = || CallbackData::parse(call.as_str()).expect("our ids are short");
        self.tracker.clone().unwrap_or_else(own)
    }

    fn user(&self) -> WhatsAppUser {
        match &self.callee {
            Callee::WaId(digits) => WhatsAppUser { wa_id: Some(digits.clone()), ..WhatsAppUser::default() },
            Callee::UserId(user_id) => WhatsAppUser { user_id: Some(user_id.clone()), ..WhatsAppUser::default() },
        }
    }
}

impl std::fmt::Debug for Placement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Placement").field("ring_timeout", &self.ring_timeout).finish_non_exhaustive()
    }
}
