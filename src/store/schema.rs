//! The file: opening, tables and migrations.

use std::fs::{File, OpenOptions, TryLockError};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tracing::info;

/// Each migration leads from the version of its index to the next. A released migration is never changed.
pub(super) const MIGRATIONS: [&str; 15] = [
    CALLS_AND_EVENTS,
    IDEMPOTENCY_KEYS,
    LISTS_OF_CALLS,
    RECORDINGS,
    ARRIVALS,
    TERMINATIONS,
    AGENTS_OF_CALLS,
    CALLS_OF_CALLER,
    PLACED_CALLS,
    SIGNALING_OF_CALLS,
    PERMISSIONS,
    QUEUED_CALLS,
    USAGE_OF_CALLS,
    STATUS_CALLBACKS,
    UNNAMED_CALLS,
];

/// `calls.position` and `events.position` only grow and are never used twice (AUTOINCREMENT), so they are cursors.
///
/// `deliveries` has pending and dead deliveries; one that succeeded is deleted. `state` is
/// 0 behind another delivery of its lane, 1 next in its lane, 2 dead. A lane is delivered in order; lanes do not wait for
/// each other. Exactly one row of a lane with waiting rows is next, so finding what is due is one step in an index.
const CALLS_AND_EVENTS: &str = "
    CREATE TABLE calls (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        call_id TEXT NOT NULL UNIQUE,
        wacid TEXT,
        phone_number_id TEXT NOT NULL,
        route TEXT NOT NULL,
        caller TEXT NOT NULL,
        client_state TEXT,
        began_at INTEGER NOT NULL,
        accepted_at INTEGER,
        ended_at INTEGER,
        reason TEXT,
        fault TEXT,
        hung_up_by TEXT,
        meta_error_code INTEGER,
        stages TEXT NOT NULL,
        sound TEXT NOT NULL,
        recordings TEXT NOT NULL
    );
    CREATE INDEX calls_unfinished ON calls (position) WHERE ended_at IS NULL;
    CREATE INDEX calls_by_end ON calls (ended_at) WHERE ended_at IS NOT NULL;
    CREATE INDEX calls_by_number ON calls (phone_number_id, position);

    CREATE TABLE events (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        call_id TEXT,
        sequence INTEGER,
        kind TEXT NOT NULL,
        headers TEXT,
        body BLOB NOT NULL,
        stored_at INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX events_of_call ON events (call_id, sequence) WHERE call_id IS NOT NULL;
    CREATE UNIQUE INDEX events_one_ending ON events (call_id) WHERE kind = 'call.ended';
    CREATE INDEX events_by_age ON events (stored_at);

    CREATE TABLE deliveries (
        endpoint TEXT NOT NULL,
        position INTEGER NOT NULL,
        lane TEXT NOT NULL,
        state INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        due_at INTEGER NOT NULL,
        queued_at INTEGER NOT NULL,
        last_error TEXT,
        PRIMARY KEY (endpoint, position)
    ) WITHOUT ROWID;
    CREATE INDEX deliveries_next ON deliveries (endpoint, due_at, position) WHERE state = 1;
    CREATE INDEX deliveries_lane ON deliveries (endpoint, lane, position) WHERE state < 2;
    CREATE INDEX deliveries_dead ON deliveries (position) WHERE state = 2;
    CREATE INDEX deliveries_of_event ON deliveries (position);
";

const IDEMPOTENCY_KEYS: &str = "
    CREATE TABLE idempotency_keys (
        key_id TEXT NOT NULL,
        key TEXT NOT NULL,
        request_digest BLOB NOT NULL,
        status INTEGER,
        body BLOB,
        claimed_at INTEGER NOT NULL,
        PRIMARY KEY (key_id, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);
";

/// Lists use `call_id`, which sorts by the start of the calls and is public.
const LISTS_OF_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN display_phone_number TEXT;
    DROP INDEX calls_by_number;
    CREATE INDEX calls_of_number ON calls (phone_number_id, call_id);
    CREATE INDEX calls_of_route ON calls (route, call_id);
";

/// `finished_at` and all columns after it are null while a recording is in progress.
const RECORDINGS: &str = "
    CREATE TABLE recordings (
        id TEXT PRIMARY KEY,
        call_id TEXT NOT NULL,
        began_at INTEGER NOT NULL,
        finished_at INTEGER,
        duration_ms INTEGER,
        size_bytes INTEGER,
        sha256 TEXT,
        complete INTEGER,
        problem TEXT
    ) WITHOUT ROWID;
    CREATE INDEX recordings_of_call ON recordings (call_id, id);
    CREATE INDEX recordings_by_age ON recordings (began_at);
";

/// Offers of calls with neither an answer nor an end. Meta's ids are stored as digests, because they contain the caller's
/// number.
const ARRIVALS: &str = "
    CREATE TABLE offers (
        call_id TEXT PRIMARY KEY,
        wacid_digest BLOB NOT NULL,
        offer TEXT NOT NULL
    );
    CREATE TABLE seen_calls (
        wacid_digest BLOB PRIMARY KEY,
        seen_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX seen_calls_by_age ON seen_calls (seen_at);
";

/// Ends of calls that Meta has not confirmed yet.
const TERMINATIONS: &str = "
    CREATE TABLE terminations (
        call_id TEXT PRIMARY KEY,
        wacid TEXT NOT NULL,
        phone_number_id TEXT NOT NULL,
        action TEXT NOT NULL,
        began_at INTEGER NOT NULL,
        due_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL
    );
    CREATE INDEX terminations_due ON terminations (due_at);
";

/// `agents` is a JSON list of the names of the queues' agents that had the caller.
const AGENTS_OF_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN agents TEXT NOT NULL DEFAULT '[]';
";

/// For the earlier calls of a caller.
const CALLS_OF_CALLER: &str = "
    CREATE INDEX calls_of_caller ON calls (json_extract(caller, '$.wa_id'), call_id);
";

/// Who placed each call, and the app's tracker of a call that we place.
const PLACED_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN direction TEXT NOT NULL DEFAULT 'user_initiated';
    ALTER TABLE calls ADD COLUMN tracker TEXT;
";

/// Who exchanges each call's messages with Meta.
const SIGNALING_OF_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN signaling TEXT NOT NULL DEFAULT 'graph';
";

/// `ledger` is JSON: the facts of one person at one business number. `changed_at` is when the last one was learned.
const PERMISSIONS: &str = "
    CREATE TABLE permissions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        phone_number_id TEXT NOT NULL,
        wa_id TEXT,
        user_id TEXT,
        ledger TEXT NOT NULL,
        changed_at INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX permissions_of_number ON permissions (phone_number_id, wa_id) WHERE wa_id IS NOT NULL;
    CREATE UNIQUE INDEX permissions_of_user ON permissions (phone_number_id, user_id) WHERE user_id IS NOT NULL;
    CREATE INDEX permissions_by_age ON permissions (changed_at);
    CREATE TABLE business_numbers (
        display_phone_number TEXT PRIMARY KEY,
        phone_number_id TEXT,
        paused_until INTEGER
    ) WITHOUT ROWID;
";

/// Calls that wait to be placed. `urgency` is the negative priority, so that the order of a number's calls is one index,
/// read forwards.
const QUEUED_CALLS: &str = "
    CREATE TABLE queued_calls (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        call_id TEXT NOT NULL UNIQUE,
        phone_number_id TEXT NOT NULL,
        route TEXT NOT NULL,
        callee TEXT NOT NULL,
        tracker TEXT,
        client_state TEXT,
        priority INTEGER NOT NULL,
        urgency INTEGER NOT NULL AS (-priority) STORED,
        queued_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        order_json TEXT NOT NULL
    );
    CREATE INDEX queued_calls_of_number ON queued_calls (phone_number_id, urgency, position);
    CREATE INDEX queued_calls_by_urgency ON queued_calls (urgency, position);
    CREATE INDEX queued_calls_by_expiry ON queued_calls (expires_at);
";

/// `usage` is a JSON list: what each speech model of the call has used.
const USAGE_OF_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN usage TEXT NOT NULL DEFAULT '[]';
";

/// `callback` is JSON: what Twilio's REST API names for one call.
const STATUS_CALLBACKS: &str = "
    CREATE TABLE status_callbacks (
        call_id TEXT PRIMARY KEY,
        callback TEXT NOT NULL,
        named_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX status_callbacks_by_age ON status_callbacks (named_at);
";

/// Whether Meta may have taken a call that ended without a name from it.
const UNNAMED_CALLS: &str = "
    ALTER TABLE calls ADD COLUMN may_be_at_meta INTEGER NOT NULL DEFAULT 0;
";

/// Another connection, such as a backup, may lock the file for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Deadline of the check at the start, which reads some hundred MB a second. A start takes no longer than this.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// Why the store cannot be opened. Each text is one line with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is missing, the disk is full, or permissions are missing.
    #[error("the store {path} cannot be opened: {reason}; check that its folder exists and can be written to")]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// The error of the system or of SQLite.
        reason: String,
    },
    /// A later Patchcord wrote it.
    #[error(
        "the store {path} was written by a newer Patchcord (schema {found}, this one knows {known}): start that \
         version, or set store.path to another file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Not an SQLite file, or a damaged one.
    #[error(
        "the store {path} is damaged ({reason}): move it away together with {path}-wal and {path}-shm, or put a \
         backup in its place, and start again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        reason: String,
    },
    /// Two services would deliver everything twice.
    #[error("the store {path} is in use by another Patchcord: stop it, or set store.path to another file")]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// An open file with the current schema, exclusively ours while `lock` is held.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    pub(super) lock: Lock,
}

/// The lock on the file.
pub(super) struct Lock {
    _beside: File,
    _itself: Option<File>,
}

pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    create_for_us_alone(path).map_err(|error| unavailable(path, &error))?;
    let lock = lock(path)?;
    let mut writer = Connection::open(path).map_err(|error| told(path, &error))?;
    prepare(&mut writer, path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags).map_err(|error| told(path, &error))?;
    reader.busy_timeout(BUSY_TIMEOUT).map_err(|error| told(path, &error))?;
    Ok(Opened { writer, reader, lock })
}

/// Two locks, because one file may have several names. A lock file is beside the target of a symbolic link. The
/// file itself is locked too (`flock`, which does not interact with SQLite's locks), for hard links and bind mounts; except
/// on other systems than Unix, where such a lock would exclude SQLite.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let real = path.canonicalize().map_err(|error| unavailable(path, &error))?;
    let mut name = real.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false);
    let beside = options.open(PathBuf::from(name)).map_err(|error| unavailable(path, &error))?;
    try_lock(path, &beside)?;
    let itself = cfg!(unix).then(|| File::open(&real)).transpose().map_err(|error| unavailable(path, &error))?;
    // Closing any handle of the file would release SQLite's locks on it in this process (POSIX advisory locks belong to
    // the process), so a handle that finds it locked is not closed.
    let itself = itself.map(ManuallyDrop::new);
    if let Some(itself) = &itself {
        try_lock(path, itself)?;
    }
    Ok(Lock { _beside: beside, _itself: itself.map(ManuallyDrop::into_inner) })
}

fn try_lock(path: &Path, file: &File) -> Result<(), OpenError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse { path: path.to_owned() },
        TryLockError::Error(error) => unavailable(path, &error),
    })
}

/// The file contains phone numbers. SQLite gives `-wal` and `-shm` the permissions of the file.
fn create_for_us_alone(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let told = |error: rusqlite::Error| told(path, &error);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(told)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    connection.pragma_update(None, "journal_mode", "wal").map_err(told)?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(connection, usize::try_from(found).unwrap_or(0)).map_err(told)?;
    // Reads the whole schema, so that damage is found now and not by the first call.
    connection.query_row("SELECT count(*) FROM calls WHERE position < 0", [], |_| Ok(())).map_err(told)?;
    check(connection, path)
}

/// Reads the whole file, so that damage is found now and not by the first call that meets it.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let interrupt = connection.get_interrupt_handle();
    let (done, is_done) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(CHECKED_WITHIN) == Err(mpsc::RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    drop(done);
    // The callback cannot panic.
    let _ = watch.join();
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(OpenError::Damaged { path: path.to_owned(), reason: found.replace('\n', ", ") }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            info!("the store is large: the part that was checked in {CHECKED_WITHIN:?} is intact");
            Ok(())
        }
        Err(error) => Err(told(path, &error)),
    }
}

/// All migrations in one transaction: the file has the old version or the new one, whatever happens.
fn migrate(connection: &mut Connection, found: usize) -> rusqlite::Result<()> {
    let missing = &MIGRATIONS[found.min(MIGRATIONS.len())..];
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    transaction.commit()?;
    if found > 0 {
        info!("the store was migrated from schema {found} to {}", MIGRATIONS.len());
    }
    Ok(())
}

fn told(path: &Path, error: &rusqlite::Error) -> OpenError {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            OpenError::Damaged { path: path.to_owned(), reason }
        }
        // A migration that finds an unexpected table, or misses one, has met a file that is not ours.
        Some(ErrorCode::Unknown) => OpenError::Damaged { path: path.to_owned(), reason },
        _ => OpenError::Unavailable { path: path.to_owned(), reason },
    }
}

fn unavailable(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::Unavailable { path: path.to_owned(), reason: error.to_string() }
}
