//! The prompts of the service: the built-in tones, and the WAV files of the prompts folder, each encoded once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use patchcord_media::prompt::{Builtin, Prompt};
use tracing::{info, warn};

use crate::config::route::{AgentTarget, Route};

/// A minute of 48 kHz stereo has 11.5 MB; a prompt is shorter than that.
const FILE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// Refuses routes that lead to a prompt which is not there, with what to do about it.
pub fn check_routes(routes: &BTreeMap<String, Route>, prompts: &HashMap<String, Prompt>) -> anyhow::Result<()> {
    for (name, route) in routes {
        let targets = std::iter::once(&route.agent).chain(&route.fallback);
        let played = targets.flat_map(|target| match target {
            AgentTarget::Prompts(names) => names.as_slice(),
            AgentTarget::WebSocket(_) => &[],
        });
        for prompt in played.chain([&route.ringback, &route.hold]) {
            if !prompts.contains_key(prompt) {
                let mut known: Vec<&str> = prompts.keys().map(String::as_str).collect();
                known.sort_unstable();
                anyhow::bail!(
                    "routes.{name} leads to prompt:{prompt}, which is not there: put {prompt}.wav into prompts.dir, or take \
                     one of {}",
                    known.join(", ")
                );
            }
        }
    }
    Ok(())
}

/// Loads all prompts by name. A broken file is named in the log and the others still work; a folder that does not
/// exist holds no files.
pub fn load(folder: &Path) -> anyhow::Result<HashMap<String, Prompt>> {
    let mut prompts: HashMap<String, Prompt> = HashMap::new();
    for builtin in Builtin::ALL {
        let name = builtin.name();
        let prompt =
            Prompt::builtin(builtin).with_context(|| format!("the built-in prompt {name:?} cannot be made"))?;
        prompts.insert(name.to_owned(), prompt);
    }
    let Ok(files) = folder.read_dir() else { return Ok(prompts) };
    for path in files.flatten().map(|file| file.path()) {
        let is_wav = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wav"));
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|_| is_wav) else { continue };
        match read(&path) {
            Ok(prompt) => {
                info!(prompt = name, "prompt {name:?} is loaded, {:?} long", prompt.duration());
                prompts.insert(name.to_owned(), prompt);
            }
            Err(error) => warn!(prompt = name, "the prompt file {} is passed over: {error:#}", path.display()),
        }
    }
    Ok(prompts)
}

fn read(path: &Path) -> anyhow::Result<Prompt> {
    let size = path.metadata()?.len();
    anyhow::ensure!(size <= FILE_LIMIT_BYTES, "{size} bytes are more than the {FILE_LIMIT_BYTES} a prompt may have");
    Ok(Prompt::from_wav(&std::fs::read(path)?)?)
}
