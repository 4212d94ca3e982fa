//! Permission requests: the message by which a person is asked for permission to be called.

use serde_json::{Value, json};

use super::fact::{Fact, What};
use super::service::{Permissions, credentials};
use super::{Moment, Person};
use crate::call::refusal::Refusal;
use crate::clock;
use crate::routes::Number;
use crate::store::StoreError;
use crate::whatsapp::graph::{Callee, FailureKind};

/// A request, already read.
pub struct PermissionRequest {
    /// Whom to ask.
    pub to: Callee,
    /// With which message.
    pub message: RequestMessage,
}

/// The message.
pub enum RequestMessage {
    /// A free-form message. Meta delivers it within 24 h of the person's last message to the number.
    FreeForm {
        /// The words above the buttons; WhatsApp's own if there are none.
        body: Option<String>,
    },
    /// A template that holds the request. It may be sent at any time.
    Template(TemplateMessage),
}

/// A template message.
pub struct TemplateMessage {
    /// The template's name.
    pub name: String,
    /// The code of its language, such as `en_US`.
    pub language: String,
    /// What fills its variables, in Meta's form.
    pub components: Vec<Value>,
}

/// A request that Meta has taken.
pub struct SentRequest {
    /// Meta's id of the message.
    pub message_id: String,
    /// The person, as far as Meta names them.
    pub person: Person,
    /// When Meta took it.
    pub at: Moment,
}

impl RequestMessage {
    /// The longest text of a body, in characters. Source: Meta, "Interactive messages".
    pub const MAX_BODY_CHARS: usize = 1024;

    /// Its type, and the object of that name. Source: Meta, "User call permissions" (2026-06).
    fn to_meta(&self) -> (&'static str, Value) {
        match self {
            Self::FreeForm { body } => {
                let mut message = json!({
                    "type": "call_permission_request",
                    "action": { "name": "call_permission_request" },
                });
                if let Some(text) = body {
                    message["body"] = json!({ "text": text });
                }
                ("interactive", message)
            }
            Self::Template(TemplateMessage { name, language, components }) => {
                let mut template = json!({ "name": name, "language": { "code": language } });
                if !components.is_empty() {
                    template["components"] = Value::Array(components.clone());
                }
                ("template", template)
            }
        }
    }
}

impl Permissions {
    /// Asks a person for permission, unless the ledger knows that Meta would refuse.
    pub async fn request(
        &self,
        number: &Number,
        request: &PermissionRequest,
    ) -> Result<Result<SentRequest, Refusal>, StoreError> {
        let id = &number.phone_number_id;
        let found = self.stored(id, &(&request.to).into()).await?;
        if let Err(refusal) = found.may_request() {
            metrics::counter!("patchcord_permission_refusals_total", "code" => refusal.code.name()).increment(1);
            return Ok(Err(refusal));
        }
        let (kind, content) = request.message.to_meta();
        let sent = match self.graph().send_message(&credentials(number), &request.to, kind, &content).await {
            Ok(sent) => sent,
            Err(failure) => {
                if let FailureKind::Refused(error) = &failure.kind {
                    self.refused(id, &request.to, error);
                }
                return Ok(Err(self.failed(&failure, &found)));
            }
        };
        let asked = Person::from(&request.to);
        let person = Person { wa_id: sent.wa_id.or(asked.wa_id), user_id: sent.user_id.or(asked.user_id) };
        let fact = Fact::new(Moment::from(clock::wall()), Some(sent.id.clone()), What::Requested);
        let at = fact.at;
        // The store logs a disk that does not answer in time; Meta has the message in any case.
        let _ = self.learn(id, person.clone(), fact, false).confirmed().await;
        Ok(Ok(SentRequest { message_id: sent.id, person, at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_metas() {
        let free = |body: Option<&str>| RequestMessage::FreeForm { body: body.map(str::to_owned) }.to_meta();
        assert_eq!(
            free(Some("May we call you about your order?")),
            (
                "interactive",
                json!({ "type": "call_permission_request", "action": { "name": "call_permission_request" },
                        "body": { "text": "May we call you about your order?" } })
            )
        );
        assert_eq!(free(None).1.get("body"), None);
        let components = vec![json!({ "type": "body", "parameters": [{ "type": "text", "text": "Ada" }] })];
        let template = TemplateMessage {
            name: "call_me".to_owned(),
            language: "en_US".to_owned(),
            components: components.clone(),
        };
        assert_eq!(
            RequestMessage::Template(template).to_meta(),
            ("template", json!({ "name": "call_me", "language": { "code": "en_US" }, "components": components }))
        );
    }
}
