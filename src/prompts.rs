//! The prompt library: the built-in tones and the sound files of the prompts folder, each encoded once and
//! reloaded when a file changes.

mod folder;
mod background;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use patchcord_media::prompt::{Builtin, Prompt, PromptError, PromptWarning};
use thiserror::Error;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::queue::QueueName;
use crate::queues::QueueSetup;
use crate::routes::Route;
use background::Background;
use folder::{Folder, Readers};

/// Extensions of sound files, in order of precedence for the same name. The content decides how a file is decoded.
pub(crate) const EXTENSIONS: [&str; 6] = ["wav", "flac", "opus", "ogg", "oga", "mp3"];

/// Time between two looks at the folder. A look costs one listing; only changed files are read.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All prompts by name. Clones share them and always see the latest.
///
/// No reader waits for a file: readers get a finished set, which is replaced atomically.
#[derive(Clone)]
pub struct PromptLibrary {
    shelf: Arc<RwLock<Arc<Shelf>>>,
    /// Held for a whole look at the folder, so that looks do not overlap.
    folder: Arc<Mutex<Folder>>,
    background: Background,
}

/// Information about one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptInfo {
    /// Its name, for `prompt:NAME`.
    pub name: String,
    /// Length of one playback.
    pub duration: Duration,
    /// Whether it is a built-in tone; false if a file replaces it.
    pub built_in: bool,
    /// The name of its file in the folder.
    pub file: Option<String>,
    /// Reasons why it may not sound as its author expects.
    pub warnings: Vec<PromptWarning>,
}

/// Why an upload is refused.
#[derive(Debug, Error)]
pub enum PutError {
    /// The file cannot be decoded as a prompt.
    #[error(transparent)]
    Broken(#[from] PromptError),
    /// The folder cannot be changed.
    #[error(transparent)]
    NotWritten(#[from] io::Error),
}

/// Why a sound that was handed in cannot be played.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// It cannot be decoded.
    #[error(transparent)]
    Broken(#[from] PromptError),
    /// The decoder did not come to an end.
    #[error("the sound could not be decoded")]
    Stopped,
}

/// A file of the prompts folder that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPrompt {
    /// Its name in the folder.
    pub file: String,
    /// The problem and what to do about it.
    pub sentence: String,
}

/// The prompts after one look.
#[derive(Default)]
struct Shelf {
    prompts: HashMap<String, Shelved>,
    problems: Vec<BrokenPrompt>,
}

#[derive(Clone)]
struct Shelved {
    prompt: Prompt,
    /// None for a built-in one.
    file: Option<String>,
}

impl PromptLibrary {
    /// Generates the built-in prompts and loads the folder's files, on all cores. A broken file is logged and the
    /// others still work; a folder that does not exist counts as empty.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let mut prompts = HashMap::new();
        for builtin in Builtin::ALL {
            let name = builtin.name();
            let prompt =
                Prompt::builtin(builtin).with_context(|| format!("the built-in prompt {name:?} cannot be made"))?;
            prompts.insert(name.to_owned(), Shelved { prompt, file: None });
        }
        // There are no calls yet, and the start waits for it.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let library = Self {
            folder: Arc::new(Mutex::new(Folder::new(folder, prompts))),
            shelf: Arc::new(RwLock::new(Arc::new(Shelf::default()))),
            background: Background::default(),
        };
        library.look(&Readers::Threads(cores));
        Ok(library)
    }

    /// The current prompt of this name.
    pub fn get(&self, name: &str) -> Option<Prompt> {
        self.shelf().prompts.get(name).map(|shelved| shelved.prompt.clone())
    }

    /// All prompts, sorted by name.
    pub fn list(&self) -> Vec<PromptInfo> {
        let info = |(name, shelved): (&String, &Shelved)| PromptInfo {
            name: name.clone(),
            duration: shelved.prompt.duration(),
            built_in: shelved.file.is_none(),
            file: shelved.file.clone(),
            warnings: shelved.prompt.warnings().to_vec(),
        };
        let mut list: Vec<PromptInfo> = self.shelf().prompts.iter().map(info).collect();
        list.sort_by(|left, right| left.name.cmp(&right.name));
        list
    }

    /// The files that cannot be used, sorted by name.
    pub fn problems(&self) -> Vec<BrokenPrompt> {
        self.shelf().problems.clone()
    }

    /// Watches the folder until it is aborted.
    pub async fn watch(self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick completes at once, and the folder has just been loaded.
        looks.tick().await;
        loop {
            looks.tick().await;
            self.reload_now().await;
        }
    }

    /// Looks at the folder now; when it returns, the prompts match its files.
    pub async fn reload_now(&self) {
        let library = self.clone();
        let looked = tokio::task::spawn_blocking(move || library.look(&Readers::Background(&library.background))).await;
        if let Err(error) = looked {
            warn!("cannot list the prompts folder: {error}");
        }
    }

    /// Reads a file that is played once and belongs to no folder, when its turn has come.
    pub async fn decode(&self, bytes: Bytes) -> Result<Prompt, DecodeError> {
        let background = self.background.clone();
        let decoded = tokio::task::spawn_blocking(move || background.run(|| Prompt::from_file(&bytes, None))).await;
        Ok(decoded.map_err(|_| DecodeError::Stopped)??)
    }

    /// Writes a file into the folder, replacing all others of this name. It is decoded once, before anything is
    /// changed; when this returns, the prompt is in use.
    pub async fn put(&self, name: &str, extension: &'static str, bytes: Bytes) -> Result<PromptInfo, PutError> {
        let (library, owned_name) = (self.clone(), name.to_owned());
        let put = move || {
            let prompt = library.background.run(|| Prompt::from_file(&bytes, Some(extension)))?;
            library.change(|folder| folder.put(&owned_name, extension, &bytes, prompt))?;
            Ok::<_, PutError>(())
        };
        tokio::task::spawn_blocking(put).await.map_err(io::Error::other)??;
        let info = self.list().into_iter().find(|prompt| prompt.name == name && !prompt.built_in);
        Ok(info.ok_or_else(|| io::Error::other("the folder did not keep the file"))?)
    }

    /// Deletes the files of this name from the folder.
    pub async fn remove(&self, name: &str) -> io::Result<()> {
        let (library, name) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || library.change(|folder| folder.remove(&name)))
            .await
            .map_err(io::Error::other)?
    }

    fn change(&self, change: impl FnOnce(&mut Folder) -> io::Result<()>) -> io::Result<()> {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut folder)?;
        self.look_at(&mut folder, &Readers::Background(&self.background));
        Ok(())
    }

    fn look(&self, readers: &Readers<'_>) {
        // A look that panicked has left the previous state, which is valid.
        self.look_at(&mut self.folder.lock().unwrap_or_else(PoisonError::into_inner), readers);
    }

    fn look_at(&self, folder: &mut Folder, readers: &Readers<'_>) {
        let Some(shelf) = folder.look(readers, &self.shelf().problems) else { return };
        metrics::gauge!("patchcord_prompts_broken").set(shelf.problems.len() as f64);
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shelf);
    }

    /// Locked only to clone the `Arc`.
    fn shelf(&self) -> Arc<Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Refuses routes that name a missing prompt, with a remedy.
pub fn check_routes(routes: &BTreeMap<String, Arc<Route>>, prompts: &PromptLibrary) -> anyhow::Result<()> {
    for (name, route) in routes {
        for prompt in route.prompts() {
            check_prompt(&format!("routes.{name}"), prompt, prompts)?;
        }
    }
    Ok(())
}

/// Fails if a queue's music does not exist.
pub fn check_queues(queues: &BTreeMap<QueueName, QueueSetup>, prompts: &PromptLibrary) -> anyhow::Result<()> {
    queues.iter().try_for_each(|(name, queue)| check_prompt(&format!("queues.{name}"), &queue.room.hold, prompts))
}

fn check_prompt(section: &str, prompt: &str, prompts: &PromptLibrary) -> anyhow::Result<()> {
    if prompts.get(prompt).is_some() {
        return Ok(());
    }
    let known: Vec<String> = prompts.list().into_iter().map(|prompt| prompt.name).collect();
    anyhow::bail!(
        "{section} names prompt:{prompt}, which does not exist: put {prompt}.wav into prompts.dir, or use one of {}{}",
        known.join(", "),
        prompts
            .problems()
            .iter()
            .map(|broken| format!("; {} is passed over: {}", broken.file, broken.sentence))
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests;
