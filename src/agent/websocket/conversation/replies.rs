//! Replies: what the dialect answers by itself, and the results of functions, waiting to be sent.

use std::cell::RefCell;

use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

/// An agent that provokes more than it reads fails.
const MAX_WAITING: usize = 64;

/// The replies that wait; at most [`MAX_WAITING`] messages of the agent are answered at a time.
#[derive(Default)]
pub(super) struct Replies {
    waiting: RefCell<Vec<Message>>,
    came: Notify,
}

impl Replies {
    /// Queues what is written. False if there is no room, and nothing was written.
    pub fn write(&self, write: impl FnOnce(&mut Vec<Message>)) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let has_room = waiting.len() < MAX_WAITING;
        if has_room {
            write(&mut waiting);
            self.came.notify_one();
        }
        has_room
    }

    /// Waits until there may be some.
    pub async fn came(&self) {
        self.came.notified().await;
    }

    pub fn take(&self) -> Vec<Message> {
        self.waiting.take()
    }
}
