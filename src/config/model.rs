//! `[routes.NAME.model]`: how the speech model behaves that is the route's agent.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::read::Section;
use super::tools::read_tools;
use crate::address::is_nearby;
use crate::agent::AgentTarget;
use crate::agent::model::Tools;
use crate::routes::Route;

/// The keys, for every model among the route's agents.
pub(super) struct Model {
    is_given: bool,
    url: Option<Url>,
    key: Option<SecretString>,
    instructions: Option<String>,
    voice: Option<String>,
    greeting: Option<String>,
    tools: Tools,
}

impl Model {
    pub fn read(is_given: bool, mut section: Section<'_, '_>) -> Self {
        let url = section.text("url", read_url);
        let key = section.secret("key");
        // Like a secret it may stand in a file of its own.
        let instructions = section.secret("instructions").map(|text| text.expose_secret().trim().to_owned());
        let voice = section.text("voice", not_empty);
        let greeting = section.text("greeting", not_empty);
        let tools = read_tools(&mut section);
        section.end();
        Self { is_given, url, key, instructions, voice, greeting, tools }
    }

    /// Gives the models among the targets these settings.
    pub fn apply(&self, section: &Section<'_, '_>, targets: &mut [AgentTarget]) {
        let mut found = false;
        for target in targets {
            let AgentTarget::Model(model) = target else { continue };
            found = true;
            if self.key.is_none() && self.url.is_none() {
                section.note(
                    "model.key",
                    None,
                    "the model needs its vendor's API key: give { env = \"MODEL_API_KEY\" }",
                );
            }
            model.url.clone_from(&self.url);
            model.key.clone_from(&self.key);
            model.instructions.clone_from(&self.instructions);
            model.voice.clone_from(&self.voice);
            model.greeting.clone_from(&self.greeting);
            model.tools = self.tools.clone();
        }
        if self.is_given && !found {
            section.note("model", None, "no agent of this route is a model: give agent = \"openai-realtime:MODEL\"");
        }
    }
}

/// Notes each `transfer_to` that names no route.
pub(super) fn check_routes<'r>(root: &Section<'_, '_>, routes: impl Iterator<Item = &'r Route>, names: &[&str]) {
    for route in routes {
        let models = route.targets.iter().filter_map(AgentTarget::model);
        let unknown = |to: &&String| !names.contains(&to.as_str());
        if let Some(to) = models.flat_map(|model| &model.tools.transfer_to).find(unknown) {
            let place = format!("routes.{}.model.transfer_to", route.name);
            root.note(&place, Some(format!("\"{to}\"")), "give names of routes");
        }
    }
}

fn read_url(text: &str) -> Result<Url, String> {
    let advice = "give a WebSocket's address, such as \"wss://proxy.example.com/v1/realtime\"";
    let url = Url::parse(text).map_err(|_| advice.to_owned())?;
    match url.scheme() {
        "wss" => Ok(url),
        "ws" if is_nearby(&url) => Ok(url),
        "ws" => Err("ws:// would carry the call's sound in the clear through the internet: use wss://".to_owned()),
        _ => Err(advice.to_owned()),
    }
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("give a text, or leave it out".to_owned()) } else { Ok(text.to_owned()) }
}
