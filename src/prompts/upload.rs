//! Files written to the prompts folder, and removed from it, by the API.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use super::EXTENSIONS;

/// Writes a file atomically: first under a hidden name, so that no reader sees half of it. Gives its modification
/// time, as the folder will list it.
pub(super) fn write(dir: &Path, file_name: &str, bytes: &[u8]) -> io::Result<Option<SystemTime>> {
    std::fs::create_dir_all(dir)?;
    let growing = dir.join(format!(".upload-{}", ulid::Ulid::new()));
    let written = || {
        let mut file = std::fs::File::create_new(&growing)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let modified = file.metadata()?.modified().ok();
        std::fs::rename(&growing, dir.join(file_name))?;
        Ok(modified)
    };
    written().inspect_err(|_| {
        // A leftover is hidden and does no harm.
        let _ = std::fs::remove_file(&growing);
    })
}

/// Removes the files of this name except the one with the extension to keep.
pub(super) fn remove_all_but(dir: &Path, name: &str, keep: Option<&str>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some((stem, extension)) = file_name.to_str().and_then(|file_name| file_name.rsplit_once('.')) else {
            continue;
        };
        let is_prompt = EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
        if stem == name && is_prompt && Some(extension) != keep {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
