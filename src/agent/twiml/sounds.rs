//! The sounds of a document: prompts by name, files behind URLs, and texts that are spoken, each ready to be played.

use std::collections::HashMap;

use patchcord_media::opus::SampleRate;
use patchcord_media::prompt::Prompt;
use url::Url;

use super::Context;
use super::speech::{Words, spoken};
use super::webhook::load;
use crate::twilio::twiml::{Sound, SoundSource};

/// Sounds of one call that are kept: a menu repeats its own.
const KEPT: usize = 16;

/// Sounds that one verb plays, each as often as it is repeated: as many as of one that is repeated for ever.
const MOST_PLAYED: usize = 1000;

/// What the sounds of one call were made of.
#[derive(Default)]
pub(super) struct Sounds {
    kept: HashMap<String, Prompt>,
}

impl Sounds {
    /// Makes these sounds ready, in their order. The error is for people.
    pub async fn prepare(
        &mut self,
        context: &Context,
        base: Option<&Url>,
        sounds: &[Sound],
    ) -> Result<Vec<Prompt>, String> {
        let mut prompts = Vec::new();
        for sound in sounds {
            let (prompt, times) = match &sound.source {
                SoundSource::Prompt(name) => {
                    let found = context.port.prompts().get(name);
                    let missing = || format!("{} names a prompt that does not exist", context.agent.notation.play());
                    (Some(found.ok_or_else(missing)?), sound.times)
                }
                SoundSource::Silence(length) => (Some(silence()?), length.as_secs().min(600) as u32),
                SoundSource::File(url) => (Some(self.file(context, base, url).await?), sound.times),
                SoundSource::Text { text, voice, language } => {
                    let words = Words { text: text.clone(), voice: voice.clone(), language: language.clone() };
                    (self.text(context, words).await?, sound.times)
                }
            };
            if let Some(prompt) = prompt {
                let room = MOST_PLAYED - prompts.len();
                prompts.extend(std::iter::repeat_n(prompt, room.min(times as usize)));
            }
        }
        Ok(prompts)
    }

    async fn file(&mut self, context: &Context, base: Option<&Url>, text: &str) -> Result<Prompt, String> {
        let url = match base {
            Some(base) => base.join(text),
            None => Url::parse(text),
        };
        let play = context.agent.notation.play();
        let url = url.map_err(|_| format!("{play} has a URL that is none"))?;
        if let Some(prompt) = self.kept.get(url.as_str()) {
            return Ok(prompt.clone());
        }
        let failed = |cause: String| format!("{play}: {cause}");
        let bytes = load(context, &url).await.map_err(|failure| failed(failure.to_string()))?;
        let prompt = context.port.prompts().decode(bytes).await.map_err(|error| failed(error.to_string()))?;
        self.keep(url.into(), &prompt);
        Ok(prompt)
    }

    /// None if texts are passed over.
    async fn text(&mut self, context: &Context, words: Words) -> Result<Option<Prompt>, String> {
        let say = context.agent.notation.say();
        let Some(command) = context.account.as_ref().and_then(|account| account.say_command.as_ref()) else {
            let advice = "set twilio.say_command, or [] to pass it over";
            return Err(format!("{say} needs a program that speaks: {advice}"));
        };
        if command.is_empty() {
            return Ok(None);
        }
        let key = format!("say {} {} {}", words.voice, words.language, words.text);
        if let Some(prompt) = self.kept.get(&key) {
            return Ok(Some(prompt.clone()));
        }
        let failed = |cause: String| format!("{say}: {cause}");
        let bytes = spoken(command, words).await.map_err(failed)?;
        let decoded = context.port.prompts().decode(bytes.into()).await;
        let prompt = decoded.map_err(|error| failed(format!("say_command wrote no sound file: {error}")))?;
        self.keep(key, &prompt);
        Ok(Some(prompt))
    }

    fn keep(&mut self, key: String, prompt: &Prompt) {
        if self.kept.len() >= KEPT {
            self.kept.clear();
        }
        self.kept.insert(key, prompt.clone());
    }
}

fn silence() -> Result<Prompt, String> {
    let second = [0; 8000];
    let made = Prompt::from_pcm(&second, SampleRate::Hz8000);
    made.map_err(|error| format!("<Pause>: {error}"))
}
