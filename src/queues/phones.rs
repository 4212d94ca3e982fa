//! Phones in queues: a SIP user is an agent of its queues while one of its phones is registered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{AgentNews, QueuesHandle};
use crate::queue::{AgentName, QueueName, SignIn};

/// Before the user in an agent's name. The id of an API key has no colon.
const PREFIX: &str = "sip-user:";
/// A user whose phones missed too many calls in a row is away. It has no page to come back with, so it is tried again.
const BACK_AFTER: Duration = Duration::from_secs(10 * 60);

/// The agent that a SIP user is.
pub fn agent_of(user: &str) -> AgentName {
    format!("{PREFIX}{user}").into()
}

/// The SIP user that an agent is, if it is one.
pub fn user_of(agent: &AgentName) -> Option<&str> {
    agent.strip_prefix(PREFIX)
}

/// Signs users in and out of their queues until the user agent or the queues end. `registered` has the users with a phone.
pub async fn attend(
    handle: QueuesHandle,
    users: BTreeMap<String, BTreeSet<QueueName>>,
    registered: watch::Receiver<BTreeSet<String>>,
) {
    let mut shifts = JoinSet::new();
    for (user, queues) in users {
        let (handle, mut registered) = (handle.clone(), registered.clone());
        shifts.spawn(async move {
            while registered.wait_for(|users| users.contains(&user)).await.is_ok() {
                if work(&handle, &user, &queues, &mut registered).await.is_none() {
                    return;
                }
            }
        });
    }
    while shifts.join_next().await.is_some() {}
}

/// One shift: as long as a phone is registered. None if the service is stopping.
async fn work(
    handle: &QueuesHandle,
    user: &str,
    queues: &BTreeSet<QueueName>,
    registered: &mut watch::Receiver<BTreeSet<String>>,
) -> Option<()> {
    let agent = agent_of(user);
    let sign_in = SignIn { agent: agent.clone(), queues: queues.clone(), skills: BTreeSet::new() };
    let mut attendance = handle.attend(sign_in).await.ok()?;
    handle.set_available(agent.clone(), true).await.ok()?;
    let mut back_at = None;
    loop {
        let back = async {
            match back_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let is_gone = async { registered.wait_for(|users| !users.contains(user)).await.is_ok() };
        tokio::select! {
            news = attendance.next() => match news? {
                AgentNews::State(state) => {
                    back_at = (state.state == "away").then(|| Instant::now() + BACK_AFTER);
                }
                // The session of the caller rings the phones, and says how it went.
                AgentNews::Ringing(_) | AgentNews::RingStopped { .. } => {}
            },
            () = back => {
                back_at = None;
                handle.set_available(agent.clone(), true).await.ok()?;
            }
            is_gone = is_gone => match is_gone {
                true => return handle.set_available(agent, false).await.ok(),
                false => return None,
            },
        }
    }
}
