//! Deeds: what an agent does once the caller has heard its words.

use std::cell::RefCell;
use std::collections::VecDeque;

use serde_json::Value;

use crate::agent::notice::Notice;
use crate::agent::port::AgentPort;
use crate::agent::websocket::ending::Ending;
use crate::call::agent_failure::AgentFailure;
use crate::call::command::CallCommand;

/// The name of the marks behind the words of an agent whose protocol has no marks of its own.
const WORDS_MARK: &str = "\u{1}words";
/// One more is done at once.
const MAX_WAITING: usize = 16;

/// One thing that an agent does behind its words.
pub(super) enum Deed {
    HangUp,
    /// Its connection will end soon, and it is dialled again before that.
    Leave(AgentFailure),
    Command {
        request_id: Value,
        command: CallCommand,
    },
}

/// The deeds that wait, each behind a mark.
#[derive(Default)]
pub(super) struct Deeds {
    /// At most [`MAX_WAITING`].
    waiting: RefCell<VecDeque<Deed>>,
    /// The caller has heard its last words on this connection.
    ending: RefCell<Option<Ending>>,
}

impl Deeds {
    /// Does this when the caller has heard all that the agent has said so far.
    pub fn when_heard(&self, deed: Deed, port: &AgentPort) {
        if self.waiting.borrow().len() == MAX_WAITING {
            return self.perform(deed, port);
        }
        self.waiting.borrow_mut().push_back(deed);
        port.mark(WORDS_MARK.to_owned());
    }

    /// Takes the notice of such a mark, which no agent is told, and does what waits behind it. Says whether it was one.
    pub fn take(&self, notice: &Notice, port: &AgentPort) -> bool {
        let is_ours = matches!(notice, Notice::Mark { name, .. } if name == WORDS_MARK);
        if is_ours {
            let deed = self.waiting.borrow_mut().pop_front();
            deed.into_iter().for_each(|deed| self.perform(deed, port));
        }
        is_ours
    }

    pub fn is_leaving(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// How the conversation ends, if the caller has heard its last words.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.take()
    }

    fn perform(&self, deed: Deed, port: &AgentPort) {
        match deed {
            Deed::HangUp => drop(self.ending.replace(Some(Ending::HungUp))),
            Deed::Leave(failure) => drop(self.ending.replace(Some(Ending::Lost(failure)))),
            Deed::Command { request_id, command } => port.command(request_id, Ok(command)),
        }
    }
}
