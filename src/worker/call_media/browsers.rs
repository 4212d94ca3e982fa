//! The pages of one call: their network ends and legs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::mixer::{self, ParticipantId};
use patchcord_media::source::DEFAULT_MAX_BUFFER;

use super::{CallMedia, Transport};
use crate::agent::BrowserId;
use crate::agent::browser::BrowserLeg;
use crate::browser::token::TokenDigest;
use crate::call::refusal::{Refusal, RefusalCode};

/// Pages at once: an agent, its successor and supervisors.
const MAX_BROWSERS: usize = 8;
/// From our answer to the task that carries the page's audio, which follows at once unless the call changed its mind.
const CLAIMED_WITHIN: Duration = Duration::from_secs(15);

/// The connected and connecting pages.
#[derive(Default)]
pub(super) struct Browsers {
    last_id: Cell<BrowserId>,
    list: RefCell<Vec<Rc<Browser>>>,
}

/// One page.
pub(in crate::worker) struct Browser {
    pub id: BrowserId,
    /// What its later requests must show; None for one that answered our offer, which makes none.
    pub token: Option<TokenDigest>,
    pub transport: Rc<Transport>,
    pub leg: Rc<BrowserLeg>,
    pub answered_at: Instant,
}

impl Browsers {
    pub fn ids(&self) -> Vec<BrowserId> {
        self.list.borrow().iter().map(|browser| browser.id).collect()
    }

    pub fn find(&self, id: BrowserId) -> Option<Rc<Browser>> {
        self.list.borrow().iter().find(|browser| browser.id == id).cloned()
    }
}

impl CallMedia {
    pub(in crate::worker) fn has_room_for_browser(&self) -> bool {
        self.browsers.list.borrow().len() < MAX_BROWSERS
    }

    /// The number of a new page's connection.
    pub(in crate::worker) fn next_browser_id(&self) -> BrowserId {
        self.browsers.last_id.set(self.browsers.last_id.get() + 1);
        self.browsers.last_id.get()
    }

    pub(in crate::worker) fn add_browser(&self, browser: Browser) {
        self.browsers.list.borrow_mut().push(Rc::new(browser));
    }

    /// The page of this number, if the token is the one that it was made with.
    pub(in crate::worker) fn browser_of(&self, id: BrowserId, token: &TokenDigest) -> Option<Rc<Browser>> {
        self.browsers.find(id).filter(|browser| browser.token.as_ref() == Some(token))
    }

    /// Makes room for a participant, which is heard, and hears, once it is attached.
    pub(in crate::worker) fn add_participant(&self, role: mixer::Role) -> Result<ParticipantId, Refusal> {
        if !self.stage.is_accepted.get() {
            let advice = "the caller hears nothing yet: wait until the call is accepted";
            return Err(Refusal::new(RefusalCode::CallNotAccepted, advice));
        }
        let id = self.next_id() as ParticipantId;
        let added = self.bridge.borrow_mut().add_participant(id, role, DEFAULT_MAX_BUFFER);
        added.map_err(|error| Refusal::new(RefusalCode::TooManyGuests, error.to_string()))?;
        Ok(id)
    }

    pub(in crate::worker) fn browser_leg(&self, id: BrowserId) -> Option<Rc<BrowserLeg>> {
        Some(self.browsers.find(id)?.leg.clone())
    }

    /// Closes and forgets a page. Its network end rests before it is used again.
    pub(in crate::worker) fn remove_browser(&self, id: BrowserId, now: Instant) {
        if let Some(leg) = self.browser_leg(id) {
            leg.close(now);
        }
        if let Some(worker) = self.services.worker.upgrade() {
            worker.remove_browser_endpoint(self.call(), id, now);
        }
        self.browsers.list.borrow_mut().retain(|browser| browser.id != id);
    }

    /// Drops pages that the call never dialled.
    pub(super) fn drop_unclaimed_browsers(&self, now: Instant) {
        if self.browsers.list.borrow().is_empty() {
            return;
        }
        let is_unclaimed = |browser: &&Rc<Browser>| {
            !browser.leg.is_claimed() && now.saturating_duration_since(browser.answered_at) >= CLAIMED_WITHIN
        };
        let unclaimed = self.browsers.list.borrow().iter().find(is_unclaimed).cloned();
        if let Some(browser) = unclaimed {
            self.remove_browser(browser.id, now);
        }
    }
}
