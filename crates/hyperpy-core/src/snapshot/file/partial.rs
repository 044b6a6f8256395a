//! A file that is there whole or not at all: written beside its name, made durable, then given it.
//!
//! What a process leaves that is killed meanwhile is called NAME.PID-NUMBER.partial, and nothing reads it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SaveError;

/// What of a name is kept: with the rest it is below the 255 bytes that a name may have.
const NAME: usize = 200;

/// A file that goes away unless it is finished.
#[derive(Debug)]
pub(super) struct Partial {
    pub file: File,
    path: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

pub(super) fn host(doing: &'static str) -> impl FnOnce(io::Error) -> SaveError {
    move |source| SaveError::Host { doing, source }
}

impl Partial {
    /// Begins what is to become `target`. Where that is a link, the file that it leads to is replaced.
    pub fn create(target: &Path) -> Result<Self, SaveError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let target = match fs::canonicalize(target) {
            Ok(target) if !target.is_file() => return Err(SaveError::NotAFile),
            Ok(target) => target,
            Err(_) => target.to_owned(),
        };
        let Some(name) = target.file_name() else { return Err(SaveError::NotAFile) };
        let name = name.as_bytes();
        let name = OsStr::from_bytes(name.get(..NAME).unwrap_or(name));
        loop {
            let mut unique = OsString::from(name);
            unique.push(format!(".{}-{}.partial", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
            let path = target.with_file_name(unique);
            // A guest's memory has secrets: it is for its owner alone.
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { file, path, target, is_finished: false }),
                // Left by a process that had this id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(host("create the file")(source)),
            }
        }
    }

    /// Makes what was written durable, and gives it its name.
    pub fn finish(mut self) -> Result<(), SaveError> {
        self.file.sync_all().map_err(host("make it durable"))?;
        fs::rename(&self.path, &self.target).map_err(host("give it its name"))?;
        self.is_finished = true;
        let folder = self.target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // A file system that knows no such thing for folders.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            done => done.map_err(host("make its name durable")),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_finished {
            // It is in the way of nothing; why it is unfinished is told already.
            let _ = fs::remove_file(&self.path);
        }
    }
}
