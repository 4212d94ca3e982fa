//! Tools: what a model may do with the call, as functions that it calls by name.

use serde_json::{Value, json};

use crate::agent::dialect::FromAgent;
use crate::call::command::CallCommand;
use crate::call::refusal::{Refusal, RefusalCode};

/// The built-in functions that a model has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `hangup()` ends the call.
    pub hangup: bool,
    /// `send_dtmf(digits)` sends keys to the caller's side.
    pub send_dtmf: bool,
    /// `transfer(to)` hands the caller over to one of these routes; none: there is no such function.
    pub transfer_to: Vec<String>,
}

/// One function, as every vendor describes it: a name, a purpose, and the JSON schema of its parameters.
pub(in crate::agent) struct Function {
    pub name: &'static str,
    pub description: &'static str,
    pub parameters: Value,
}

impl Tools {
    /// The names in the configuration of those without further settings.
    pub const NAMES: [&str; 2] = ["hangup", "send_dtmf"];

    /// The functions that the model is offered.
    pub(in crate::agent) fn functions(&self) -> Vec<Function> {
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
        [hangup, transfer, send_dtmf].into_iter().flatten().collect()
    }

    /// What a function call asks for. The result of a command returns with `request_id`. A model hangs up behind its goodbye,
    /// which it has sent and the caller has not heard.
    pub(in crate::agent) fn call(&self, request_id: Value, name: &str, arguments: &Value) -> FromAgent {
        if name == "hangup" && self.hangup {
            return FromAgent::ByeWhenHeard;
        }
        FromAgent::Command { request_id, command: self.command(name, arguments) }
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

/// What a function returned, for the model.
pub(in crate::agent) fn outcome_text(outcome: &Result<crate::call::command::CommandResult, Refusal>) -> String {
    match outcome {
        Ok(_) => json!({"ok": true}).to_string(),
        Err(refusal) => json!({"ok": false, "error": refusal.message}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_does_what_its_tools_allow() {
        let tools = Tools { hangup: true, send_dtmf: false, transfer_to: vec!["support".to_owned()] };
        let names: Vec<_> = tools.functions().iter().map(|function| function.name).collect();
        assert_eq!(names, ["hangup", "transfer"]);
        assert_eq!(tools.call(Value::Null, "hangup", &Value::Null), FromAgent::ByeWhenHeard);
        assert!(tools.command("transfer", &json!({"to": "support"})).is_ok());
        assert!(tools.command("transfer", &json!({"to": "the moon"})).is_err());
        assert!(tools.command("send_dtmf", &json!({"digits": "1"})).is_err());
        assert!(tools.command("rm", &Value::Null).is_err());
    }
}
