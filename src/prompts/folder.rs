//! The prompts folder: the files, their names, and which of them have changed since the last look.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use patchcord_media::prompt::{MAX_FILE_BYTES, Prompt, PromptError};
use tracing::{info, warn};

use super::background::Background;
use super::{BrokenPrompt, EXTENSIONS, Shelf, Shelved, upload};
use crate::telemetry::shown;

/// More files are a music collection, configured by mistake. The excess is ignored and logged.
const FILES_AT_MOST: usize = 1000;

/// The folder as it was at the last look.
pub(super) struct Folder {
    path: PathBuf,
    built_in: HashMap<String, Shelved>,
    /// By file name.
    files: BTreeMap<String, Known>,
}

/// A file that has been read.
struct Known {
    /// Its name, for `prompt:NAME`.
    name: String,
    stamp: Stamp,
    /// The last version that could be decoded.
    prompt: Option<Prompt>,
    /// Why the present version cannot.
    problem: Option<String>,
}

/// A file with the same stamp has the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size_bytes: u64,
}

/// A file that may be a prompt.
struct Found {
    file: String,
    name: String,
    /// Its index in [`EXTENSIONS`].
    rank: usize,
    stamp: Stamp,
}

/// Where changed files are decoded.
pub(super) enum Readers<'a> {
    /// On this many threads, while there are no calls.
    Threads(usize),
    /// One at a time, at low priority.
    Background(&'a Background),
}

impl Folder {
    pub(super) fn new(path: &Path, built_in: HashMap<String, Shelved>) -> Self {
        Self { path: path.to_owned(), built_in, files: BTreeMap::new() }
    }

    /// Writes a file that is decoded already, and removes the others of its name.
    pub(super) fn put(&mut self, name: &str, extension: &str, bytes: &[u8], prompt: Prompt) -> io::Result<()> {
        let file = format!("{name}.{extension}");
        let modified = upload::write(&self.path, &file, bytes)?;
        upload::remove_all_but(&self.path, name, Some(extension))?;
        let stamp = Stamp { modified, size_bytes: bytes.len() as u64 };
        self.take(name, file, stamp, prompt);
        Ok(())
    }

    /// Removes the files of this name.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        upload::remove_all_but(&self.path, name, None)
    }

    /// Loads changed files and gives the prompts. None if the folder cannot be
    /// read at present: then nothing changes. New problems are logged.
    pub(super) fn look(&mut self, readers: &Readers<'_>, earlier: &[BrokenPrompt]) -> Option<Shelf> {
        let mut problems = Vec::new();
        let found = match self.find(&mut problems) {
            Ok(found) => found,
            Err(error) => {
                warn!("cannot read prompts.dir {}, its prompts stay in use: {error}", self.path.display());
                return None;
            }
        };
        self.forget_all_but(&found);
        self.read(found, readers);
        let mut prompts = self.built_in.clone();
        for (file, known) in &self.files {
            if let Some(prompt) = &known.prompt {
                let shelved = Shelved { prompt: prompt.clone(), file: Some(file.clone()) };
                prompts.insert(known.name.clone(), shelved);
            }
            if let Some(sentence) = &known.problem {
                problems.push(BrokenPrompt { file: file.clone(), sentence: sentence.clone() });
            }
        }
        problems.sort_by(|left, right| left.file.cmp(&right.file));
        for problem in problems.iter().filter(|problem| !earlier.contains(problem)) {
            warn!(prompt.file = problem.file, "ignoring the prompt file {}: {}", problem.file, problem.sentence);
        }
        Some(Shelf { prompts, problems })
    }

    /// The files to use, one for each name.
    fn find(&self, problems: &mut Vec<BrokenPrompt>) -> io::Result<Vec<Found>> {
        let entries = match self.path.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let root = self.path.canonicalize()?;
        let mut found = Vec::new();
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            match inspect(&root, &file) {
                Ok(Some(one)) => found.push(one),
                Ok(None) => {}
                Err(sentence) => problems.push(BrokenPrompt { file, sentence }),
            }
        }
        found.sort_by(|left: &Found, right| {
            (&left.name, left.rank, &left.file).cmp(&(&right.name, right.rank, &right.file))
        });
        let mut chosen: Vec<Found> = Vec::new();
        for one in found {
            let sentence = match chosen.last() {
                Some(first) if first.name == one.name => {
                    format!("{} has the same name and is used; remove or rename one of them", first.file)
                }
                _ if chosen.len() == FILES_AT_MOST => format!("a prompts folder has at most {FILES_AT_MOST} files"),
                _ => {
                    chosen.push(one);
                    continue;
                }
            };
            problems.push(BrokenPrompt { file: one.file, sentence });
        }
        Ok(chosen)
    }

    fn forget_all_but(&mut self, found: &[Found]) {
        self.files.retain(|file, known| {
            let stays = found.iter().any(|found| found.file == *file);
            if !stays {
                info!(prompt = known.name, "prompt {:?} no longer uses {file}", known.name);
            }
            stays
        });
    }

    /// Loads new and changed files. If a changed file is broken, its earlier version stays in use.
    fn read(&mut self, found: Vec<Found>, readers: &Readers<'_>) {
        let is_changed = |found: &Found| self.files.get(&found.file).is_none_or(|known| known.stamp != found.stamp);
        let changed: Vec<Found> = found.into_iter().filter(is_changed).collect();
        if changed.is_empty() {
            return;
        }
        for (found, read) in read_all(&self.path, changed, readers) {
            match read {
                Ok(prompt) => self.take(&found.name, found.file, found.stamp, prompt),
                Err(sentence) => {
                    let earlier = self.files.remove(&found.file).and_then(|known| known.prompt);
                    let sentence = match earlier {
                        Some(_) => format!("{sentence}; its earlier version stays in use"),
                        None => sentence,
                    };
                    let known =
                        Known { name: found.name, stamp: found.stamp, prompt: earlier, problem: Some(sentence) };
                    self.files.insert(found.file, known);
                }
            }
        }
    }

    /// Makes this the prompt of its name.
    fn take(&mut self, name: &str, file: String, stamp: Stamp, prompt: Prompt) {
        info!(prompt = name, "prompt {name:?} loaded from {file}, {} long", shown(prompt.duration()));
        for warning in prompt.warnings() {
            let code = warning.code();
            warn!(prompt = name, prompt.file = file, prompt.warning = code, "prompt {name:?} from {file}: {warning}");
        }
        let is_first = self.files.get(&file).is_none_or(|earlier| earlier.prompt.is_none());
        if is_first && self.built_in.contains_key(name) {
            info!(prompt = name, "{file} is used instead of the built-in prompt {name:?}");
        }
        let known = Known { name: name.to_owned(), stamp, prompt: Some(prompt), problem: None };
        self.files.insert(file, known);
    }
}

/// None for anything that is not meant to be a prompt: folders, texts, and hidden files of editors and copy programs.
fn inspect(root: &Path, file: &str) -> Result<Option<Found>, String> {
    let Some((name, extension)) = file.rsplit_once('.').filter(|_| !file.starts_with('.')) else { return Ok(None) };
    let Some(rank) = EXTENSIONS.iter().position(|known| extension.eq_ignore_ascii_case(known)) else { return Ok(None) };
    if !is_name(name) {
        return Err("a prompt's name has letters from a to z, digits, '.', '-' and '_' only; rename it".to_owned());
    }
    let path = root.join(file);
    let real = path.canonicalize().map_err(|error| format!("it cannot be opened: {error}"))?;
    if !real.starts_with(root) {
        return Err("it is a link that leads out of the folder; copy the file itself".to_owned());
    }
    let metadata = real.metadata().map_err(|error| format!("it cannot be opened: {error}"))?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let stamp = Stamp { modified: metadata.modified().ok(), size_bytes: metadata.len() };
    Ok(Some(Found { file: file.to_owned(), name: name.to_owned(), rank, stamp }))
}

/// Excludes paths, options and hidden files.
fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_good)
}

/// Each file with its prompt or its problem. Takes a few seconds for ten minutes of audio.
fn read_all(folder: &Path, files: Vec<Found>, readers: &Readers<'_>) -> Vec<(Found, Result<Prompt, String>)> {
    let threads = match readers {
        Readers::Threads(threads) => (*threads).min(files.len()),
        Readers::Background(background) => {
            return files.into_iter().map(|found| background.run(|| read_one(folder, found))).collect();
        }
    };
    let waiting = Mutex::new(files.into_iter());
    let work = || {
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::iter::from_fn(next).map(|found| read_one(folder, found)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    })
}

fn read_one(folder: &Path, found: Found) -> (Found, Result<Prompt, String>) {
    let prompt = read_bytes(&folder.join(&found.file)).map_err(|error| format!("it cannot be read: {error}")).and_then(
        |bytes| {
            let extension = found.file.rsplit_once('.').map(|(_, extension)| extension);
            Prompt::from_file(&bytes, extension).map_err(|error: PromptError| error.to_string())
        },
    );
    (found, prompt)
}

/// Reads at most one byte more than the limit, because the file may have grown since it was listed.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
