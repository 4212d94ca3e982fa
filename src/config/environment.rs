//! The process's environment: every key of the configuration can be set there.
//!
//! `PATCHCORD_MEDIA__PORTS` sets `media.ports`; `PATCHCORD_WHATSAPP__NUMBERS__0__ROUTE` sets the route of the
//! first number. A list is a TOML literal or comma-separated. An empty variable counts as not set.

#![expect(clippy::wildcard_enum_match_arm, reason = "any other TOML value is a mistake of the same kind")]

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::problem::Problem;

const PREFIX: &str = "PATCHCORD_";

/// Names and values of environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not Unicode are left out.
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os();
        pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Names without `PATCHCORD_` that could be keys written with single underscores.
    pub(super) fn single_underscored(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| name.strip_prefix(PREFIX)).filter(|name| !name.contains("__"))
    }

    /// Writes the variables into the table; gives the variable of each path written, and what did not fit.
    pub(super) fn apply(&self, table: &mut Table) -> (BTreeMap<String, String>, Vec<Problem>) {
        let mut written = BTreeMap::new();
        let mut problems = Vec::new();
        for (variable, value) in self.overrides() {
            let segments: Vec<String> =
                variable[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
            match set_in_table(table, &segments, value) {
                Ok(path) => drop(written.insert(path, variable.to_owned())),
                Err(advice) => problems.push(problem(variable, advice)),
            }
        }
        (written, problems)
    }

    /// In the order of their indices, so that `NUMBERS__10` comes after `NUMBERS__9`.
    fn overrides(&self) -> Vec<(&str, &str)> {
        let mut overrides: Vec<(&str, &str)> = self
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, value)| name.starts_with(PREFIX) && name.contains("__") && !value.is_empty())
            .collect();
        overrides.sort_by_key(|(name, _)| name.split("__").map(sort_key).collect::<Vec<_>>());
        overrides
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<Pairs: IntoIterator<Item = (String, String)>>(pairs: Pairs) -> Self {
        Self(pairs.into_iter().collect())
    }
}

fn sort_key(segment: &str) -> (Option<usize>, &str) {
    (segment.parse().ok(), segment)
}

pub(super) fn problem(variable: &str, advice: impl Into<String>) -> Problem {
    Problem { source: "environment".to_owned(), place: variable.to_owned(), value: None, advice: advice.into() }
}

fn set_in_table(table: &mut Table, segments: &[String], value: &str) -> Result<String, String> {
    let [segment, rest @ ..] = segments else {
        return Err("a key is missing after the last two underscores".to_owned());
    };
    if segment.is_empty() {
        return Err("write it as PATCHCORD_SECTION__KEY".to_owned());
    }
    let key = existing_key(table, segment).unwrap_or_else(|| segment.clone());
    if rest.is_empty() {
        table.insert(key.clone(), Value::String(value.to_owned()));
        return Ok(key);
    }
    let empty = if rest[0].parse::<usize>().is_ok() { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
    let path = set_below(table.entry(key.clone()).or_insert(empty), rest, value)?;
    Ok(format!("{key}{path}"))
}

fn set_below(place: &mut Value, segments: &[String], value: &str) -> Result<String, String> {
    match place {
        Value::Table(table) => Ok(format!(".{}", set_in_table(table, segments, value)?)),
        Value::Array(list) => set_in_list(list, segments, value),
        _ => Err("it names a key inside of something that is a plain value".to_owned()),
    }
}

fn set_in_list(list: &mut Vec<Value>, segments: &[String], value: &str) -> Result<String, String> {
    let index: usize = segments[0]
        .parse()
        .map_err(|_| "it names a key of a list: put the index between, as in NUMBERS__0__ROUTE".to_owned())?;
    if index > list.len() {
        return Err(format!("the next free index of this list is {}", list.len()));
    }
    let rest = &segments[1..];
    if index == list.len() {
        list.push(Value::Table(Table::new()));
    }
    if rest.is_empty() {
        list[index] = Value::String(value.to_owned());
        return Ok(format!("[{index}]"));
    }
    Ok(format!("[{index}]{}", set_below(&mut list[index], rest, value)?))
}

/// Names of routes may have capitals and hyphens, which variables cannot.
fn existing_key(table: &Table, segment: &str) -> Option<String> {
    table.keys().find(|key| key.to_lowercase().replace('-', "_") == segment).cloned()
}
