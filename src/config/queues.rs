//! `[queues.NAME]`: where callers wait for people, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::problem::nearest;
use super::read::Section;
use super::sip::Sip;
use crate::agent::{AgentTarget, prompt_name, queue_name, sip_user_name};
use crate::queue::{QueueName, QueueOptions, Skill, Unstaffed};
use crate::queues::{QueueSetup, WaitingRoom};
use crate::routes::Route;

/// All queues by name.
pub type Queues = BTreeMap<QueueName, QueueSetup>;

/// Reads `[queues]`.
pub(super) fn read_all(root: &mut Section<'_, '_>) -> Queues {
    let mut queues = Queues::new();
    for (name, section) in root.named_sections("queues") {
        let queue = read(section);
        match queue_name(&name) {
            Ok(name) => drop(queues.insert(name, queue)),
            Err(advice) => root.note(&format!("queues.{name}"), None, advice),
        }
    }
    queues
}

/// Notes every queue that a route names and that does not exist.
pub(super) fn check_routes<'r>(root: &Section<'_, '_>, routes: impl IntoIterator<Item = &'r Route>, queues: &Queues) {
    for route in routes {
        for (index, queue) in route.targets.iter().map(AgentTarget::queue).enumerate() {
            let Some(queue) = queue.filter(|queue| !queues.contains_key(*queue)) else { continue };
            let key = if index == 0 { "agent" } else { "fallback" };
            let value = format!("\"queue:{queue}\"");
            root.note(&format!("routes.{}.{key}", route.name), Some(value), no_such_queue(queue, queues));
        }
    }
}

/// What is wrong with a queue's name that no section has.
pub(super) fn no_such_queue(name: &str, queues: &Queues) -> String {
    match nearest(name, queues.keys().map(|queue| &**queue)) {
        Some(near) => format!("there is no section [queues.{name}]; did you mean \"{near}\"?"),
        None => format!("there is no section [queues.{name}]"),
    }
}

/// Reads a tag of an agent or a caller.
pub(super) fn skill(text: &str) -> Result<Skill, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    match (1..=64).contains(&text.len()) && is_plain {
        true => Ok(text.into()),
        false => Err("a skill has 1 to 64 letters, digits, '_' or '-'".to_owned()),
    }
}

fn read(mut section: Section<'_, '_>) -> QueueSetup {
    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let options = QueueOptions {
        ring_timeout: section.duration("ring_timeout", 10 * MINUTE).unwrap_or(20 * SECOND),
        wrap_up: section.duration_or_zero("wrap_up", DAY).unwrap_or(10 * SECOND),
        max_waiting: section.whole("max_waiting", 1, 1_000_000).unwrap_or(50) as usize,
        max_wait: section.duration("max_wait", 7 * DAY).unwrap_or(10 * MINUTE),
        unstaffed: section.text("unstaffed", read_unstaffed).unwrap_or_default(),
        sticky_for: section.duration_or_zero("sticky_for", 365 * DAY).unwrap_or(DAY),
        announce_every: section.duration("announce_every", DAY),
        service_level: section.duration("service_level", DAY).unwrap_or(20 * SECOND),
        max_missed: section.whole("max_missed", 1, 1_000_000).unwrap_or(3),
    };
    let skills: Option<Vec<Skill>> = section.list("skills", skill);
    let room = WaitingRoom {
        hold: section.text("hold", prompt_name).unwrap_or_else(|| "hold".to_owned()),
        announce: section.text("announce", prompt_name).unwrap_or_else(|| "position".to_owned()),
        skills: skills.map(BTreeSet::from_iter).unwrap_or_default(),
    };
    let sip_users: Option<Vec<String>> = section.list("sip_users", sip_user_name);
    section.end();
    QueueSetup { options, room, sip_users: sip_users.map(BTreeSet::from_iter).unwrap_or_default() }
}

/// Notes every SIP user of a queue that does not exist.
pub(super) fn check_sip_users(root: &Section<'_, '_>, queues: &Queues, sip: Option<&Sip>) {
    for (name, queue) in queues {
        for user in &queue.sip_users {
            let is_known = sip.is_some_and(|sip| sip.users.iter().any(|known| known.name == *user));
            if !is_known {
                let advice = "no [[sip.users]] has this name";
                root.note(&format!("queues.{name}.sip_users"), Some(format!("\"{user}\"")), advice);
            }
        }
    }
}

fn read_unstaffed(text: &str) -> Result<Unstaffed, String> {
    match text {
        "wait" => Ok(Unstaffed::Wait),
        "overflow" => Ok(Unstaffed::Overflow),
        _ => Err("give \"wait\" or \"overflow\"".to_owned()),
    }
}
