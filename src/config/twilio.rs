//! `[twilio]`: the account that apps written for Twilio Voice expect.

use super::events::app_url;
use super::read::Section;
use crate::agent::AgentTarget;
use crate::routes::Route;
use crate::twilio::{Account, Notation};
use crate::whatsapp::PhoneNumberId;

/// `None` without the section, and if something is wrong, which is noted then.
pub(super) fn read(is_given: bool, mut section: Section<'_, '_>) -> Option<Account> {
    if is_given {
        section.require("account_sid", "apps know us by it: give AC and 32 hexadecimal digits");
        section.require("auth_token", "it signs what apps are asked: give { env = \"TWILIO_AUTH_TOKEN\" }");
    }
    let sid = section.text("account_sid", account_sid);
    let auth_token = section.secret("auth_token");
    let say_command = section.list("say_command", |word| Ok(word.to_owned()));
    let numbers = section.text_table("numbers").unwrap_or_default();
    let numbers = numbers.into_iter().filter_map(|(number, id)| {
        let id = PhoneNumberId::parse(&id);
        if id.is_err() {
            section.note(&format!("numbers.{number}"), None, "give the phone_number_id of one of [[whatsapp.numbers]]");
        }
        Some((number, id.ok()?))
    });
    let numbers = numbers.collect();
    let dial_number = section.text("dial_number", dial_number);
    let status_callback =
        section.text("status_callback", |text| app_url(text, "https://app.example.com/status", "calls"));
    section.end();
    Some(Account { sid: sid?, auth_token: auth_token?, say_command, numbers, status_callback, dial_number })
}

/// Notes each route whose agent needs the section, if it is missing.
pub(super) fn check_routes<'r>(root: &Section<'_, '_>, routes: impl Iterator<Item = &'r Route>, is_given: bool) {
    for route in routes.filter(|_| !is_given) {
        let is_app =
            |target: &&AgentTarget| matches!(target, AgentTarget::Twiml(app) if app.notation == Notation::Twiml);
        if let Some(target) = route.targets.iter().find(is_app) {
            let advice = "such an app needs a section [twilio] with account_sid and auth_token";
            root.note(&format!("routes.{}.agent", route.name), Some(format!("\"{}\"", target.shown())), advice);
        }
    }
}

fn account_sid(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("AC").unwrap_or_default();
    match digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(text.to_owned()),
        false => Err("give AC and 32 hexadecimal digits in lower case; you may make them up".to_owned()),
    }
}

fn dial_number(text: &str) -> Result<String, String> {
    let advice = "give \"sip-trunk:NAME/{number}\", or a SIP address such as \"sip:{number}@pbx.example\"";
    let target = AgentTarget::parse(&text.replace("{number}", "+12025550143"));
    match text.contains("{number}") && matches!(target, Ok(AgentTarget::Sip(_) | AgentTarget::Trunk(_))) {
        true => Ok(text.to_owned()),
        false => Err(advice.to_owned()),
    }
}
