//! A snapshot to a file, and C's write and fsync of the same bytes in turn.
//!
//! All pages differ and none is zero: nothing is saved by storing a page once, and all that is done to find out is paid.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use hyperpy_core::snapshot::Value;
use hyperpy_core::snapshot::file::{Compress, Contents, PAGE_SIZE, PageSource, Region, SnapshotFile, save};

use crate::Failure;

// SAFETY: the function has this signature in floor/snapshot_file.c, which build.rs compiles into this crate.
unsafe extern "C" {
    fn snapshot_floor_save(path: *const c_char, bytes: *const u8, len: usize, block: usize, sum: *mut u64) -> c_int;
}

/// What the floor compresses at once: more makes it no faster.
const BLOCK: usize = 256 << 10;
const PAGE: usize = PAGE_SIZE as usize;

/// Seconds of one file.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// hyperpy.
    pub hyperpy: f64,
    /// The C floor.
    pub floor: f64,
}

/// `rounds` rounds, in which each writes a file of `mib` MiB of memory into `folder`; who begins alternates.
///
/// # Errors
/// A file cannot be written, or hyperpy's is not what it was written of.
pub fn compare(folder: &Path, mib: usize, compress: Compress, rounds: usize) -> Result<Vec<Round>, Failure> {
    let memory = Ram(pages(mib << 20));
    let len = u64::try_from(memory.0.len())?;
    let regions = [Region { name: "ram".into(), gpa: 0, len, about: Value::Nothing }];
    let state = Value::Nothing;
    let contents =
        Contents { made_by: "bench", created_ns: 0, schema: 0, state: &state, regions: &regions, pages: &memory };
    let (ours, theirs) = (folder.join("hyperpy.hps"), folder.join("floor.bin"));
    let hyperpy = || seconds(&ours, || Ok(save(&ours, &contents, compress)?));
    let floor = || seconds(&theirs, || floor(&theirs, &memory.0, if compress == Compress::No { 0 } else { BLOCK }));
    let even = Cell::new(false);
    let round = || {
        even.set(!even.get());
        if even.get() {
            Ok::<_, Failure>(Round { hyperpy: hyperpy()?, floor: floor()? })
        } else {
            let floor = floor()?;
            Ok(Round { hyperpy: hyperpy()?, floor })
        }
    };
    let result = round().and_then(|_| (0..rounds).map(|_| round()).collect()); // the first one is the warm-up
    save(&ours, &contents, compress)?;
    let file = SnapshotFile::open(&ours)?;
    file.verify()?;
    if file.info().stored * PAGE_SIZE != len {
        return Err("not every page is in the file".into());
    }
    fs::remove_file(&ours)?;
    fs::remove_file(&theirs)?;
    result
}

/// How long it takes to make a new file.
fn seconds(path: &Path, f: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let began = Instant::now();
    f()?;
    Ok(began.elapsed().as_secs_f64())
}

fn floor(path: &Path, bytes: &[u8], block: usize) -> Result<(), Failure> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut sum = 0;
    // SAFETY: the path ends in a NUL, `bytes` is valid for reads of its length and `sum` for a write, all for the call.
    let result = unsafe { snapshot_floor_save(path.as_ptr(), bytes.as_ptr(), bytes.len(), block, &raw mut sum) };
    std::hint::black_box(sum);
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Memory that is read as a machine's: by copying.
struct Ram(Vec<u8>);

impl PageSource for Ram {
    fn next(&self, _region: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        let pages = self.0.len() as u64 / PAGE_SIZE;
        Ok((from < pages).then(|| (from, pages - from)))
    }

    fn read(&self, _region: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(first * PAGE_SIZE).map_err(io::Error::other)?;
        into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Pages that all differ: one in four is noise, the others are made of a few thousand words, and are about a third when compressed.
fn pages(len: usize) -> Vec<u8> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let words: Vec<u64> = (0..4096).map(|_| next() & 0x0000_00ff_ffff_ffff).collect();
    let mut bytes = Vec::with_capacity(len);
    for page in 0..len / PAGE {
        for _ in 0..PAGE / 8 {
            let number = next();
            let word = words.get(usize::try_from(number % 4096).unwrap_or(0)).copied().unwrap_or(number);
            bytes.extend_from_slice(&if page % 4 == 0 { number } else { word }.to_le_bytes());
        }
    }
    bytes
}
