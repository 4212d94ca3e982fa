//! Prompts that stand in for an agent: those of the route, ringback and hold music.

use patchcord_media::prompt::{Prompt, Repeat};
use tracing::warn;

use super::Session;
use crate::agent::AgentTarget;
use crate::call::{Attempt, Input};
use crate::worker::Command;

impl Session {
    pub(super) async fn play_prompts(&mut self, attempt: Attempt) {
        let Some(AgentTarget::Prompts { names, repeat }) = self.targets.get(attempt.number()) else { return };
        let prompts: Vec<Prompt> = names.iter().filter_map(|name| self.prompt(name)).collect();
        let repeat = if *repeat { Repeat::Loop } else { Repeat::Once };
        match prompts.is_empty() {
            true => drop(self.requests.spawn(async { Some(Input::PromptFinished) })),
            false => self.command(Command::StandIn { call: self.context.id.clone(), prompts, repeat }).await,
        }
    }

    pub(super) async fn loop_prompt(&mut self, name: &str) {
        if let Some(prompt) = self.prompt(name) {
            let (call, prompts) = (self.context.id.clone(), vec![prompt]);
            self.command(Command::StandIn { call, prompts, repeat: Repeat::Loop }).await;
        }
    }

    fn prompt(&self, name: &str) -> Option<Prompt> {
        let prompt = self.context.options.prompts.get(name);
        if prompt.is_none() {
            warn!(prompt = name, "the prompt {name:?} is gone; the call goes on without it");
        }
        prompt
    }
}
