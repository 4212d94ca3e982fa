//! Tools: what a model may do with the call, as functions that it calls by name.

use std::sync::Arc;

use serde_json::{Value, json};

use super::function::AppFunction;
use super::schema;
use crate::agent::dialect::FromAgent;
use crate::call::command::{CallCommand, CommandResult};
use crate::call::refusal::{Refusal, RefusalCode};

/// The functions that a model has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// `hangup()` ends the call.
    pub hangup: bool,
    /// `send_dtmf(digits)` sends keys to the caller's side.
    pub send_dtmf: bool,
    /// `transfer(to)` hands the caller over to one of these routes; none: there is no such function.
    pub transfer_to: Vec<String>,
    /// Those that the operator's app performs.
    pub of_app: Vec<Arc<AppFunction>>,
}

/// One function, as every vendor describes it: a name, a purpose, and the JSON schema of its parameters.
pub(in crate::agent) struct Function<'t> {
    pub name: &'t str,
    pub description: &'t str,
    pub parameters: Value,
}

/// What a function returned, for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionResult {
    /// What the app answered, or JSON with the error.
    pub text: String,
    /// Whether it is an error.
    pub is_error: bool,
}

impl Tools {
    /// The names in the configuration of those without further settings.
    pub const NAMES: [&str; 2] = ["hangup", "send_dtmf"];
    /// The names that no function of an app may have.
    pub const TAKEN: [&str; 3] = ["hangup", "send_dtmf", "transfer"];

    /// The functions that the model is offered.
    pub(in crate::agent) fn functions(&self) -> Vec<Function<'_>> {
        let hangup = self.hangup.then(|| Function {
            name: "hangup",
            description: "End the phone call. Say goodbye first.",
            parameters: json!({"type": "object", "properties": {}}),
        });
        let transfer = (!self.transfer_to.is_empty()).then(|| Function {
            name: "transfer",
            description: "Hand the caller over. Tell the caller first.",
            parameters: json!({
                "type": "object",
                "properties": {"to": {"type": "string", "enum": self.transfer_to}},
                "required": ["to"],
            }),
        });
        let send_dtmf = self.send_dtmf.then(|| Function {
            name: "send_dtmf",
            description: "Press keys of the telephone keypad.",
            parameters: json!({
                "type": "object",
                "properties": {"digits": {"type": "string", "pattern": "^[0-9*#A-D]+$"}},
                "required": ["digits"],
            }),
        });
        let of_app = self.of_app.iter().map(|function| Function {
            name: &function.name,
            description: &function.description,
            parameters: function.parameters.clone(),
        });
        [hangup, transfer, send_dtmf].into_iter().flatten().chain(of_app).collect()
    }

    /// What a function call asks for, whose arguments are JSON as text.
    pub(in crate::agent) fn call_with_text(&self, request_id: Value, name: &str, arguments: &str) -> FromAgent {
        // Vendors send nothing where a function has no parameters.
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        match serde_json::from_str(arguments) {
            Ok(arguments) => self.call(request_id, name, arguments),
            Err(_) => refused(request_id, "arguments: give JSON"),
        }
    }

    /// What a function call asks for. Its result returns with `request_id`. A model hangs up, or hands the caller over, behind
    /// its last words, which it has sent and the caller has not heard.
    pub(in crate::agent) fn call(&self, request_id: Value, name: &str, arguments: Value) -> FromAgent {
        if name == "hangup" && self.hangup {
            return FromAgent::ByeWhenHeard;
        }
        let arguments = if arguments.is_null() { json!({}) } else { arguments };
        match self.of_app.iter().find(|function| function.name == name) {
            Some(function) => match schema::check(&function.parameters, &arguments) {
                Ok(()) => FromAgent::Function { request_id, function: function.clone(), arguments },
                Err(mistake) => refused(request_id, mistake),
            },
            None => match self.command(name, &arguments) {
                // The words that announce it would be lost with the model.
                Ok(command) if name == "transfer" => FromAgent::CommandWhenHeard { request_id, command },
                command => FromAgent::Command { request_id, command },
            },
        }
    }

    fn command(&self, name: &str, arguments: &Value) -> Result<CallCommand, Refusal> {
        let is_allowed = |to: &&str| self.transfer_to.iter().any(|route| route == to);
        let command = match name {
            "send_dtmf" if self.send_dtmf => json!({"action": "send_dtmf", "digits": arguments["digits"]}),
            "transfer" => match arguments["to"].as_str().filter(is_allowed) {
                Some(route) => json!({"action": "transfer", "route": route}),
                None => return Err(Refusal::new(RefusalCode::NotAllowed, "there is no such destination")),
            },
            _ => return Err(Refusal::new(RefusalCode::NotAllowed, "there is no such function")),
        };
        let command: CallCommand = serde_json::from_value(command)
            .map_err(|error| Refusal::new(RefusalCode::InvalidCommand, error.to_string()))?;
        command.check().map(|()| command)
    }
}

/// The model learns it, and nobody else.
fn refused(request_id: Value, mistake: impl Into<String>) -> FromAgent {
    FromAgent::Command { request_id, command: Err(Refusal::new(RefusalCode::InvalidCommand, mistake)) }
}

impl FunctionResult {
    /// Something went wrong; the sentence is for the model.
    pub(in crate::agent) fn error(message: &str) -> Self {
        Self { text: json!({"ok": false, "error": message}).to_string(), is_error: true }
    }

    pub(in crate::agent) fn of_command(outcome: &Result<CommandResult, Refusal>) -> Self {
        match outcome {
            Ok(_) => Self { text: json!({"ok": true}).to_string(), is_error: false },
            Err(refusal) => Self::error(&refusal.message),
        }
    }

    /// As JSON, if it is some.
    pub(in crate::agent) fn to_json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| self.text.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::function::tests::order_status;

    #[test]
    fn a_model_does_what_its_tools_allow() {
        let tools = Tools { hangup: true, transfer_to: vec!["support".to_owned()], ..Tools::default() };
        let names: Vec<_> = tools.functions().iter().map(|function| function.name).collect();
        assert_eq!(names, ["hangup", "transfer"]);
        assert_eq!(tools.call(Value::Null, "hangup", Value::Null), FromAgent::ByeWhenHeard);
        assert!(tools.command("transfer", &json!({"to": "support"})).is_ok());
        assert!(tools.command("transfer", &json!({"to": "the moon"})).is_err());
        assert!(tools.command("send_dtmf", &json!({"digits": "1"})).is_err());
        assert!(tools.command("rm", &Value::Null).is_err());
    }

    #[test]
    fn a_function_of_the_app_is_called_with_arguments_that_fit() {
        let function = Arc::new(order_status());
        let tools = Tools { of_app: vec![function.clone()], ..Tools::default() };
        assert_eq!(tools.functions()[0].parameters, function.parameters);
        let called = tools.call_with_text(json!("c1"), "order_status", r#"{"number":"A-17"}"#);
        let arguments = json!({"number": "A-17"});
        assert_eq!(called, FromAgent::Function { request_id: json!("c1"), function, arguments });
        for (arguments, mistake) in [
            ("", "arguments.number: it is missing"),
            ("{\"number\":", "arguments: give JSON"),
            ("{\"number\":17}", "arguments.number: give string"),
        ] {
            let refused = tools.call_with_text(json!("c1"), "order_status", arguments);
            let FromAgent::Command { command: Err(refusal), .. } = &refused else { panic!("{refused:?}") };
            assert_eq!(refusal.message, mistake);
        }
    }

    #[test]
    fn a_result_is_json_or_text() {
        let said = |text: &str| FunctionResult { text: text.to_owned(), is_error: false }.to_json();
        assert_eq!(said(r#"{"status":"sent"}"#), json!({"status": "sent"}));
        assert_eq!(said("It was sent."), json!("It was sent."));
        assert_eq!(FunctionResult::error("no").to_json(), json!({"ok": false, "error": "no"}));
    }
}
