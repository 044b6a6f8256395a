//! What can go wrong with a file: with writing it, and with reading one that may hold anything.

use std::io;

use thiserror::Error;

/// A snapshot file could not be written. There is none then, or the one that was there before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The host refused.
    #[error("snapshot cannot be written: {doing}: {source}")]
    Host {
        /// What was done.
        doing: &'static str,
        /// What the host says.
        source: io::Error,
    },
    /// Memory could not be read.
    #[error("snapshot's memory cannot be read: {source}")]
    Pages {
        /// What its owner says.
        source: io::Error,
    },
    /// There is something else by that name: a folder, a device.
    #[error("not a file that can be replaced")]
    NotAFile,
    /// Values inside of values.
    #[error("state is nested too deeply: more than {most} levels")]
    TooDeep {
        /// How deep it may be.
        most: usize,
    },
    /// A name twice in one map.
    #[error("state has a name twice: {name:?}")]
    Twice {
        /// The name.
        name: Box<str>,
    },
    /// A region that is empty, not of whole pages, not in order, overlaps the one before, or wraps.
    #[error("memory region cannot be saved: {name} at {gpa:#x} + {len:#x}")]
    Region {
        /// Its name.
        name: Box<str>,
        /// Where it begins.
        gpa: u64,
        /// Its length.
        len: u64,
    },
}

impl SaveError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Host { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, or save elsewhere",
                io::ErrorKind::FileTooLarge => "raise the limit (`ulimit -f`), or save with compress=\"zstd\"",
                io::ErrorKind::NotFound => "make the folder first",
                _ => "the file is written beside its final name: its folder must be writable",
            },
            Self::Pages { .. } => "the snapshot stays as it is: try again",
            Self::NotAFile => "give the path of a new file, or of one to replace",
            Self::TooDeep { .. } => "let `save` return fewer lists and dicts inside of each other",
            Self::Twice { .. } => "a name is there once",
            Self::Region { .. } => "regions are of whole pages, by ascending address, and do not overlap",
        }
        .into()
    }
}

/// A part of a file, as a message calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The first page.
    Header,
    /// Pages of memory: which block.
    Block(u64),
    /// Plain data.
    Tree,
    /// Which pages are where.
    Runs,
    /// Which blocks are where.
    Blocks,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Block(number) => write!(f, "block {number} of the pages"),
            Self::Tree => f.write_str("plain data"),
            Self::Runs => f.write_str("table of pages"),
            Self::Blocks => f.write_str("table of blocks"),
        }
    }
}

/// A file is no snapshot that can be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The host refused.
    #[error("snapshot cannot be read: {0}")]
    Host(#[source] io::Error),
    /// A folder, a device, a pipe.
    #[error("not a file")]
    NotAFile,
    /// It begins with something else.
    #[error("not a snapshot")]
    NotASnapshot,
    /// It is of a version that does not exist yet.
    #[error("snapshot is of a newer format: version {version}")]
    Newer {
        /// Its version.
        version: u32,
    },
    /// It is shorter than it should be.
    #[error("snapshot is cut off: {len} bytes of {expected}")]
    CutOff {
        /// Its length.
        len: u64,
        /// The length that it says it has.
        expected: u64,
    },
    /// A checksum is wrong.
    #[error("snapshot is damaged: checksum of its {part} is wrong")]
    Checksum {
        /// What it is of.
        part: Part,
    },
    /// The checksum is right and the contents cannot be.
    #[error("snapshot is damaged: its {part} cannot be: {what}")]
    Malformed {
        /// Where.
        part: Part,
        /// What is wrong.
        what: &'static str,
    },
    /// Pages could not be put where they go.
    #[error("snapshot's memory cannot be put in place: {0}")]
    Sink(#[source] io::Error),
}

impl LoadError {
    pub(super) fn malformed(part: Part, what: &'static str) -> Self {
        Self::Malformed { part, what }
    }

    /// Room for so many: a file can be long and have nothing on the disk, and then be longer than memory.
    pub(super) fn room<T>(count: u64) -> Result<Vec<T>, Self> {
        let mut room = Vec::new();
        let is_there = usize::try_from(count).is_ok_and(|count| room.try_reserve_exact(count).is_ok());
        if is_there { Ok(room) } else { Err(Self::Host(io::ErrorKind::OutOfMemory.into())) }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Host(source) if source.kind() == io::ErrorKind::OutOfMemory => {
                "the file is longer than memory".into()
            }
            Self::Host(_) => "check the path and whether it may be read".into(),
            Self::NotAFile | Self::NotASnapshot => "give a file that `Snapshot.save` has written".into(),
            Self::Newer { .. } => format!("this hyperpy reads versions up to {}: use a newer one", super::VERSION),
            Self::CutOff { .. } => {
                "copy it again, or save again: hyperpy itself leaves no half file by this name".into()
            }
            Self::Checksum { .. } | Self::Malformed { .. } => "find a good copy, or take the snapshot again".into(),
            Self::Sink(_) => "see whether the host has memory for this guest".into(),
        }
    }
}
