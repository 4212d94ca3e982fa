//! Recordings on good and bad disks, recovery, and uploads.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use patchcord_media::opus::{FRAME, SILENCE};
use patchcord_media::recorder::{Recorder, measure};
use sha2::{Digest, Sha256};

use super::*;

#[tokio::test]
async fn a_finished_recording_has_its_name_and_its_facts() {
    let folder = Folder::new();
    let (recordings, recovered) = Recordings::start(folder.options()).await.unwrap();
    assert_eq!(recovered, []);
    let (sink, result) = recordings.start_recording(&CallId::generate());
    let id = sink.id().clone();
    let bytes = record(&sink, 100);
    sink.finish(FRAME * 100);
    let result = result.await.unwrap();
    assert_eq!(
        result,
        RecordingResult {
            id: id.clone(),
            file_name: format!("{id}.opus"),
            duration_ms: 2000,
            size_bytes: bytes.len() as u64,
            sha256: sha256(&bytes),
            complete: true,
            problem: None,
        }
    );
    let told = serde_json::json!(result);
    assert_eq!((&told["recording_id"], &told["file_name"]), (&id.as_str().into(), &format!("{id}.opus").into()));
    assert_eq!(told.as_object().unwrap().len(), 7, "{told}");
    assert_eq!(folder.names(), [result.file_name]);
    let path = recordings.path_of(&id);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    recordings.stop(WITHIN).await;
}

#[tokio::test]
async fn a_full_disk_ends_the_recording_and_says_so() {
    let folder = Folder::new();
    let open: OpenFile = Arc::new(|_| File::options().write(true).open("/dev/full"));
    let (recordings, _) = Recordings::start_on(folder.options(), open, FreeBytes::default()).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 500);
    sink.finish(FRAME * 500);
    let result = result.await.unwrap();
    assert_eq!((result.complete, result.problem.as_deref()), (false, Some("the disk is full")));
    assert_eq!((result.size_bytes, result.duration_ms), (0, 0));
    recordings.stop(WITHIN).await;
}

/// The disk fills up while one recording runs.
#[tokio::test]
async fn below_the_floor_what_runs_stops_whole_and_nothing_begins() {
    let folder = Folder::new();
    let free = Arc::new(std::sync::atomic::AtomicU64::new(1000));
    let left = free.clone();
    let options = RecordingsOptions { min_free_bytes: 1000, ..folder.options() };
    let free_bytes = FreeBytes::from_fn(move |_| Ok(left.load(Ordering::Relaxed)));
    let (recordings, _) = Recordings::start_on(options, Arc::new(file::create), free_bytes).await.unwrap();
    let (running, told) = recordings.start_recording(&CallId::generate());
    let bytes = record(&running, 100);
    while running.queue.waiting.load(Ordering::Acquire) > 0 {
        tokio::task::yield_now().await;
    }
    free.store(999, Ordering::Relaxed);
    // Each writer looks once a second.
    let mut refused_in_a_row = 0;
    while refused_in_a_row < WRITERS {
        let (sink, result) = recordings.start_recording(&CallId::generate());
        sink.finish(Duration::ZERO);
        let is_refused = result.await.unwrap().problem.as_deref() == Some(LOW);
        refused_in_a_row = if is_refused { refused_in_a_row + 1 } else { 0 };
    }
    record(&running, 100);
    running.finish(FRAME * 200);
    let told = told.await.unwrap();
    assert_eq!((told.complete, told.problem.as_deref(), told.size_bytes), (false, Some(LOW), bytes.len() as u64));
    assert_eq!(fs::read(recordings.path_of(&told.id)).unwrap(), bytes);
    recordings.stop(WITHIN).await;
}

const LOW: &str = "less than recordings.min_free is left on the disk";

#[tokio::test]
async fn a_folder_that_is_gone_ends_only_the_recordings_that_begin_then() {
    let folder = Folder::new();
    let (recordings, _) = Recordings::start(folder.options()).await.unwrap();
    fs::remove_dir(&folder.path).unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 100);
    sink.finish(FRAME * 100);
    let result = result.await.unwrap();
    assert_eq!((result.complete, result.problem.as_deref()), (false, Some("the recordings folder is gone")));

    fs::create_dir(&folder.path).unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 100);
    sink.finish(FRAME * 100);
    assert!(result.await.unwrap().complete);
    recordings.stop(WITHIN).await;
}

/// The disk is a pipe: stuck until it is read.
#[tokio::test]
async fn a_stuck_disk_holds_nobody_up_and_costs_whole_pages() {
    let folder = Folder::new();
    let (mut disk, end) = io::pipe().unwrap();
    let end = File::from(std::os::fd::OwnedFd::from(end));
    let open: OpenFile = Arc::new(move |_| end.try_clone());
    let (recordings, _) = Recordings::start_on(folder.options(), open, FreeBytes::default()).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    let page = Bytes::from(vec![0; 16 * 1024]);
    // A pipe takes at most 64 kB, the writer holds one page, and the queue has its bound.
    let most = 4 + 1 + MAX_WAITING_PAGES;
    for _ in 0..most + 10 {
        sink.write(page.clone());
    }
    assert!(sink.queue.dropped.load(Ordering::Acquire) >= 10);
    sink.finish(FRAME);
    let reader = std::thread::spawn(move || io::copy(&mut disk, &mut io::sink()));
    let result = result.await.unwrap();
    assert!(!result.complete);
    // A pipe cannot be synced, so the last failure is reported.
    assert!(result.problem.is_some());
    recordings.stop(WITHIN).await;
    drop(recordings);
    reader.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_sink_that_is_dropped_leaves_a_whole_file() {
    let folder = Folder::new();
    let (recordings, _) = Recordings::start(folder.options()).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 100);
    drop(sink);
    let result = result.await.unwrap();
    assert_eq!((result.complete, result.problem.as_deref()), (false, Some("the recording was broken off")));
    assert_eq!(result.duration_ms, 2000);
    recordings.stop(WITHIN).await;
}

#[tokio::test]
async fn what_is_left_behind_is_closed_at_the_next_start() {
    let folder = Folder::new();
    fs::create_dir(&folder.path).unwrap();
    let whole = file_of(100);
    let (cut, ended, empty) = (RecordingId::generate(), RecordingId::generate(), RecordingId::generate());
    // In the middle of the last page.
    folder.put(&cut.growing_file_name(), &whole[..whole.len() - 40]);
    folder.put(&ended.growing_file_name(), &whole);
    folder.put(&empty.growing_file_name(), &whole[..60]);
    folder.put("notes.txt.part", b"somebody else's");

    let (recordings, mut recovered) = Recordings::start(folder.options()).await.unwrap();
    recovered.sort_by_key(|result| result.complete);
    let [first, second] = recovered.as_slice() else { panic!("{recovered:?}") };
    assert_eq!((&first.id, first.complete), (&cut, false));
    assert_eq!(first.problem.as_deref(), Some("the service ended while this was being recorded"));
    // Two pages of 35 frames, without the pre-skip of 6.5 ms.
    assert_eq!(first.duration_ms, 1393);
    let bytes = fs::read(recordings.path_of(&cut)).unwrap();
    assert_eq!((first.size_bytes, &first.sha256), (bytes.len() as u64, &sha256(&bytes)));
    assert!(whole.starts_with(&bytes));
    assert_eq!(measure(bytes.as_slice()).unwrap().whole_bytes, first.size_bytes);
    assert_eq!((&second.id, second.complete, second.duration_ms), (&ended, true, 2000));
    let mut expected = [cut.file_name(), ended.file_name(), "notes.txt.part".to_owned()];
    expected.sort();
    assert_eq!(folder.names(), expected);
    recordings.stop(WITHIN).await;
}

#[tokio::test]
async fn what_an_earlier_process_closed_is_looked_up_and_what_left_nothing_is_lost() {
    let folder = Folder::new();
    let (recordings, _) = Recordings::start(folder.options()).await.unwrap();
    let (whole, nothing) = (RecordingId::generate(), RecordingId::generate());
    let bytes = file_of(100);
    folder.put(&whole.file_name(), &bytes);
    let found = recordings.look_up(whole.clone()).await;
    assert_eq!((&found.id, found.complete, found.duration_ms), (&whole, true, 2000));
    assert_eq!((found.size_bytes, found.sha256), (bytes.len() as u64, sha256(&bytes)));
    let lost = recordings.look_up(nothing.clone()).await;
    assert_eq!(lost, RecordingResult::lost(nothing));
    assert!(!lost.complete && lost.problem.is_some());
    recordings.stop(WITHIN).await;
}

#[tokio::test]
async fn a_recording_of_a_living_process_is_not_taken_for_left_behind() {
    let folder = Folder::new();
    let (old, _) = Recordings::start(folder.options()).await.unwrap();
    let (sink, result) = old.start_recording(&CallId::generate());
    record(&sink, 100);
    // The same thread has written it by the time this one is finished.
    for _ in 0..WRITERS {
        let (other, written) = old.start_recording(&CallId::generate());
        record(&other, 10);
        other.finish(FRAME * 10);
        written.await.unwrap();
    }
    let (new, recovered) = Recordings::start(folder.options()).await.unwrap();
    assert_eq!(recovered, []);
    sink.finish(FRAME * 100);
    assert!(result.await.unwrap().complete);
    old.stop(WITHIN).await;
    new.stop(WITHIN).await;
}

#[tokio::test]
async fn a_finished_recording_goes_to_the_archive() {
    let folder = Folder::new();
    let store = Arc::new(InMemory::new());
    let archive = Archive::new(store.clone(), "calls/2026");
    let options = RecordingsOptions { upload: Some(archive), keep_local: false, ..folder.options() };
    let (recordings, _) = Recordings::start(options).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    let bytes = record(&sink, 100);
    sink.finish(FRAME * 100);
    let result = result.await.unwrap();
    recordings.stop(WITHIN).await;
    let place = ObjectPath::from(format!("calls/2026/{}", result.file_name));
    assert_eq!(store.get(&place).await.unwrap().bytes().await.unwrap(), bytes);
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_that_was_not_done_is_done_after_the_next_start() {
    let (folder, archive) = (Folder::new(), Folder::new());
    fs::create_dir(&folder.path).unwrap();
    let (waiting, large) = (RecordingId::generate(), RecordingId::generate());
    let bytes = file_of(100);
    let many = vec![7; 20_000_000];
    for (id, bytes) in [(&waiting, &bytes), (&large, &many)] {
        folder.put(&id.file_name(), bytes);
        folder.put(&id.marker_name(), b"");
    }
    // Its file is gone, so there is nothing to upload.
    folder.put(&RecordingId::generate().marker_name(), b"");

    let upload = Some(Archive::in_folder(&archive.path).unwrap());
    let (recordings, _) = Recordings::start(RecordingsOptions { upload, ..folder.options() }).await.unwrap();
    recordings.stop(WITHIN).await;
    let mut expected = [waiting.file_name(), large.file_name()];
    expected.sort();
    assert_eq!(archive.names(), expected);
    assert_eq!(folder.names(), expected);
    assert_eq!(fs::read(archive.path.join(waiting.file_name())).unwrap(), bytes);
    assert_eq!(fs::read(archive.path.join(large.file_name())).unwrap(), many);
}

/// The archive's folder is gone for a while.
#[tokio::test]
async fn an_archive_out_of_reach_is_tried_again_and_the_file_stays() {
    let (folder, archive) = (Folder::new(), Folder::new());
    let upload = Some(Archive::in_folder(&archive.path).unwrap());
    fs::remove_dir(&archive.path).unwrap();
    fs::write(&archive.path, b"in the way").unwrap();
    let options = RecordingsOptions { upload, keep_local: false, ..folder.options() };
    let (recordings, _) = Recordings::start(options.clone()).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 100);
    let id = sink.id().clone();
    sink.finish(FRAME * 100);
    assert!(result.await.unwrap().complete);
    recordings.stop(WITHIN).await;
    assert_eq!(folder.names(), [id.file_name(), id.marker_name()]);

    fs::remove_file(&archive.path).unwrap();
    let (recordings, _) = Recordings::start(options).await.unwrap();
    recordings.stop(WITHIN).await;
    assert_eq!(folder.names(), Vec::<String>::new());
    assert_eq!(archive.names(), [id.file_name()]);
}

/// The archive refuses the oldest and takes all others.
#[tokio::test]
async fn recordings_that_the_archive_refuses_hold_up_no_other() {
    let (folder, archive) = (Folder::new(), Folder::new());
    fs::create_dir(&folder.path).unwrap();
    let upload = Some(Archive::in_folder(&archive.path).unwrap());
    let mut ids: Vec<RecordingId> = (0..8).map(|_| RecordingId::generate()).collect();
    ids.sort();
    let (refused, taken) = (&ids[..7], &ids[7]);
    for id in &ids {
        folder.put(&id.file_name(), b"sound");
        folder.put(&id.marker_name(), b"");
    }
    for id in refused {
        // A file cannot replace a folder that is not empty.
        fs::create_dir_all(archive.path.join(id.file_name()).join("in the way")).unwrap();
    }
    let (recordings, _) = Recordings::start(RecordingsOptions { upload, ..folder.options() }).await.unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let sent = async {
        while folder.path.join(taken.marker_name()).exists() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(WITHIN, sent).await.unwrap();
    assert_eq!(fs::read(archive.path.join(taken.file_name())).unwrap(), b"sound");

    // A new one does not wait for their pause either.
    let (sink, result) = recordings.start_recording(&CallId::generate());
    record(&sink, 100);
    sink.finish(FRAME * 100);
    let new = result.await.unwrap();
    recordings.stop(WITHIN).await;
    assert!(archive.path.join(new.file_name).is_file());
    assert!(refused.iter().all(|id| folder.path.join(id.marker_name()).exists()));
}

#[tokio::test]
async fn what_is_too_old_is_deleted_unless_the_archive_waits_for_it() {
    let folder = Folder::new();
    fs::create_dir(&folder.path).unwrap();
    let (old, new, waiting) = (RecordingId::generate(), RecordingId::generate(), RecordingId::generate());
    for id in [&old, &new, &waiting] {
        folder.put(&id.file_name(), b"sound");
    }
    folder.put(&waiting.marker_name(), b"");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(100 * 3600);
    for id in [&old, &waiting] {
        File::options().write(true).open(folder.path.join(id.file_name())).unwrap().set_modified(long_ago).unwrap();
    }
    let options = RecordingsOptions { max_age: Some(Duration::from_secs(99 * 3600)), ..folder.options() };
    let (recordings, _) = Recordings::start(options).await.unwrap();
    recordings.stop(WITHIN).await;
    let mut expected = [new.file_name(), waiting.file_name(), waiting.marker_name()];
    expected.sort();
    assert_eq!(folder.names(), expected);
}

/// Against a real S3 server: `make interop-s3`.
#[tokio::test]
#[ignore = "needs an S3 server"]
async fn an_s3_server_takes_small_and_large_recordings() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let endpoint = std::env::var("PATCHCORD_TEST_S3").unwrap();
    let toml = format!(
        "[recordings]\nupload = \"s3://recordings/calls\"\nupload_endpoint = \"{endpoint}\"\n\
         upload_access_key = \"key\"\nupload_secret_key = \"secret\"\n"
    );
    let errors = crate::config::Config::parse(&toml, "test", &crate::config::Environment::default()).unwrap_err();
    assert!(!errors.to_string().contains("recordings."), "{errors}");
    let s3 = crate::config::recordings::S3 {
        bucket: "recordings".to_owned(),
        prefix: "calls".to_owned(),
        endpoint: Some(endpoint.parse().unwrap()),
        region: "us-east-1".to_owned(),
        keys: Some(crate::config::recordings::S3Keys {
            access_key: "key".to_owned().into(),
            secret_key: "secret".to_owned().into(),
        }),
    };
    let upload = Some(Archive::from_config(&crate::config::recordings::Upload::S3(s3)).unwrap());
    let folder = Folder::new();
    fs::create_dir(&folder.path).unwrap();
    let large = RecordingId::generate();
    folder.put(&large.file_name(), &vec![7; 20_000_000]);
    folder.put(&large.marker_name(), b"");
    let options = RecordingsOptions { upload, keep_local: false, ..folder.options() };
    let (recordings, _) = Recordings::start(options).await.unwrap();
    let (sink, result) = recordings.start_recording(&CallId::generate());
    let bytes = record(&sink, 100);
    sink.finish(FRAME * 100);
    let small = result.await.unwrap();
    recordings.stop(Duration::from_secs(60)).await;
    assert_eq!(folder.names(), Vec::<String>::new());
    let get = |name: String| reqwest::get(format!("{endpoint}/recordings/calls/{name}"));
    let got = get(small.file_name).await.unwrap();
    assert_eq!(got.headers()["content-type"], "audio/ogg");
    assert_eq!(got.bytes().await.unwrap(), bytes);
    assert_eq!(get(large.file_name()).await.unwrap().bytes().await.unwrap(), vec![7; 20_000_000]);
}

const WITHIN: Duration = Duration::from_secs(20);

/// A temporary folder, not created yet, and deleted on drop.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let name = format!("patchcord-{}-{}", std::process::id(), RecordingId::generate());
        Self { path: std::env::temp_dir().join(name) }
    }

    fn options(&self) -> RecordingsOptions {
        RecordingsOptions { dir: self.path.clone(), upload: None, keep_local: true, max_age: None, min_free_bytes: 0 }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path.join(name), bytes).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let names = self.path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Records this many silent frames; gives the bytes of the file.
fn record(sink: &RecordingSink, frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut recorder = Recorder::new(1);
    let now = Instant::now();
    let mut take = |page: Bytes| {
        bytes.extend_from_slice(&page);
        sink.write(page);
    };
    for frame in 0..frames {
        recorder.agent_frame(frame * 960, &SILENCE, now + FRAME * frame);
        while let Some(page) = recorder.poll_page() {
            take(page);
        }
    }
    recorder.finish().pages.into_iter().for_each(take);
    bytes
}

fn file_of(frames: u32) -> Vec<u8> {
    let (sender, _messages) = std::sync::mpsc::channel();
    let queue = Arc::default();
    let sink = RecordingSink { id: RecordingId::generate(), writer: sender, queue, is_finished: true };
    record(&sink, frames)
}

fn sha256(bytes: &[u8]) -> String {
    file::hex(&Sha256::digest(bytes))
}
