//! What reading a snapshot's file allocates, whatever it holds. A file, and so a process, of its own: the allocator is the process's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperpy_benches::alloc::{Counting, most_bytes};
use hyperpy_core::snapshot::Value;
use hyperpy_core::snapshot::file::{Compress, Contents, LoadError, PageSource, Region, SnapshotFile, save};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Buffers, and zstd's own memory, which is not counted here.
const FIXED: usize = 384 << 10;

struct Pages(u64);

impl PageSource for Pages {
    fn next(&self, _: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((from < self.0).then_some((from, 1)))
    }
    /// Every second page is zero, so that each other one is a run of its own.
    fn read(&self, _: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        if first.is_multiple_of(2) {
            into[..8].copy_from_slice(&(first + 1).to_le_bytes());
        }
        Ok(())
    }
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hyperpy-bytes-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn written(path: &Path, state: &Value, pages: u64) {
    let len = pages.max(1) * 4096;
    let regions = [Region { name: "ram".into(), gpa: 0, len, about: Value::Nothing }];
    let contents =
        Contents { made_by: "a test", created_ns: 0, schema: 0, state, regions: &regions, pages: &Pages(pages) };
    save(path, &contents, Compress::Zstd).unwrap();
}

fn read(path: &Path) -> Result<(), LoadError> {
    let file = SnapshotFile::open(path)?;
    file.verify()
}

// fault row 27
#[test]
fn test_hostile_file_is_read_in_twice_its_length_of_memory() {
    let folder = folder();
    let path = folder.join("a.hps");
    // The plainest values that there are, and the shortest entries: what takes most beside its bytes in the file.
    let nothings = Value::List(vec![Value::Nothing; 100_000]);
    let names = (0..50_000).map(|number: u32| (format!("{number}").into(), Value::Nothing)).collect();
    let lists = (0..30_000).map(|_| Value::List(vec![Value::Nothing])).collect();
    for (state, pages) in [(nothings, 0), (Value::Map(names), 0), (Value::List(lists), 0), (Value::Nothing, 50_000)] {
        written(&path, &state, pages);
        drop(state);
        let len = fs::metadata(&path).unwrap().len() as usize;
        assert!(len > 2 * FIXED, "{len} bytes do not tell: a buffer is as long");
        let (result, most) = most_bytes(|| read(&path));
        result.unwrap();
        assert!(most <= 2 * len + FIXED, "{most} bytes for {len}");
    }
    // Plain data is read before its checksum is known: until then each length in it may be anything.
    written(&path, &Value::List(vec![Value::List(vec![Value::Bytes(vec![1; 9].into()); 3]); 3]), 8);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] = 0xff;
        fs::write(&path, &bytes).unwrap();
        let began = Instant::now();
        let (_, most) = most_bytes(|| read(&path));
        assert!(most <= 2 * good.len() + FIXED, "{most} bytes, byte {at} changed");
        assert!(began.elapsed() < Duration::from_secs(1), "byte {at} changed");
    }
    fs::remove_dir_all(&folder).unwrap();
}
