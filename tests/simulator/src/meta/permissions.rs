//! Who permits calls of the business: Meta's rules and limits, look-ups, requests and the replies of people.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::bodies::{permissions as bodies, replies};
use super::{MetaShared, Parties, report, unix_ms, wacid};

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// A temporary permission lasts so many days.
const TEMPORARY_DAYS: u64 = 7;
/// Requests to one person in a day, and in seven.
const REQUESTS: [(u64, usize); 2] = [(DAY, 1), (7 * DAY, 2)];
/// Connected calls to one person in a day.
const CALLS_PER_DAY: usize = 100;
/// Unanswered calls in a row after which the permission is revoked.
const REVOKED_AFTER: u32 = 4;

/// What a person, or a rule of Meta's, says of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermissionReply {
    /// "Allow" on a request: for seven days.
    Accept,
    /// "Always allow" on a request.
    AcceptForGood,
    /// Permitted in the profile of the business, for good.
    PermitInProfile,
    /// "Don't allow" on a request.
    Reject,
    /// The person has called the business, which permits calls back for seven days.
    CalledBack,
    /// Withdrawn after unanswered calls.
    Revoke,
}

/// How one person stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    None,
    /// Until then, in Unix seconds.
    Until(u64),
    ForGood,
    /// For good, and nothing is limited.
    Unlimited,
}

/// What Meta keeps of one person.
#[derive(Debug, Default)]
struct Entry {
    standing: Standing,
    /// Unix seconds of each.
    requests: Vec<u64>,
    connected: Vec<u64>,
    unanswered: u32,
    last_request: Option<String>,
    /// Replies of one person have times of their own, as people are slower than a test.
    replied_at: u64,
}

/// Everybody's permission, by number and by user id.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
}

impl Book {
    /// The entry of a person with these ids, made if there is none.
    fn entry(&mut self, ids: [Option<&str>; 2]) -> &mut Entry {
        let ids = ids.into_iter().flatten();
        let known = ids.clone().find_map(|id| self.by_id.get(id).copied());
        let index = known.unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() - 1
        });
        self.by_id.extend(ids.map(|id| (id.to_owned(), index)));
        &mut self.entries[index]
    }

    fn of(&mut self, person: &Parties) -> &mut Entry {
        self.entry([person.from.as_deref(), person.user_id.as_deref()])
    }

    /// Somebody who permits everything.
    pub(crate) fn permit(&mut self, person: &Parties) {
        self.of(person).standing = Standing::Unlimited;
    }
}

impl Entry {
    /// Why no call may be placed, as a status and a body.
    fn call_refusal(&self, now: u64) -> Option<(u16, String)> {
        match self.standing {
            Standing::Unlimited => return None,
            Standing::None => return Some((401, bodies::NO_PERMISSION.to_owned())),
            Standing::Until(until) if until <= now => return Some((401, bodies::NO_PERMISSION.to_owned())),
            Standing::Until(_) | Standing::ForGood => {}
        }
        let free_at = limit(&self.connected, DAY, CALLS_PER_DAY, now)?;
        Some((400, bodies::call_limit(free_at)))
    }

    fn request_refusal(&self, now: u64) -> Option<(u16, String)> {
        if matches!(self.standing, Standing::ForGood | Standing::Unlimited) {
            return Some((400, bodies::PERMANENT.to_owned()));
        }
        let is_over = REQUESTS.iter().any(|(period, most)| limit(&self.requests, *period, *most, now).is_some());
        is_over.then(|| (400, bodies::REQUEST_LIMIT.to_owned()))
    }

    fn look_up(&self, now: u64) -> String {
        let (status, until) = match self.standing {
            Standing::Until(until) if now < until => ("temporary", Some(until)),
            Standing::None | Standing::Until(_) => ("no_permission", None),
            Standing::ForGood | Standing::Unlimited => ("permanent", None),
        };
        let used = |times: &[u64], period: u64| times.iter().filter(|at| **at + period > now).count();
        let requests = REQUESTS.map(|(period, most)| bodies::Usage {
            period: if period == DAY { "PT24H" } else { "P7D" },
            most,
            used: used(&self.requests, period),
            free_at: limit(&self.requests, period, most, now),
        });
        let calls = [bodies::Usage {
            period: "PT24H",
            most: CALLS_PER_DAY,
            used: used(&self.connected, DAY),
            free_at: limit(&self.connected, DAY, CALLS_PER_DAY, now),
        }];
        let may_request = self.request_refusal(now).is_none();
        let may_call = self.call_refusal(now).is_none();
        bodies::call_permissions((status, until), (may_request, &requests), (may_call, &calls))
    }
}

/// When the limit lets the next one through; None if it does now.
fn limit(times: &[u64], period: u64, most: usize, now: u64) -> Option<u64> {
    let recent: Vec<u64> = times.iter().copied().filter(|at| *at + period > now).collect();
    let freeing = recent.len().checked_sub(most)?;
    recent.get(freeing).map(|at| at + period)
}

fn unix_s() -> u64 {
    (unix_ms() / 1000) as u64
}

impl MetaShared {
    /// Why the business may not call; None if it may.
    pub(crate) fn call_refusal(&self, key: &str) -> Option<(u16, String)> {
        self.book().entry([Some(key), None]).call_refusal(unix_s())
    }

    /// `GET …/call_permissions`.
    pub(crate) fn look_up(&self, query: &Value) -> (u16, String) {
        let key = query["user_wa_id"].as_str().or_else(|| query["recipient"].as_str());
        match key {
            Some(key) => (200, self.book().entry([Some(key), None]).look_up(unix_s())),
            None => (400, replies::invalid_parameter("user_wa_id or recipient is missing")),
        }
    }

    /// `POST …/messages`: only requests for permission are known here.
    pub(crate) fn take_message(&self, body: &Value) -> (u16, String) {
        let to = match check_message(body) {
            Ok(to) => to,
            Err(details) => return (400, replies::invalid_parameter(&details)),
        };
        let mut book = self.book();
        let entry = book.entry([Some(to), None]);
        if let Some(refusal) = entry.request_refusal(unix_s()) {
            return refusal;
        }
        let id = wacid::wamid(to, rand::random());
        entry.requests.push(unix_s());
        entry.last_request = Some(id.clone());
        let is_number = body["to"].is_string();
        (200, bodies::message_taken(to, is_number, &id))
    }

    /// A call that the business placed was answered: its limits count it.
    pub(crate) fn count_connected(&self, person: &Parties) {
        let mut book = self.book();
        let entry = book.of(person);
        entry.connected.push(unix_s());
        entry.unanswered = 0;
        entry.requests.clear();
    }

    /// Nobody answered; the fourth time in a row Meta revokes the permission, and says so.
    pub(crate) async fn count_unanswered(&self, person: &Parties) {
        let is_revoked = {
            let mut book = self.book();
            let entry = book.of(person);
            entry.unanswered += 1;
            matches!(entry.standing, Standing::Until(_) | Standing::ForGood) && entry.unanswered >= REVOKED_AFTER
        };
        if is_revoked {
            let body = self.reply_body(person, PermissionReply::Revoke);
            report("permission", self.post(body.into_bytes(), None).await);
        }
    }

    /// The reply takes effect; its webhook is to be sent.
    pub(crate) fn reply_body(&self, person: &Parties, reply: PermissionReply) -> String {
        let mut book = self.book();
        let entry = book.of(person);
        let at = unix_s().max(entry.replied_at + 1);
        entry.replied_at = at;
        let until = at + TEMPORARY_DAYS * DAY;
        entry.standing = match reply {
            PermissionReply::Accept | PermissionReply::CalledBack => Standing::Until(until),
            PermissionReply::AcceptForGood | PermissionReply::PermitInProfile => Standing::ForGood,
            PermissionReply::Reject | PermissionReply::Revoke => Standing::None,
        };
        entry.unanswered = 0;
        let number = person.from.as_deref().unwrap_or("12025550100");
        let call =
            wacid::wacid(number, &self.options.display_phone_number, super::Direction::UserInitiated, rand::random());
        let (answers, is_automatic) = match reply {
            PermissionReply::Accept | PermissionReply::AcceptForGood | PermissionReply::Reject => {
                (entry.last_request.clone(), false)
            }
            PermissionReply::PermitInProfile => (None, false),
            PermissionReply::CalledBack => (Some(call), true),
            PermissionReply::Revoke => (None, true),
        };
        let expires_at = matches!(reply, PermissionReply::Accept | PermissionReply::CalledBack).then_some(until);
        let said = bodies::PermissionReply {
            id: wacid::wamid(number, rand::random()),
            at,
            is_accepted: !matches!(reply, PermissionReply::Reject | PermissionReply::Revoke),
            expires_at,
            is_automatic,
            answers,
        };
        drop(book);
        bodies::permission_reply(person, &said)
    }

    /// Everything that counts for limits happened so much earlier.
    pub(crate) fn let_days_pass(&self, person: &Parties, days: u64) {
        let mut book = self.book();
        let entry = book.of(person);
        for at in entry.requests.iter_mut().chain(&mut entry.connected) {
            *at = at.saturating_sub(days * DAY);
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.permissions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whom a request goes to, if it is one of Meta's two messages to the letter.
fn check_message(body: &Value) -> Result<&str, String> {
    let known = ["messaging_product", "recipient_type", "to", "recipient", "type", "interactive", "template"];
    let fields = body.as_object().ok_or("the body is no JSON object")?;
    if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown parameter '{key}'"));
    }
    if body["messaging_product"] != "whatsapp" || body["recipient_type"] != "individual" {
        return Err("messaging_product must be whatsapp, recipient_type individual".to_owned());
    }
    match body["type"].as_str() {
        Some("interactive") => {
            let message = &body["interactive"];
            let is_good = message["type"] == "call_permission_request"
                && message["action"] == serde_json::json!({ "name": "call_permission_request" })
                && ["header", "footer"].iter().all(|key| message[*key].is_null());
            if !is_good || fields.contains_key("template") {
                return Err("interactive is no call_permission_request".to_owned());
            }
            let text = &message["body"]["text"];
            let length = text.as_str().map_or(0, |text| text.chars().count());
            if !message["body"].is_null() && !(1..=1024).contains(&length) {
                return Err("interactive.body.text must have 1 to 1024 characters".to_owned());
            }
        }
        Some("template") => {
            let template = &body["template"];
            if !template["name"].is_string() || !template["language"]["code"].is_string() {
                return Err("template.name or template.language.code is missing".to_owned());
            }
        }
        _ => return Err("this type of message is not known here".to_owned()),
    }
    // `to` wins.
    body["to"].as_str().or_else(|| body["recipient"].as_str()).ok_or_else(|| "to is missing".to_owned())
}

/// The handle of a test on one person's word.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) meta: Arc<MetaShared>,
    pub(crate) person: Parties,
}
