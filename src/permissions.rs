//! Call permissions: who may be called from which business number, and what Meta's limits allow.
//!
//! [`Ledger`] is what is known of one person at one number. It is pure: facts and times in, a standing and verdicts out,
//! and facts in any order give one standing. [`Permissions`] is the shell: it keeps the ledgers in the store, asks Graph,
//! sends requests and publishes events.

mod moment;
pub mod fact;
mod ledger;
pub mod rules;
mod country;
pub mod verdict;
pub mod event;
mod numbers;
pub mod service;
mod request;
#[cfg(test)]
mod tests;

pub use country::Country;
pub use event::PermissionEvent;
pub use fact::{Fact, Source, What};
pub use ledger::{Learned, Ledger, Standing, Status};
pub use moment::Moment;
pub use numbers::NumberNotes;
pub use request::{PermissionRequest, RequestMessage, SentRequest, TemplateMessage};
pub use rules::Rules;
pub use service::{Permissions, PermissionsOptions};

use crate::whatsapp::Party;
use crate::whatsapp::graph::Callee;

/// A person at a business number, as far as they are identified. One of the two ids is there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// The phone number in digits.
    pub wa_id: Option<String>,
    /// Meta's business-scoped user id.
    pub user_id: Option<String>,
}

impl Person {
    /// The person that a webhook names; None if it names nobody.
    pub fn of(party: &Party) -> Option<Self> {
        let person = Self { wa_id: party.wa_id.clone(), user_id: party.user_id.clone() };
        (person != Self::default()).then_some(person)
    }

    /// What Graph is asked with: a phone number where one is known.
    pub fn callee(&self) -> Option<Callee> {
        let by_number = self.wa_id.as_deref().and_then(|digits| Callee::number(digits).ok());
        by_number.or_else(|| Callee::user_id(self.user_id.as_deref()?).ok())
    }
}

impl From<&Callee> for Person {
    fn from(callee: &Callee) -> Self {
        match callee {
            Callee::WaId(digits) => Self { wa_id: Some(digits.clone()), user_id: None },
            Callee::UserId(user_id) => Self { wa_id: None, user_id: Some(user_id.clone()) },
        }
    }
}

impl std::fmt::Debug for Person {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Person(hidden)")
    }
}
