//! Origin: where a call comes from: an offer of Meta's, an order of the app, or an app that signals it.

use std::time::Duration;

use patchcord_media::sdp::{Offer, SdpError};
use serde_json::{Value, json};

use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::event::CallId;
use crate::call::signaling::Signaling;
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
    /// The application exchanges the call's messages with Meta itself, and has us carry the media.
    External(Box<ExternalCall>),
}

/// A call that the application signals.
#[derive(Clone)]
pub struct ExternalCall {
    /// Who placed it.
    pub direction: ExternalDirection,
    /// The person on WhatsApp, as far as the application says.
    pub user: WhatsAppUser,
    /// The business number in digits, for people.
    pub display_phone_number: Option<String>,
    /// The application's own text.
    pub tracker: Option<CallbackData>,
}

/// Who placed a call that the application signals.
#[derive(Clone)]
pub enum ExternalDirection {
    /// The WhatsApp user: Meta's id, and its offer.
    #[expect(missing_docs, reason = "the line above says what they are")]
    UserInitiated { wacid: WaCallId, offer: Box<Offer> },
    /// The application: how long the phone rings. Meta's id comes with a report.
    #[expect(missing_docs, reason = "the line above says what it is")]
    BusinessInitiated { ring_timeout: Duration },
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
            Self::External(call) => match &call.direction {
                ExternalDirection::UserInitiated { wacid, .. } => Some(wacid),
                ExternalDirection::BusinessInitiated { .. } => None,
            },
        }
    }

    /// The call that we place, if it is one.
    pub fn placement(&self) -> Option<&Placement> {
        match self {
            Self::Offered(_) | Self::External(_) => None,
            Self::Placed(placement) => Some(placement),
        }
    }

    /// Whether the business calls the WhatsApp user.
    pub fn is_placed(&self) -> bool {
        match self {
            Self::Offered(_) => false,
            Self::Placed(_) => true,
            Self::External(call) => matches!(call.direction, ExternalDirection::BusinessInitiated { .. }),
        }
    }

    /// The application's own text.
    pub fn tracker(&self) -> Option<&CallbackData> {
        match self {
            Self::Offered(_) => None,
            Self::Placed(placement) => placement.tracker.as_ref(),
            Self::External(call) => call.tracker.as_ref(),
        }
    }

    /// Who exchanges the call's messages with Meta.
    pub fn signaling(&self) -> Signaling {
        match self {
            Self::Offered(_) | Self::Placed(_) => Signaling::Graph,
            Self::External(_) => Signaling::External,
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
            Self::External(call) => CallDescription {
                wacid: self.wacid().map(|wacid| wacid.as_str().to_owned()),
                direction: match call.direction {
                    ExternalDirection::UserInitiated { .. } => CallDirection::UserInitiated,
                    ExternalDirection::BusinessInitiated { .. } => CallDirection::BusinessInitiated,
                },
                user: call.user.clone(),
                number: BusinessNumber { phone_number_id, display_phone_number: call.display_phone_number.clone() },
            },
        }
    }

    /// Meta's SDP offer; None for a call that we place.
    pub fn offer(&self) -> Option<Result<Offer, SdpError>> {
        match self {
            Self::Offered(connect) => Some(Offer::parse(&connect.session.sdp)),
            Self::Placed(_) => None,
            Self::External(call) => match &call.direction {
                ExternalDirection::UserInitiated { offer, .. } => Some(Ok((**offer).clone())),
                ExternalDirection::BusinessInitiated { .. } => None,
            },
        }
    }

    /// What the next process needs to take the call over: personal, for the store alone. None for a call that no other
    /// process can go on with.
    pub fn to_stored(&self) -> Option<String> {
        match self {
            Self::Offered(connect) => Some(connect.to_stored()),
            Self::Placed(_) | Self::External(_) => None,
        }
    }
}

impl Placement {
    /// What Meta returns with each webhook of the call: the application's tracker, or our id.
    pub fn callback_data(&self, call: &CallId) -> CallbackData {
        let own = || CallbackData::parse(call.as_str()).expect("our ids are short");
        self.tracker.clone().unwrap_or_else(own)
    }

    /// The person to call, as in events.
    pub fn to_json(&self) -> Value {
        let user = self.user();
        json!({ "wa_id": user.wa_id, "user_id": user.user_id, "name": user.name })
    }

    fn user(&self) -> WhatsAppUser {
        match &self.callee {
            Callee::WaId(digits) => WhatsAppUser { wa_id: Some(digits.clone()), ..WhatsAppUser::default() },
            Callee::UserId(user_id) => WhatsAppUser { user_id: Some(user_id.clone()), ..WhatsAppUser::default() },
        }
    }
}

impl std::fmt::Debug for ExternalCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ExternalCall").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Placement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Placement").field("ring_timeout", &self.ring_timeout).finish_non_exhaustive()
    }
}
