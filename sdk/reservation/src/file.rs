//! Files that keep reservations. They are small, and each change replaces the whole file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// Longest file that is read, in bytes: enough for [`REGISTRANTS_MAX`](crate::REGISTRANTS_MAX) registrants.
const LEN_MAX: u64 = 256 << 10;

/// Replaces a file's text. After a crash the file has the old text or the new one, never a mixture. Blocks until the text is on disk.
///
/// # Errors
/// The system's error. The file still has its old text, unless only the folder could not be synced.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads a file's text; `None` when the file does not exist. Blocks.
///
/// # Errors
/// The system's error; `InvalidData` when the file is too long, is not UTF-8, or is not a regular file: opening a pipe could block for
/// ever, and [`replace`] would put a file in the place of a device.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = File::open(path)?;
    let mut text = String::new();
    file.take(LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is longer than 256 KiB"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_read() {
        for path in ["/dev/null", "/"] {
            let error = read(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{path}");
        }
        assert_eq!(read(Path::new("/dev/no-such-file")).unwrap(), None);
    }
}
