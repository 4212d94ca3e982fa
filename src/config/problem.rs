//! What is wrong with a configuration, one line for each thing.

use std::fmt;

/// Everything that is wrong with a configuration, in the order of its sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// `problems` is not empty.
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error names a problem");
        Self(problems)
    }

    /// The problems, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong: where, the value unless it is or could be a secret, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name, or `environment`.
    pub source: String,
    /// The key's path such as `media.ports`, the variable's name, or a line's number.
    pub place: String,
    /// The value as TOML.
    pub value: Option<String>,
    /// What is wrong with it and what would be right.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.source, self.place)?;
        if let Some(value) = &self.value {
            write!(formatter, " = {value}")?;
        }
        write!(formatter, ": {}", self.advice)
    }
}

/// The known word nearest to a mistyped one, if one is near.
pub(super) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let distances = known.into_iter().map(|word| (distance(&typed, word), word));
    let (distance, word) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + word.chars().count() / 4).then_some(word)
}

/// How many letters must be added, dropped or changed (Levenshtein), on at most 64 letters of each.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_another_word_finds_none() {
        let known = ["listen", "advertise", "ports", "workers", "allow_private"];
        for (typed, found) in [
            ("adverise", Some("advertise")),
            ("Advertise", Some("advertise")),
            ("port", Some("ports")),
            ("allow_privat", Some("allow_private")),
            ("worker", Some("workers")),
            ("recordings", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, known), found, "{typed}");
        }
        assert_eq!(nearest("anything", []), None);
    }
}
