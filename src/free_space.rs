//! Free space: what is left on a disk, against the floor that must stay free there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks. Within it, a thousand recordings write 6 MB.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The free space of one disk, as it was at the last look.
pub struct FreeSpace {
    path: PathBuf,
    min_free_bytes: u64,
    free_bytes: FreeBytes,
    looked_at: Option<Instant>,
    is_low: bool,
}

impl FreeSpace {
    /// Of the disk that holds `path`; it is low while less than `min_free_bytes` is free.
    pub fn new(path: PathBuf, min_free_bytes: u64, free_bytes: FreeBytes) -> Self {
        Self { path, min_free_bytes, free_bytes, looked_at: None, is_low: false }
    }

    /// Whether less than the floor is free. Looks once a second at most.
    pub fn is_low(&mut self, now: Instant) -> bool {
        if self.min_free_bytes > 0 && self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY) {
            self.looked_at = Some(now);
            // A disk that does not report its free space counts as having room: a failed write shows otherwise.
            self.is_low = self.free_bytes.at(&self.path).is_ok_and(|free| free < self.min_free_bytes);
        }
        self.is_low
    }

    /// When the next look is due; None without a floor.
    pub fn look_at(&self) -> Option<Instant> {
        self.looked_at.map(|at| at + LOOK_EVERY)
    }
}

/// How free bytes are found; tests bring a disk of their own.
#[derive(Clone)]
pub struct FreeBytes(Arc<FindFree>);

type FindFree = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;

impl FreeBytes {
    /// Found by this function.
    pub fn from_fn(find: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    fn at(&self, path: &Path) -> io::Result<u64> {
        (self.0)(path)
    }
}

impl Default for FreeBytes {
    /// By the system. What is reserved for its administrator is not counted.
    fn default() -> Self {
        Self::from_fn(|path| {
            let disk = rustix::fs::statvfs(path)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        })
    }
}

impl fmt::Debug for FreeBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeBytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_looked_at_once_a_second_and_may_have_room_again() {
        let looks = Arc::new(std::sync::Mutex::new(vec![200_u64, 99, 100]));
        let left = looks.clone();
        let free = FreeBytes::from_fn(move |_| Ok(left.lock().unwrap().pop().unwrap()));
        let mut space = FreeSpace::new(PathBuf::from("/"), 100, free);
        let began_at = Instant::now();
        let mut is_low = |ms| space.is_low(began_at + Duration::from_millis(ms));
        assert!(!is_low(0) && !is_low(999), "exactly the floor is enough");
        assert!(is_low(1000) && is_low(1999));
        assert!(!is_low(2000));
        assert!(looks.lock().unwrap().is_empty());
    }

    #[test]
    fn without_a_floor_nobody_looks() {
        let free = FreeBytes::from_fn(|_| panic!("nobody asks"));
        let mut space = FreeSpace::new(PathBuf::from("/"), 0, free);
        assert!(!space.is_low(Instant::now()));
        assert_eq!(space.look_at(), None);
    }

    #[test]
    fn the_disk_of_a_folder_has_free_bytes_and_none_that_is_missing() {
        assert!(FreeBytes::default().at(&std::env::temp_dir()).unwrap() > 0);
        assert!(FreeBytes::default().at(Path::new("/nonexistent")).is_err());
    }
}
