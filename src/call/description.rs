//! The facts of a call that open every conversation with an agent: wacid, direction, user and business number.

use serde_json::{Value, json};

/// Who calls whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallDescription {
    /// Meta's id; None until Meta has named a call that we place. It contains the user's phone number.
    pub wacid: Option<String>,
    /// Who placed the call.
    pub direction: CallDirection,
    /// The person on WhatsApp.
    pub user: WhatsAppUser,
    /// The business number of the call.
    pub number: BusinessNumber,
}

/// Who placed a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallDirection {
    /// The WhatsApp user.
    #[default]
    UserInitiated,
    /// The business.
    BusinessInitiated,
}

impl CallDirection {
    const ALL: [Self; 2] = [Self::UserInitiated, Self::BusinessInitiated];

    /// The stable name in events, records and agents' `start`.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserInitiated => "user_initiated",
            Self::BusinessInitiated => "business_initiated",
        }
    }

    /// The direction of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| direction.name() == name)
    }
}

/// The person on WhatsApp, as far as Meta names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatsAppUser {
    /// The phone number in digits; None if the user hides it.
    pub wa_id: Option<String>,
    /// The business-scoped user id.
    pub user_id: Option<String>,
    /// The profile name.
    pub name: Option<String>,
}

impl WhatsAppUser {
    /// The user as in events and records; what is not known is null.
    pub fn to_json(&self) -> Value {
        json!({ "wa_id": self.wa_id, "user_id": self.user_id, "name": self.name })
    }

    /// Reads what [`to_json`](Self::to_json) has written; anything else is unknown.
    pub fn from_json(user: &Value) -> Self {
        let text = |key: &str| user[key].as_str().map(str::to_owned);
        Self { wa_id: text("wa_id"), user_id: text("user_id"), name: text("name") }
    }
}

/// A business number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusinessNumber {
    /// Meta's id of the number.
    pub phone_number_id: String,
    /// The number in digits, where Meta gave it.
    pub display_phone_number: Option<String>,
}
