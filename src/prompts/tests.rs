//! A prompts folder whose files come, change and go.

use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

#[test]
fn without_files_the_built_in_prompts_are_there() {
    let folder = TestFolder::new("none");
    for path in [folder.0.clone(), folder.0.join("nowhere")] {
        let library = PromptLibrary::load(&path).unwrap();
        let names: Vec<String> = library.list().into_iter().map(|prompt| prompt.name).collect();
        assert_eq!(names, ["beep", "busy", "goodbye", "hold", "ringback"]);
        assert!(library.list().iter().all(|prompt| prompt.built_in && prompt.file.is_none()));
        assert_eq!(library.problems(), []);
        assert!(library.get("nothing").is_none());
    }
}

#[test]
fn files_are_prompts_by_their_names() {
    let folder = TestFolder::new("names");
    for file in ["welcome.wav", "menu.de.WAV", "a-b_c.wav"] {
        folder.write(file, &wav(10));
    }
    // The content decides how it is decoded.
    folder.write("named.mp3", &wav(10));
    folder.write("README.md", b"not meant to be one");
    folder.write(".hidden.wav", b"half copied");
    std::fs::create_dir(folder.0.join("more.wav")).unwrap();
    let library = PromptLibrary::load(&folder.0).unwrap();
    let own: Vec<(String, Option<String>)> =
        library.list().into_iter().filter(|prompt| !prompt.built_in).map(|prompt| (prompt.name, prompt.file)).collect();
    let expected =
        [("a-b_c", "a-b_c.wav"), ("menu.de", "menu.de.WAV"), ("named", "named.mp3"), ("welcome", "welcome.wav")];
    assert_eq!(own, expected.map(|(name, file)| (name.to_owned(), Some(file.to_owned()))));
    assert_eq!(library.get("welcome").unwrap().duration(), Duration::from_millis(240));
    assert_eq!(library.problems(), []);
}

#[test]
fn a_file_takes_the_place_of_a_built_in_prompt() {
    let folder = TestFolder::new("override");
    folder.write("hold.wav", &wav(10));
    let library = PromptLibrary::load(&folder.0).unwrap();
    let hold = library.list().into_iter().find(|prompt| prompt.name == "hold").unwrap();
    assert_eq!((hold.built_in, hold.file.as_deref()), (false, Some("hold.wav")));
    assert_eq!(library.list().len(), 5);
}

#[test]
fn what_cannot_be_a_prompt_is_named_and_the_others_work() {
    let outside = TestFolder::new("outside");
    outside.write("secret.wav", &wav(10));
    let folder = TestFolder::new("problems");
    folder.write("good.wav", &wav(10));
    folder.write("good.mp3", &wav(20));
    folder.write("empty.wav", b"");
    folder.write("text.wav", b"this is no sound");
    folder.write("with space.wav", &wav(10));
    folder.write("größe.wav", &wav(10));
    std::os::unix::fs::symlink(outside.0.join("secret.wav"), folder.0.join("link.wav")).unwrap();
    std::os::unix::fs::symlink(folder.0.join("good.wav"), folder.0.join("inside.wav")).unwrap();
    std::os::unix::fs::symlink(folder.0.join("gone"), folder.0.join("dangling.wav")).unwrap();
    let library = PromptLibrary::load(&folder.0).unwrap();
    assert_eq!(library.get("good").unwrap().duration(), Duration::from_millis(240));
    assert!(library.get("inside").is_some());
    let problems: Vec<String> =
        library.problems().into_iter().map(|broken| format!("{}: {}", broken.file, broken.sentence)).collect();
    let rename = "a prompt's name has letters from a to z, digits, '.', '-' and '_' only; rename it";
    assert_eq!(
        problems,
        [
            "dangling.wav: it cannot be opened: No such file or directory (os error 2)",
            "empty.wav: the file is empty; copy it again",
            "good.mp3: good.wav has the same name and is used; remove or rename one of them",
            "größe.wav: a prompt's name has letters from a to z, digits, '.', '-' and '_' only; rename it",
            "link.wav: it is a link that leads out of the folder; copy the file itself",
            "text.wav: the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus, though the file is named .wav; convert it to \
             one of them",
            &format!("with space.wav: {rename}"),
        ]
    );
    for name in ["link", "empty", "text", "dangling"] {
        assert!(library.get(name).is_none(), "{name}");
    }
}

#[tokio::test]
async fn files_that_come_change_break_and_go_are_followed() {
    let folder = TestFolder::new("changes");
    let library = PromptLibrary::load(&folder.0).unwrap();
    let reader = library.clone();
    let duration = |name: &str| reader.get(name).map(|prompt| prompt.duration().as_millis());

    folder.write("news.wav", &wav(10));
    assert_eq!(duration("news"), None, "nobody has looked yet");
    library.reload_now().await;
    assert_eq!(duration("news"), Some(240));

    folder.write("news.wav", &wav(20));
    library.reload_now().await;
    assert_eq!(duration("news"), Some(440));
    let playing = reader.get("news").unwrap();

    folder.write("news.wav", b"somebody saved the wrong thing");
    for _ in 0..2 {
        library.reload_now().await;
        assert_eq!(duration("news"), Some(440), "the earlier version stays");
        let problems = library.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].sentence.ends_with("; its earlier version stays in use"), "{problems:?}");
    }

    folder.write("news.wav", &wav(30));
    library.reload_now().await;
    assert_eq!((duration("news"), library.problems().len()), (Some(640), 0));

    std::fs::remove_file(folder.0.join("news.wav")).unwrap();
    library.reload_now().await;
    assert_eq!(duration("news"), None);
    assert_eq!(playing.duration().as_millis(), 440, "whoever plays it plays on");
}

#[tokio::test]
async fn a_built_in_prompt_comes_back_when_its_file_goes() {
    let folder = TestFolder::new("back");
    folder.write("busy.wav", &wav(10));
    folder.write("busy.flac", b"no flac");
    let library = PromptLibrary::load(&folder.0).unwrap();
    let busy = |library: &PromptLibrary| library.list().into_iter().find(|prompt| prompt.name == "busy").unwrap();
    assert!(!busy(&library).built_in);
    std::fs::remove_file(folder.0.join("busy.wav")).unwrap();
    library.reload_now().await;
    assert!(busy(&library).built_in, "the broken second file is no prompt");
    assert_eq!(library.problems().len(), 1);
}

#[tokio::test]
async fn an_unchanged_file_is_not_read_again() {
    let folder = TestFolder::new("unchanged");
    folder.write("same.wav", &wav(10));
    let library = PromptLibrary::load(&folder.0).unwrap();
    let before = library.get("same").unwrap();
    library.reload_now().await;
    assert!(std::ptr::eq(before.frames(), library.get("same").unwrap().frames()));
}

#[tokio::test]
async fn what_is_put_is_decoded_once_and_takes_the_place_of_its_namesakes() {
    let folder = TestFolder::new("put");
    folder.write("news.mp3", &wav(10));
    folder.write("news.WAV", &wav(10));
    let library = PromptLibrary::load(&folder.0).unwrap();
    let info = library.put("news", "flac", wav(20).into()).await.unwrap();
    assert_eq!((info.file.as_deref(), info.duration.as_millis()), (Some("news.flac"), 440));
    let files: Vec<_> = folder.0.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["news.flac"]);
    let put = library.get("news").unwrap();
    library.reload_now().await;
    assert!(std::ptr::eq(put.frames(), library.get("news").unwrap().frames()), "a look leaves it as it is");

    let broken = library.put("news", "wav", b"no sound".as_slice().into()).await.unwrap_err();
    assert!(matches!(broken, PutError::Broken(PromptError::UnknownFormat { .. })), "{broken}");
    assert_eq!(library.get("news").unwrap().duration().as_millis(), 440, "nothing has changed");

    library.remove("news").await.unwrap();
    assert!(library.get("news").is_none());
    assert_eq!(folder.0.read_dir().unwrap().count(), 0);
}

#[test]
fn a_file_that_is_put_is_not_read_again() {
    let path = TestFolder::new("put-unread");
    let mut folder = Folder::new(&path.0, HashMap::new());
    // Two frames longer than the file, to tell which of them is in use.
    let prompt = Prompt::from_pcm(&[1000; 12 * 320], patchcord_media::opus::SampleRate::Hz16000).unwrap();
    folder.put("news", "wav", &wav(10), prompt.clone()).unwrap();
    let shelf = folder.look(&Readers::Threads(1), &[]).unwrap();
    assert!(std::ptr::eq(shelf.prompts["news"].prompt.frames(), prompt.frames()));
}

#[test]
fn a_file_that_is_odd_is_used_and_its_warning_is_kept() {
    let folder = TestFolder::new("odd");
    let mut silence = wav(10);
    silence[44..].fill(0);
    folder.write("pause.wav", &silence);
    let library = PromptLibrary::load(&folder.0).unwrap();
    let pause = library.list().into_iter().find(|prompt| prompt.name == "pause").unwrap();
    assert_eq!(pause.warnings, [PromptWarning::Silent]);
    assert_eq!(library.problems(), []);
    assert!(library.list().iter().filter(|prompt| prompt.name != "pause").all(|prompt| prompt.warnings.is_empty()));
}

#[test]
fn routes_lead_to_prompts_that_are_there() {
    let folder = TestFolder::new("routes");
    folder.write("welcome.wav", &wav(10));
    folder.write("broken.wav", b"no sound");
    let library = PromptLibrary::load(&folder.0).unwrap();
    check_routes(&routes("welcome"), &library).unwrap();
    check_routes(&routes("beep"), &library).unwrap();
    let refused = check_routes(&routes("broken"), &library).unwrap_err().to_string();
    assert_eq!(
        refused,
        "routes.reception names prompt:broken, which does not exist: put broken.wav into prompts.dir, or use one of \
         beep, busy, goodbye, hold, ringback, welcome; broken.wav is passed over: the content is not WAV, MP3, FLAC, Ogg \
         Vorbis or Ogg Opus, though the file is named .wav; convert it to one of them"
    );
}

fn routes(prompt: &str) -> BTreeMap<String, Arc<Route>> {
    let config = format!(
        r#"
        [whatsapp]
        verify_token = "word"
        app_secrets = ["secret"]
        [[whatsapp.numbers]]
        phone_number_id = "200000000000002"
        access_token = "token"
        route = "reception"
        [routes.reception]
        agent = "prompt:{prompt}"
        "#
    );
    crate::config::Config::parse(&config, "test.toml", &crate::config::Environment::default()).unwrap().routes
}

/// A temporary folder, deleted on drop.
struct TestFolder(PathBuf);

impl TestFolder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("patchcord-prompts-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Each write is a new version, even on a file system with a coarse clock.
    fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.0.join(file);
        std::fs::write(&path, bytes).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + bytes.len() as u64);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A tone of this many frames.
fn wav(frames: usize) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for index in 0..frames * 320 {
        writer.write_sample(if index / 20 % 2 == 0 { 3000i16 } else { -3000 }).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}
