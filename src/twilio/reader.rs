//! Reads XML into a small tree, within bounds, and without a DTD: a document is foreign input.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::twiml::TwimlError;

/// As large as Twilio takes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// `<Response><Gather><Say><prosody>` and one more.
const MAX_DEPTH: usize = 6;
/// A longer document is a bug of the app.
const MAX_ELEMENTS: usize = 500;
const MAX_ATTRIBUTES: usize = 32;

/// One element.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    /// All text inside, that of its children too.
    pub text: String,
}

impl Element {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a document's one root element.
pub(super) fn read(text: &str) -> Result<Element, TwimlError> {
    if text.len() > MAX_BYTES {
        return Err(TwimlError::new("the document is longer than 64 KiB"));
    }
    let mut reader = Reader::from_str(text);
    let mut tree = Tree::default();
    loop {
        match reader
            .read_event()
            .map_err(|error| TwimlError::new(format!("the document is no XML: {}", plain(&error))))?
        {
            Event::Start(start) => tree.open(&start)?,
            Event::Empty(start) => {
                tree.open(&start)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) => tree.write(&text.xml10_content().map_err(not_text)?),
            Event::CData(text) => tree.write(&text.xml10_content().map_err(not_text)?),
            Event::GeneralRef(reference) => tree.write(&resolved(&reference)?),
            Event::DocType(_) => return Err(TwimlError::new("the document has a DTD, which is not read")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return tree.finish(),
        }
    }
}

/// The elements that are open, the root first, and the root once it is closed.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Tree {
    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), TwimlError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(TwimlError::new(format!("the document has more than {MAX_ELEMENTS} elements")));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(TwimlError::new(format!("the document nests deeper than {MAX_DEPTH} elements")));
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(TwimlError::new("the document has more than one root element"));
        }
        let name = std::str::from_utf8(start.name().as_ref()).map_err(not_text)?.to_owned();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let bad = || TwimlError::new(format!("an attribute of <{}> cannot be read", shown(&name)));
            let attribute = attribute.map_err(|_| bad())?;
            let key = std::str::from_utf8(attribute.key.as_ref()).map_err(not_text)?.to_owned();
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| bad())?.into_owned();
            if attributes.len() >= MAX_ATTRIBUTES {
                return Err(bad());
            }
            attributes.push((key, value));
        }
        self.open.push(Element { name, attributes, ..Element::default() });
        Ok(())
    }

    /// The reader has checked that the names match.
    fn close(&mut self) {
        let Some(closed) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(closed),
            None => self.root = Some(closed),
        }
    }

    fn write(&mut self, text: &str) {
        self.open.iter_mut().for_each(|element| element.text.push_str(text));
    }

    fn finish(self) -> Result<Element, TwimlError> {
        match (self.open.last(), self.root) {
            (None, Some(root)) => Ok(root),
            (Some(open), _) => Err(TwimlError::new(format!("<{}> is not closed", shown(&open.name)))),
            (None, None) => Err(TwimlError::new("the document is empty")),
        }
    }
}

/// A character, or one of the five entities of XML.
fn resolved(reference: &BytesRef<'_>) -> Result<String, TwimlError> {
    let unknown = || TwimlError::new("the document has an entity that XML does not define");
    if let Some(character) = reference.resolve_char_ref().map_err(|_| unknown())? {
        return Ok(character.to_string());
    }
    let name = reference.decode().map_err(not_text)?;
    quick_xml::escape::resolve_xml_entity(&name).map(str::to_owned).ok_or_else(unknown)
}

fn not_text(_: impl std::error::Error) -> TwimlError {
    TwimlError::new("the document is not UTF-8")
}

/// The kind of mistake, without what the app has written.
fn plain(error: &quick_xml::Error) -> &'static str {
    match error {
        quick_xml::Error::Syntax(_) => "a tag, comment or section is not closed",
        quick_xml::Error::IllFormed(_) => "its tags do not match",
        quick_xml::Error::InvalidAttr(_) => "an attribute is malformed",
        quick_xml::Error::Escape(_) => "an entity is malformed",
        quick_xml::Error::Io(_) | quick_xml::Error::Encoding(_) | quick_xml::Error::Namespace(_) => "it cannot be read",
    }
}

/// A name that the app has chosen, as it may stand in a log.
pub(crate) fn shown(name: &str) -> String {
    name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_:".contains(*letter)).take(32).collect()
}
