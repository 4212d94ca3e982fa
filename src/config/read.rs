//! Reads one section of the configuration key by key, and notes what is wrong instead of stopping.

#![expect(clippy::wildcard_enum_match_arm, reason = "any other TOML value is a mistake of the same kind")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use toml::{Table, Value};

use super::environment::Environment;
use super::problem::{Problem, nearest};

/// What all sections share while they are read.
pub(super) struct Notes<'e> {
    pub(super) file: String,
    pub(super) environment: &'e Environment,
    /// Which variable wrote a path.
    pub(super) written_by: BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
    /// Every key that was asked for, with `*` for a route's name and `[]` for an index.
    pub(super) known: BTreeSet<String>,
}

/// One table of the configuration. Keys are taken out of it; what is left at the end is unknown.
pub(super) struct Section<'n, 'e> {
    path: String,
    shape: String,
    table: Table,
    asked: Vec<&'static str>,
    notes: &'n RefCell<Notes<'e>>,
}

impl<'n, 'e> Section<'n, 'e> {
    pub(super) fn root(table: Table, notes: &'n RefCell<Notes<'e>>) -> Self {
        Self { path: String::new(), shape: String::new(), table, asked: Vec::new(), notes }
    }

    /// Notes that a key is missing, if it is. To be called before the key is read.
    pub(super) fn require(&self, key: &'static str, advice: &str) {
        if !self.table.contains_key(key) {
            self.note(key, None, format!("it is missing; {advice}"));
        }
    }

    /// Whether the key is there, with whatever value. To be called before the key is read.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.table.contains_key(key)
    }

    /// Text; `read` makes the value of it or says what would be right.
    pub(super) fn text<T>(&mut self, key: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.value(key, Written::Plain, |value| match value {
            Value::String(text) => read(text),
            _ => Err("give text in quotes".to_owned()),
        })
    }

    /// Text of which a wrong value is not shown.
    pub(super) fn hidden_text<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key, Written::Plain)?;
        match value.as_str().ok_or("give text in quotes".to_owned()).and_then(read) {
            Ok(value) => Some(value),
            Err(advice) => {
                self.note(key, None, advice);
                None
            }
        }
    }

    /// A text, or a list of them.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Vec<&str>) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, Written::PlainOrToml, |value| match value {
            Value::String(text) => read(vec![text]),
            Value::Array(items) => {
                let texts = items.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                read(texts.ok_or("give a list of texts in quotes")?)
            }
            _ => Err("give text in quotes, or a list of them".to_owned()),
        })
    }

    /// Text that the type reads itself; `example` is shown when it cannot.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, example: &str) -> Option<T> {
        self.value(key, Written::Plain, |value| {
            let parsed = value.as_str().and_then(|text| text.parse().ok());
            parsed.ok_or(format!("give something like \"{example}\""))
        })
    }

    /// A list of texts. A problem names the first item that is wrong.
    pub(super) fn list<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        self.value(key, Written::List, |value| {
            let items = value.as_array().ok_or("give a list, such as [\"…\"]")?;
            let text =
                |item: &'_ Value| item.as_str().map(str::to_owned).ok_or("give a list of texts in quotes".to_owned());
            items.iter().map(|item| read(&text(item)?)).collect()
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.value(key, Written::Toml, |value| value.as_bool().ok_or("give true or false".to_owned()))
    }

    pub(super) fn whole(&mut self, key: &'static str, least: u32, most: u32) -> Option<u32> {
        self.value(key, Written::Toml, |value| {
            let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|number| (least..=most).contains(number));
            number.ok_or(format!("give a whole number from {least} to {most}"))
        })
    }

    /// A time above zero with its unit, at most `most`.
    pub(super) fn duration(&mut self, key: &'static str, most: Duration) -> Option<Duration> {
        self.value(key, Written::Plain, |value| {
            let duration = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
            let duration = duration.filter(|duration| !duration.is_zero());
            let duration = duration.ok_or("give a time above zero with its unit, such as \"30s\" or \"4h\"")?;
            if duration > most {
                return Err(format!("give at most \"{}\"", humantime::format_duration(most)));
            }
            Ok(duration)
        })
    }

    /// A time with its unit, at most `most`, or `0`.
    pub(super) fn duration_or_zero(&mut self, key: &'static str, most: Duration) -> Option<Duration> {
        self.value(key, Written::Plain, |value| {
            let duration = match value {
                Value::Integer(0) => Some(Duration::ZERO),
                Value::String(text) if text == "0" => Some(Duration::ZERO),
                value => value.as_str().and_then(|text| humantime::parse_duration(text).ok()),
            };
            let duration = duration.ok_or("give a time with its unit, such as \"30s\" or \"4h\", or 0")?;
            match duration <= most {
                true => Ok(duration),
                false => Err(format!("give at most \"{}\"", humantime::format_duration(most))),
            }
        })
    }

    /// A secret: text, `{ env = "NAME" }` or `{ file = "PATH" }`. Its value is in no message.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<SecretString> {
        let value = self.take(key, Written::Secret)?;
        self.read_secret(key, &value)
    }

    pub(super) fn secrets(&mut self, key: &'static str) -> Option<Vec<SecretString>> {
        match self.take(key, Written::List)? {
            Value::Array(items) => items.iter().map(|item| self.read_secret(key, item)).collect(),
            _ => {
                self.note(key, None, "give a list, such as [{ env = \"WHATSAPP_APP_SECRET\" }]");
                None
            }
        }
    }

    /// A table of names and secrets.
    pub(super) fn secret_table(&mut self, key: &'static str) -> Option<BTreeMap<String, SecretString>> {
        let table = self.take_table(key)?;
        let read = |(name, value): (String, Value)| {
            let place = format!("{key}.{name}");
            Some((name, self.read_secret(&place, &value)?))
        };
        table.into_iter().map(read).collect()
    }

    /// A table of names and texts.
    pub(super) fn text_table(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let table = self.take_table(key)?;
        let read = |(name, value): (String, Value)| match value {
            Value::String(text) => Some((name, text)),
            other => {
                self.note(&format!("{key}.{name}"), Some(shown(&other)), "give text in quotes");
                None
            }
        };
        table.into_iter().map(read).collect()
    }

    /// The table `key`, empty if it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'n, 'e> {
        let table = self.take_table(key).unwrap_or_default();
        let (path, shape) = (self.path_of(key), self.shape_of(key));
        self.below(path, shape, table)
    }

    /// The tables of the list `key`, as in `[[whatsapp.numbers]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'n, 'e>> {
        let items = match self.take(key, Written::Toml) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.note(key, None, "give a list of tables");
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(table) => {
                    let path = format!("{}[{index}]", self.path_of(key));
                    sections.push(self.below(path, format!("{}[]", self.shape_of(key)), table));
                }
                _ => self.note(&format!("{key}[{index}]"), None, "give a table, such as { id = \"…\" }"),
            }
        }
        sections
    }

    /// The names and the tables of one list, as in `tools = ["hangup", { name = "…" }]`.
    pub(super) fn names_and_sections(&mut self, key: &'static str) -> (Vec<String>, Vec<Section<'n, 'e>>) {
        let items = match self.take(key, Written::List) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.note(key, None, "give a list of names and tables");
                Vec::new()
            }
        };
        let (mut names, mut sections) = (Vec::new(), Vec::new());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::String(name) => names.push(name),
                Value::Table(table) => {
                    let path = format!("{}[{index}]", self.path_of(key));
                    sections.push(self.below(path, format!("{}[]", self.shape_of(key)), table));
                }
                _ => self.note(&format!("{key}[{index}]"), None, "give a name in quotes, or a table"),
            }
        }
        (names, sections)
    }

    /// Any value, as JSON; `read` makes something of it or says what would be right.
    pub(super) fn json<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(serde_json::Value) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, Written::Toml, |value| read(json_of(value)?))
    }

    /// The tables inside of the table `key` with their names, as in `[routes.reception]`.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(String, Section<'n, 'e>)> {
        let mut sections = Vec::new();
        for (name, item) in self.take_table(key).unwrap_or_default() {
            let place = format!("{key}.{name}");
            match item {
                Value::Table(table) => {
                    let shape = format!("{}.*", self.shape_of(key));
                    sections.push((name, self.below(self.path_of(&place), shape, table)));
                }
                _ => self.note(&place, None, "give a section, such as [routes.reception]"),
            }
        }
        sections
    }

    /// Notes a problem with a key of this section.
    pub(super) fn note(&self, key: &str, value: Option<String>, advice: impl Into<String>) {
        let path = self.path_of(key);
        let mut notes = self.notes.borrow_mut();
        let (source, place) = match notes.written_by.get(&path) {
            Some(variable) => ("environment".to_owned(), variable.clone()),
            None => (notes.file.clone(), path),
        };
        notes.problems.push(Problem { source, place, value, advice: advice.into() });
    }

    /// Notes every unknown key. Values are not shown: one may be a mistyped secret.
    pub(super) fn end(self) {
        for key in self.table.keys() {
            let advice = match nearest(key, self.asked.iter().copied()) {
                Some(near) => format!("there is no such key; did you mean {}?", self.path_of(near)),
                None => format!("there is no such key; known here: {}", self.asked.join(", ")),
            };
            self.note(key, None, advice);
        }
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        written: Written,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key, written)?;
        match read(&value) {
            Ok(value) => Some(value),
            Err(advice) => {
                self.note(key, Some(shown(&value)), advice);
                None
            }
        }
    }

    fn take_table(&mut self, key: &'static str) -> Option<Table> {
        match self.take(key, Written::Toml)? {
            Value::Table(table) => Some(table),
            _ => {
                self.note(key, None, "give a table");
                None
            }
        }
    }

    /// Takes a value out. One from the environment is text, and is read as `written` says.
    fn take(&mut self, key: &'static str, written: Written) -> Option<Value> {
        self.asked.push(key);
        let shape = self.shape_of(key);
        self.notes.borrow_mut().known.insert(shape);
        let value = self.table.remove(key)?;
        let is_from_environment = self.notes.borrow().written_by.contains_key(&self.path_of(key));
        Some(match value {
            Value::String(text) if is_from_environment => written.value_of(text),
            value => value,
        })
    }

    fn read_secret(&self, place: &str, value: &Value) -> Option<SecretString> {
        let environment = self.notes.borrow().environment;
        match secret_of(value, environment) {
            Ok(secret) => Some(SecretString::from(secret)),
            Err(advice) => {
                self.note(place, None, advice);
                None
            }
        }
    }

    fn below(&self, path: String, shape: String, table: Table) -> Section<'n, 'e> {
        Section { path, shape, table, asked: Vec::new(), notes: self.notes }
    }

    fn path_of(&self, key: &str) -> String {
        joined(&self.path, key)
    }

    fn shape_of(&self, key: &str) -> String {
        joined(&self.shape, key)
    }
}

/// How a value is written when a variable holds it.
#[derive(Clone, Copy)]
enum Written {
    Plain,
    /// Text, or a list in brackets.
    PlainOrToml,
    Toml,
    List,
    Secret,
}

impl Written {
    fn value_of(self, text: String) -> Value {
        let is_toml = match self {
            Self::Plain => false,
            Self::PlainOrToml => text.trim_start().starts_with('['),
            Self::Toml => true,
            // A secret of digits is still text.
            Self::Secret => text.trim_start().starts_with('{'),
            Self::List if text.trim_start().starts_with('[') => true,
            Self::List => return text.split(',').map(str::trim).map(Value::from).collect::<Vec<_>>().into(),
        };
        let literal = is_toml.then(|| format!("value = {text}").parse::<Table>().ok()).flatten();
        literal.and_then(|mut table| table.remove("value")).unwrap_or(Value::String(text))
    }
}

fn secret_of(value: &Value, environment: &Environment) -> Result<String, String> {
    let secret = match value {
        Value::String(text) => text.clone(),
        Value::Table(table) => referred_secret(table, environment)?,
        _ => return Err(HOW_TO_GIVE_A_SECRET.to_owned()),
    };
    let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
    if secret.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    Ok(secret)
}

const HOW_TO_GIVE_A_SECRET: &str = "give text in quotes, { env = \"NAME\" } or { file = \"PATH\" }";

fn referred_secret(table: &Table, environment: &Environment) -> Result<String, String> {
    let mut pairs = table.iter();
    match (pairs.next().map(|(key, value)| (key.as_str(), value)), pairs.next()) {
        (Some(("env", Value::String(name))), None) => {
            let value = environment.get(name).map(str::to_owned);
            value.ok_or_else(|| format!("the environment variable {name} is not set"))
        }
        (Some(("file", Value::String(path))), None) => {
            std::fs::read_to_string(path).map_err(|error| format!("the file {path} cannot be read: {error}"))
        }
        _ => Err(HOW_TO_GIVE_A_SECRET.to_owned()),
    }
}

/// A value as TOML, at most 80 characters, without what an address may hide: user, password and query.
pub(super) fn shown(value: &Value) -> String {
    let cleaned = without_hidden_parts(value).to_string().replace(['\r', '\n'], " ");
    if cleaned.chars().count() <= 80 { cleaned } else { cleaned.chars().take(79).chain(['…']).collect() }
}

fn without_hidden_parts(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(address_to_show(text)),
        Value::Array(items) => Value::Array(items.iter().map(without_hidden_parts).collect()),
        other => other.clone(),
    }
}

fn address_to_show(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = path.split_inclusive(['?', '#']).next().unwrap_or_default();
    let hidden = if path.ends_with(['?', '#']) { "…" } else { "" };
    format!("{scheme}://{host}{path}{hidden}")
}

fn json_of(value: &Value) -> Result<serde_json::Value, String> {
    Ok(match value {
        Value::String(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Boolean(flag) => (*flag).into(),
        Value::Datetime(_) => return Err("JSON has no times: give text in quotes".to_owned()),
        Value::Array(items) => items.iter().map(json_of).collect::<Result<_, _>>()?,
        Value::Table(table) => {
            let member = |(name, value): (&String, &Value)| Ok::<_, String>((name.clone(), json_of(value)?));
            table.iter().map(member).collect::<Result<_, _>>()?
        }
    })
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
