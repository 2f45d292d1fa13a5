//! Files on disk that a running process reads by itself: which files a path stands for, their bytes and their text.
//!
//! `--gold file:PATH`, `check` and `apply` look for files and take their text in this one way, so that what was checked is what is served. What always holds: what a running process reads
//! by itself is a file ([`read_regular`]): no pipe that nobody writes to is waited for, no device without end is read. A person's command may be given a pipe.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// What record files end with.
pub const RECORD_ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// The files that a path stands for: itself, or those directly in it if it is a directory: by name, with one of the endings. Hidden
/// ones are passed over, and so are folders in it, in which tools keep their own copies.
///
/// # Errors
/// If the path is not there or the directory can't be read.
pub fn files_at(path: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let is_hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ending = file.extension().and_then(|ending| ending.to_str());
        if !is_hidden && ending.is_some_and(|ending| endings.contains(&ending)) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The bytes of a regular file, if they are no more than `most`.
///
/// # Errors
/// If it can't be read, is no file, or is larger.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // A pipe would be waited for until somebody opens its other end.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe or a device; a file would be right"));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

/// Bytes as text, without a byte order mark.
///
/// # Errors
/// The line, from 1, on which it stops being UTF-8.
pub fn text_of(bytes: Vec<u8>) -> Result<String, usize> {
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            if text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8());
            }
            Ok(text)
        }
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            Err(1 + error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count())
        }
    }
}

/// Why a file can't be read or written, in few words.
pub fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied for this user".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory; a file would be right".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "a part of the path is a file, not a directory".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        io::ErrorKind::StorageFull => "no space is left on the device".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_the_files_directly_in_it_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", ".hidden.yaml", "notes.txt", "c.yml", "waypost.toml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir_all(folder.path().join("deeper/x.yaml")).unwrap();
        fs::create_dir_all(folder.path().join("d.yaml")).unwrap();
        let names =
            |files: Vec<PathBuf>| files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>();
        assert_eq!(names(files_at(folder.path(), &RECORD_ENDINGS).unwrap()), ["a.json", "b.yaml", "c.yml"]);
        assert_eq!(names(files_at(&folder.path().join("notes.txt"), &RECORD_ENDINGS).unwrap()), ["notes.txt"]);
        assert_eq!(files_at(&folder.path().join("none"), &RECORD_ENDINGS).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_what_is_a_file_and_not_too_large_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pipe) = (folder.path().join("file"), folder.path().join("pipe"));
        fs::write(&file, "four").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert_eq!(read_regular(&file, 4).unwrap(), b"four");
        let error = |path: &Path, most| why(&read_regular(path, most).unwrap_err());
        assert_eq!(error(&file, 3), "it is larger than 3 bytes");
        assert_eq!(error(&pipe, 3), "it is a pipe or a device; a file would be right");
        assert_eq!(error(Path::new("/dev/zero"), 3), "it is a pipe or a device; a file would be right");
        assert_eq!(error(folder.path(), 3), "it is a directory; a file would be right");
        assert_eq!(error(&folder.path().join("none"), 3), "there is no such file or directory");
    }

    #[test]
    fn text_is_utf_8_with_or_without_a_mark() {
        assert_eq!(text_of(b"\xef\xbb\xbfa: 1".to_vec()).as_deref(), Ok("a: 1"));
        assert_eq!(text_of(b"a: 1\nb: \xff".to_vec()), Err(2));
    }
}
