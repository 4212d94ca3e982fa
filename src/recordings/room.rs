//! Room: what is free on the recordings' disk. Below the floor nothing is recorded, so that what else is on the disk, such
//! as the store, can still be written.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks. Within it, a thousand recordings write 6 MB.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the free bytes of a folder's disk are found.
pub(super) type FreeBytes = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// What is free, as it was at the last look.
pub(super) struct Room {
    dir: PathBuf,
    min_free_bytes: u64,
    free_bytes: FreeBytes,
    looked_at: Option<Instant>,
    is_low: bool,
}

impl Room {
    pub(super) fn new(dir: PathBuf, min_free_bytes: u64, free_bytes: FreeBytes) -> Self {
        Self { dir, min_free_bytes, free_bytes, looked_at: None, is_low: false }
    }

    /// An error while less than the floor is free.
    pub(super) fn check(&mut self, now: Instant) -> io::Result<()> {
        if self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY) {
            self.looked_at = Some(now);
            // A disk that does not say it is taken to have room: writing shows.
            self.is_low = (self.free_bytes)(&self.dir).is_ok_and(|free| free < self.min_free_bytes);
        }
        match self.is_low {
            true => Err(io::Error::new(ErrorKind::StorageFull, "less than recordings.min_free is left on the disk")),
            false => Ok(()),
        }
    }
}

/// For us: what is kept for the system's administrator is not counted.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_looked_at_once_a_second_and_may_have_room_again() {
        let looks = Arc::new(std::sync::Mutex::new(vec![200_u64, 99, 100]));
        let left = looks.clone();
        let free: FreeBytes = Arc::new(move |_| Ok(left.lock().unwrap().pop().unwrap()));
        let mut room = Room::new(PathBuf::from("/"), 100, free);
        let began_at = Instant::now();
        let check = |room: &mut Room, ms| room.check(began_at + Duration::from_millis(ms)).is_ok();
        assert!(check(&mut room, 0) && check(&mut room, 999), "exactly the floor is enough");
        assert!(!check(&mut room, 1000) && !check(&mut room, 1999));
        assert!(check(&mut room, 2000));
        assert!(looks.lock().unwrap().is_empty());
    }

    #[test]
    fn the_disk_of_a_folder_has_free_bytes_and_none_that_is_missing() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
        assert!(free_bytes(Path::new("/nonexistent")).is_err());
    }
}
