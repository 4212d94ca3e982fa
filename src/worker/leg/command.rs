//! What an app asks of a live call, done on its worker, and who learns what came of it.

use std::collections::HashMap;
use std::time::Instant;

use patchcord_media::bridge::PlaybackId;
use patchcord_media::dtmf::Key;
use patchcord_media::gather::Gathered;
use patchcord_media::prompt::{Prompt, Repeat};
use serde_json::{Value, json};

use super::Leg;
use crate::agent::native::ToAgent;
use crate::call::command::{CallCommand, Gather, Owner, Play, Refusal, SendDtmf};
use crate::worker::Report;

/// What was asked and goes on.
#[derive(Default)]
pub(super) struct Asked {
    /// The last number given to a playback or a gather.
    last_id: u64,
    /// One plays, and one more may have its end to tell.
    playbacks: HashMap<PlaybackId, Owner>,
    gather: Option<AskedGather>,
    /// `protect` was asked for.
    protected: bool,
}

#[derive(Clone, Copy)]
struct AskedGather {
    id: u64,
    owner: Owner,
    protected: bool,
}

impl Leg {
    /// Does what a checked command says. The answer holds its ids.
    pub(crate) fn perform(&self, command: CallCommand, owner: Owner) -> Result<Value, Refusal> {
        if !self.accepted.get() {
            return Err(Refusal::new(
                "call_not_accepted",
                "the caller hears nothing yet: wait until the call is accepted",
            ));
        }
        let done = match command {
            CallCommand::Play(play) => self.play(&play, owner),
            CallCommand::StopPlayback => self.stop_playback(),
            CallCommand::Gather(gather) => self.gather(&gather, owner),
            CallCommand::StopGather => self.stop_gather(),
            CallCommand::SendDtmf(SendDtmf { digits }) => self.send_dtmf(&digits),
            CallCommand::Protect => self.protect(true),
            CallCommand::Unprotect => self.protect(false),
            CallCommand::StartRecording
            | CallCommand::PauseRecording
            | CallCommand::ResumeRecording
            | CallCommand::StopRecording => Err(Refusal::new("not_built", "not built yet")),
            CallCommand::Invite(_) | CallCommand::SetRole(_) | CallCommand::Dismiss(_) => {
                Err(Refusal::new("not_built", "not built yet"))
            }
        };
        self.settle();
        done
    }

    fn play(&self, play: &Play, owner: Owner) -> Result<Value, Refusal> {
        let prompts = self.prompts(&play.prompts)?;
        let repeat = if play.repeat { Repeat::Loop } else { Repeat::Once };
        let id = self.next_id();
        self.asked.borrow_mut().playbacks.insert(id, owner);
        self.bridge.borrow_mut().play(id, prompts, repeat, Instant::now());
        Ok(json!({ "playback_id": id }))
    }

    fn stop_playback(&self) -> Result<Value, Refusal> {
        match self.bridge.borrow_mut().stop_playback(Instant::now()) {
            true => Ok(Value::Null),
            false => Err(Refusal::new("nothing_plays", "no prompt is playing")),
        }
    }

    fn gather(&self, gather: &Gather, owner: Owner) -> Result<Value, Refusal> {
        let prompts = self.prompts(&gather.prompts)?;
        // An earlier gather ends first, with its own owner told.
        self.bridge.borrow_mut().stop_gather(Instant::now());
        self.settle();
        let id = self.next_id();
        self.asked.borrow_mut().gather = Some(AskedGather { id, owner, protected: gather.protected });
        self.bridge.borrow_mut().gather(gather.options(), prompts, Instant::now());
        Ok(json!({ "gather_id": id }))
    }

    fn stop_gather(&self) -> Result<Value, Refusal> {
        match self.bridge.borrow_mut().stop_gather(Instant::now()) {
            true => Ok(Value::Null),
            false => Err(Refusal::new("nothing_gathers", "no digits are being gathered")),
        }
    }

    fn send_dtmf(&self, _digits: &str) -> Result<Value, Refusal> {
        Err(Refusal::new("not_built", "not built yet"))
    }

    fn protect(&self, protected: bool) -> Result<Value, Refusal> {
        self.asked.borrow_mut().protected = protected;
        Ok(Value::Null)
    }

    fn prompts(&self, names: &[String]) -> Result<Vec<Prompt>, Refusal> {
        let find = |name: &String| {
            let found = self.about.prompts.get(name).cloned();
            found.ok_or_else(|| Refusal::new("unknown_prompt", format!("there is no prompt named {name:?}")))
        };
        names.iter().map(find).collect()
    }

    fn next_id(&self) -> u64 {
        let mut asked = self.asked.borrow_mut();
        asked.last_id += 1;
        asked.last_id
    }

    pub(super) fn playback_finished(&self, id: PlaybackId, completed: bool) {
        if let Some(owner) = self.asked.borrow_mut().playbacks.remove(&id) {
            self.report(Report::PlaybackFinished { id, owner, completed });
        }
    }

    pub(super) fn gathered(&self, gathered: Gathered) {
        let gather = self.asked.borrow_mut().gather.take();
        if let Some(AskedGather { id, owner, protected }) = gather {
            self.report(Report::Gathered { id, owner, protected, gathered });
        }
    }

    /// While it is protected a key is told only to the owner of the gather that it is for.
    pub(super) fn key_pressed(&self, Key { digit, duration_ms }: Key) {
        let asked = self.asked.borrow();
        let is_protected = asked.protected || asked.gather.is_some_and(|gather| gather.protected);
        let told = |owner| {
            let is_for_owner = asked.gather.is_some_and(|gather| gather.owner == owner);
            (!is_protected || is_for_owner).then_some(digit)
        };
        self.push_message(ToAgent::Dtmf { digit: told(Owner::Agent), duration_ms });
        self.report(Report::Dtmf { digit: told(Owner::App), duration_ms });
    }
}
