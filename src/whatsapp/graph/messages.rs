//! Requests beside calls: messages that ask for permission, and look-ups of permissions.

use serde_json::{Value, json};

use super::{Action, Callee, FailureKind, GraphClient, GraphFailure, NumberCredentials, logged};
use crate::whatsapp::permission::CallPermissions;

/// Ids of messages have about 80 characters.
const MAX_ID_CHARS: usize = 512;

/// A message that Meta has taken.
#[derive(Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Meta's id of it. It contains the person's number.
    pub id: String,
    /// The number by which WhatsApp knows the person, if Meta gives it.
    pub wa_id: Option<String>,
    /// The person's business-scoped user id, if Meta gives it.
    pub user_id: Option<String>,
}

impl std::fmt::Debug for SentMessage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SentMessage(hidden)")
    }
}

impl GraphClient {
    /// Sends a message: `kind` is its type, `content` the object of that name. Not retried once an attempt may have reached
    /// Meta, because the person would get it twice.
    pub async fn send_message(
        &self,
        number: &NumberCredentials,
        to: &Callee,
        kind: &str,
        content: &Value,
    ) -> Result<SentMessage, GraphFailure> {
        let mut body = json!({ "messaging_product": "whatsapp", "recipient_type": "individual", "type": kind });
        match to {
            Callee::WaId(digits) => body["to"] = digits.as_str().into(),
            Callee::UserId(user_id) => body["recipient"] = user_id.as_str().into(),
        }
        body[kind] = content.clone();
        let logged = |failure| logged(Action::SendMessage, failure);
        let (reply, attempts) = self.request(number, Action::SendMessage, &body).await.map_err(logged)?;
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let id = text(&reply["messages"][0]["id"]).filter(|id| id.len() <= MAX_ID_CHARS);
        // A success without an id: the person may have the message.
        let kind = || FailureKind::Unknown("a success without the message's id".to_owned());
        let id = id.ok_or_else(|| logged(GraphFailure { kind: kind(), attempts }))?;
        let contact = &reply["contacts"][0];
        Ok(SentMessage { id, wa_id: text(&contact["wa_id"]), user_id: text(&contact["user_id"]) })
    }

    /// Asks what a person permits.
    pub async fn call_permissions(
        &self,
        number: &NumberCredentials,
        person: &Callee,
    ) -> Result<CallPermissions, GraphFailure> {
        let query = match person {
            Callee::WaId(digits) => json!({ "user_wa_id": digits }),
            Callee::UserId(user_id) => json!({ "recipient": user_id }),
        };
        let logged = |failure| logged(Action::LookUp, failure);
        let (reply, attempts) = self.request(number, Action::LookUp, &query).await.map_err(logged)?;
        let kind = || FailureKind::Unknown("a reply without a permission".to_owned());
        CallPermissions::from_json(&reply).ok_or_else(|| logged(GraphFailure { kind: kind(), attempts }))
    }
}
