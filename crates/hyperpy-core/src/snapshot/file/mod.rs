//! Snapshots as files: one format, its writer and its reader.
//!
//! docs/reference/snapshot-format.md is the specification, and [`format`] has its numbers. [`save`] writes a file at once or not at
//! all; [`SnapshotFile`] reads one that may hold anything: every length is held against the file's before something is
//! allocated, so that what is allocated is at most twice the file's size and one block. [`diff`] tells in what two files differ. Where
//! pages come from and where they go is the caller's ([`PageSource`], [`PageSink`]): memory itself is not known here.

mod diff;
mod error;
mod format;
mod gather;
mod partial;
mod read;
mod value_codec;
mod write;
mod write_back;

use std::io;

pub use self::diff::{Change, Diff, PageRange, about, changes, diff};
pub use self::error::{LoadError, SaveError};
pub use self::format::{PAGE_SIZE, VERSION};
pub use self::read::{Info, SnapshotFile};
pub use self::write::{Compress, save};
use super::value::Value;

/// A place of guest-physical memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// What it is called.
    pub name: Box<str>,
    /// Where it begins: a multiple of [`PAGE_SIZE`].
    pub gpa: u64,
    /// How long it is in bytes: a multiple of [`PAGE_SIZE`], not 0.
    pub len: u64,
    /// What else there is to know of it, such as its kind.
    pub about: Value,
}

/// What a file is written of.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// Who writes: a name and a version.
    pub made_by: &'a str,
    /// When the snapshot was taken: nanoseconds since 1970, UTC.
    pub created_ns: u64,
    /// The version of what the names in `state` mean; the format has one of its own.
    pub schema: u32,
    /// All that is not memory.
    pub state: &'a Value,
    /// Memory, by ascending address; none overlaps another.
    pub regions: &'a [Region],
    /// Its pages.
    pub pages: &'a dyn PageSource,
}

impl std::fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("schema", &self.schema).field("regions", &self.regions).finish_non_exhaustive()
    }
}

/// Where pages come from. They must not change while a file is written. Regions are numbered as in [`Contents::regions`], pages
/// from 0 in each.
pub trait PageSource {
    /// The next pages at or after `from` that may be other than zero: the first one, and how many. None where there are no more. Pages
    /// in between are zero and are not read.
    ///
    /// # Errors
    /// The host's.
    fn next(&self, region: usize, from: u64) -> io::Result<Option<(u64, u64)>>;

    /// Fills `into`, which is of whole pages, from page `first` on.
    ///
    /// # Errors
    /// The host's.
    fn read(&self, region: usize, first: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Where pages go that a file has. What no page is put into is zero.
pub trait PageSink {
    /// Puts `bytes`, which are of whole pages, at page `first` and those after it. No page is put twice; they come in any order.
    ///
    /// # Errors
    /// The host's; it ends [`SnapshotFile::pour`].
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()>;
}

#[cfg(any(test, fuzzing))]
#[path = "file_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "file_test.rs"]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
mod tests;

#[cfg(test)]
#[path = "hostile_test.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::expect_used
)]
mod hostile_tests;

#[cfg(test)]
#[path = "crafted_test.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::expect_used
)]
mod crafted_tests;
