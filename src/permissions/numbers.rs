//! Numbers: what Meta's webhooks say of our business numbers, by the number as shown.

use std::collections::HashMap;

use super::Moment;
use super::country::digits;
use super::rules::Rules;
use crate::whatsapp::PhoneNumberId;

/// Numbers that are remembered; what comes beyond them is not.
const MOST_NUMBERS: usize = 10_000;

/// What is known of one business number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberNotes {
    /// Meta's id of it.
    pub phone_number_id: Option<String>,
    /// Until then Meta lets it place no calls, for low quality.
    pub paused_until: Option<Moment>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<String, NumberNotes>);

impl Numbers {
    pub fn new(known: Vec<(String, NumberNotes)>) -> Self {
        Self(known.into_iter().collect())
    }

    /// A webhook of this number shows it so. Gives what is to be stored, if that is news.
    pub fn shown(&mut self, id: &PhoneNumberId, display_phone_number: &str) -> Vec<(String, NumberNotes)> {
        let news = self.note(display_phone_number, |notes| notes.phone_number_id = Some(id.as_str().to_owned()));
        let Some((number, _)) = &news else { return Vec::new() };
        // It had another number before.
        let is_old = |known: &String, notes: &NumberNotes| known != number && is_of(notes, id);
        let old: Vec<String> =
            self.0.iter().filter(|(known, notes)| is_old(known, notes)).map(|(known, _)| known.clone()).collect();
        let old: Vec<_> = old.iter().filter_map(|old| self.note(old, |notes| notes.phone_number_id = None)).collect();
        news.into_iter().chain(old).collect()
    }

    /// Meta has paused its calls. Gives what is to be stored, if that is news.
    pub fn paused(&mut self, display_phone_number: &str, until: Moment) -> Vec<(String, NumberNotes)> {
        let news = self.note(display_phone_number, |notes| notes.paused_until = notes.paused_until.max(Some(until)));
        news.into_iter().collect()
    }

    fn note(&mut self, number: &str, note: impl FnOnce(&mut NumberNotes)) -> Option<(String, NumberNotes)> {
        let number = Some(digits(number)).filter(|digits| (5..=15).contains(&digits.len()))?;
        if self.0.len() >= MOST_NUMBERS && !self.0.contains_key(&number) {
            return None;
        }
        let notes = self.0.entry(number.clone()).or_default();
        let before = notes.clone();
        note(notes);
        (*notes != before).then(|| (number, notes.clone()))
    }

    /// Meta's id of the number that is shown so.
    pub fn id_of(&self, display_phone_number: &str) -> Option<PhoneNumberId> {
        let id = self.0.get(&digits(display_phone_number))?.phone_number_id.as_deref()?;
        PhoneNumberId::parse(id).ok()
    }

    /// How the number is shown, and what is known of it.
    pub fn of(&self, id: &PhoneNumberId) -> Option<(&str, &NumberNotes)> {
        self.0.iter().find(|(_, notes)| is_of(notes, id)).map(|(number, notes)| (number.as_str(), notes))
    }

    /// The limits of the number.
    pub fn rules(&self, id: &PhoneNumberId) -> Rules {
        Rules::of(self.of(id).map(|(number, _)| number))
    }
}

fn is_of(notes: &NumberNotes, id: &PhoneNumberId) -> bool {
    notes.phone_number_id.as_deref() == Some(id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_by_what_webhooks_show_and_a_pause_is_not_shortened() {
        let id = PhoneNumberId::parse("200000000000002").unwrap();
        let mut numbers = Numbers::default();
        assert_eq!(numbers.rules(&id), Rules::USUAL);
        // The pause comes first, of a number that has had no call yet.
        let later = Moment::from(2000);
        assert_eq!(numbers.paused("+44 7700 900199", later).len(), 1);
        assert_eq!(numbers.paused("447700900199", Moment::from(1000)), []);
        assert_eq!(numbers.shown(&id, "447700900199").len(), 1);
        assert_eq!(numbers.shown(&id, "+447700900199"), [], "no news");
        assert_eq!(
            numbers.of(&id).map(|(shown, notes)| (shown, notes.paused_until)),
            Some(("447700900199", Some(later)))
        );
        assert_eq!(numbers.shown(&id, "nonsense"), []);
        let test = PhoneNumberId::parse("7").unwrap();
        numbers.shown(&test, "15550783881");
        assert_eq!(numbers.rules(&test), Rules::TEST_NUMBER);
        assert_eq!(numbers.shown(&test, "447700900111").len(), 2, "the old number is no longer its own");
        assert_eq!(numbers.of(&test).map(|(shown, _)| shown), Some("447700900111"));
    }
}
