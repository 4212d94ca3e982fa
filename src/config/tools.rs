//! The tools of `[routes.NAME.model]`: what a speech model may do, and the app's functions that it may call.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use url::Url;

use super::events::{app_url, signing_secret};
use super::model::not_empty;
use super::read::Section;
use crate::agent::model::{AppFunction, Tools, schema};
use crate::events::SigningSecret;

/// The functions of one model's app. A model reads all their descriptions before each response.
const MAX_FUNCTIONS: usize = 64;
/// For the app to perform a function: the caller waits meanwhile.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A tool is a name, or a table: of a built-in function that has nothing but its name, or of one of the app.
pub(super) fn read_tools(section: &mut Section<'_, '_>) -> Tools {
    let transfer_to = section.list("transfer_to", not_empty).unwrap_or_default();
    let is_signed = section.has("tools_secret");
    let app = AppOfTools::read(section);
    let (names, tables) = section.names_and_sections("tools");
    let mut tools = Tools { transfer_to, ..Tools::default() };
    for name in names {
        if !switch_on(&mut tools, &name) {
            let advice =
                format!("give some of \"{}\", or a table with a function of yours", Tools::NAMES.join("\", \""));
            section.note("tools", Some(format!("\"{name}\"")), advice);
        }
    }
    let mut has_functions = false;
    for mut table in tables {
        table.require("name", "give what the model is to call it");
        let Some(name) = table.text("name", function_name) else {
            continue;
        };
        if switch_on(&mut tools, &name) {
            table.end();
            continue;
        }
        has_functions = true;
        if tools.of_app.len() == MAX_FUNCTIONS || tools.of_app.iter().any(|known| known.name == name) {
            table.note("name", Some(format!("\"{name}\"")), format!("give at most {MAX_FUNCTIONS}, and each once"));
        }
        tools.of_app.extend(app.read_function(name, table).map(Arc::new));
    }
    if has_functions && !is_signed {
        let advice = "it is missing; it signs the calls of functions: give { env = \"TOOLS_SECRET\" }";
        section.note("tools_secret", None, advice);
    }
    tools
}

/// Whether it is the name of a built-in function.
fn switch_on(tools: &mut Tools, name: &str) -> bool {
    match name {
        "hangup" => tools.hangup = true,
        "send_dtmf" => tools.send_dtmf = true,
        _ => return false,
    }
    true
}

/// The app that performs functions.
struct AppOfTools {
    webhook: Option<Url>,
    secret: Option<SigningSecret>,
    timeout: Duration,
}

impl AppOfTools {
    fn read(section: &mut Section<'_, '_>) -> Self {
        let webhook = section.text("tools_webhook", webhook_url);
        let secret = section.secret("tools_secret");
        let secret = secret.and_then(|secret| signing_secret(section, "tools_secret", &secret));
        let timeout = section.duration("tools_timeout", MAX_TIMEOUT).unwrap_or(USUAL_TIMEOUT);
        Self { webhook, secret, timeout }
    }

    /// `None` if something is wrong, which is noted then.
    fn read_function(&self, name: String, mut table: Section<'_, '_>) -> Option<AppFunction> {
        if Tools::TAKEN.contains(&name.as_str()) {
            table.note(
                "name",
                Some(format!("\"{name}\"")),
                "this function is built in: model.transfer_to names its routes",
            );
        }
        table.require("description", "say to the model what it is for");
        let description = table.text("description", not_empty);
        let no_parameters = || json!({"type": "object", "properties": {}});
        let is_given = table.has("parameters");
        let parameters = table.json("parameters", |schema| schema::check_schema(&schema).map(|()| schema));
        let parameters = if is_given { parameters } else { Some(no_parameters()) };
        if self.webhook.is_none() && !table.has("webhook") {
            table.note(
                "webhook",
                None,
                "it is missing, and so is model.tools_webhook; give \"https://app.example.com/functions\"",
            );
        }
        let url = table.text("webhook", webhook_url).or_else(|| self.webhook.clone());
        table.end();
        Some(AppFunction {
            name,
            description: description?,
            parameters: parameters?,
            url: url?,
            secret: self.secret.clone()?,
            timeout: self.timeout,
        })
    }
}

fn webhook_url(text: &str) -> Result<Url, String> {
    app_url(text, "https://app.example.com/functions", "function calls")
}

/// What every vendor takes.
fn function_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match (1..=64).contains(&text.len()) && text.bytes().all(is_plain) && !text.as_bytes()[0].is_ascii_digit() {
        true => Ok(text.to_owned()),
        false => Err("a function's name has 1 to 64 letters, digits or '_', and begins with no digit".to_owned()),
    }
}
