//! Files and their plain data: whatever is read is refused by name or is written again as it was, and takes no more than it says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};

use super::error::LoadError;
use super::format::{BLOCK_ENTRY, FLAG_ZSTD, HEADER, Header, PAGE, RUN, Run, checksum};
use super::value_codec::{self, Decoder, MOST_LEVELS};
use super::*;
use crate::targets::{edited, leaf, near, with};

/// Plain data of any shape, some of it deep.
fn tree(u: &mut Unstructured<'_>, level: usize) -> Result<Value> {
    if level > 70 {
        return Ok(Value::Nothing);
    }
    Ok(match u.int_in_range(0..=7)? {
        0..=2 => Value::List((0..u.int_in_range(0..=3)?).map(|_| tree(u, level + 1)).collect::<Result<_>>()?),
        3 | 4 => {
            let count = u.int_in_range(0..=3)?;
            let entry = |_| Ok((format!("{}", u.int_in_range(0..=9)?).into(), tree(u, level + 1)?));
            Value::Map((0..count).map(entry).collect::<Result<_>>()?)
        }
        _ => leaf(u)?,
    })
}

/// The bytes of a value, if it can be written.
fn encoded(value: &Value) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    value_codec::value(&mut bytes, value, 0).ok().map(|()| bytes)
}

fn decoded(bytes: &[u8]) -> core::result::Result<Value, LoadError> {
    Decoder::new(bytes, bytes.len() as u64).tree(checksum(bytes))
}

/// Levels of a value, and whether a name is twice in a map.
fn levels_and_twice(value: &Value) -> (usize, bool) {
    let of = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(levels_and_twice).fold((0, false), |(levels, twice), (inner, its)| (levels.max(inner), twice || its))
    };
    let (inner, is_twice) = match value {
        Value::List(values) => of(&mut values.iter()),
        Value::Map(entries) => {
            let names: BTreeSet<_> = entries.iter().map(|it| &it.0).collect();
            let (inner, is_twice) = of(&mut entries.iter().map(|it| &it.1));
            (inner, is_twice || names.len() != entries.len())
        }
        _ => (0, false),
    };
    (inner + 1, is_twice)
}

/// Values and bytes of values: there and back, each the other's only form.
pub fn snapshot_value(data: &[u8]) {
    with(data, |u| {
        let value = tree(u, 0)?;
        let (levels, is_twice) = levels_and_twice(&value);
        let bytes = encoded(&value);
        assert_eq!(bytes.is_some(), levels <= MOST_LEVELS && !is_twice);
        let bytes = bytes.unwrap_or_default();
        if !bytes.is_empty() {
            // By its bytes: a number that is none is not its own equal.
            assert_eq!(encoded(&decoded(&bytes).unwrap()).unwrap(), bytes);
        }
        let bytes = edited(u, bytes)?;
        if let Ok(value) = decoded(&bytes) {
            assert_eq!(encoded(&value).unwrap(), bytes, "{value:?}");
        }
        Ok(())
    });
}

/// Two regions, with a few pages of numbers.
struct Few;

impl PageSource for Few {
    fn next(&self, region: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        Ok([(0, 2), (5, 1)].into_iter().find(|it| region == 0 && it.0 >= from))
    }
    fn read(&self, _: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        into.iter_mut().zip(first..).for_each(|(byte, number)| *byte = (number / 64) as u8);
        Ok(())
    }
}

/// Takes pages, each once and where there is a region.
struct Taken<'a> {
    regions: &'a [Region],
    pages: BTreeSet<(usize, u64)>,
}

impl PageSink for Taken<'_> {
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(!bytes.is_empty() && bytes.len().is_multiple_of(PAGE));
        for page in first..first + (bytes.len() / PAGE) as u64 {
            assert!(page < self.regions[region].len / PAGE_SIZE, "a page outside of its region");
            assert!(self.pages.insert((region, page)), "a page is put twice");
        }
        Ok(())
    }
}

fn named(ending: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hyperpy-fuzz-{}.{ending}", std::process::id()))
}

/// A file of this process, which is written over each time and has no name that could be left behind.
fn scratch() -> &'static (PathBuf, File) {
    static SCRATCH: OnceLock<(PathBuf, File)> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let path = named("hps");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        (format!("/proc/self/fd/{}", file.as_raw_fd()).into(), file)
    })
}

/// Two files that are right, one of them compressed.
fn right(is_packed: bool) -> &'static [u8] {
    static RIGHT: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    &RIGHT.get_or_init(|| {
        [Compress::No, Compress::Zstd].map(|compress| {
            let own = named("right");
            let region = |gpa, pages| Region { name: "ram".into(), gpa, len: pages * PAGE_SIZE, about: Value::Nothing };
            let regions = [region(0, 64), region(1 << 20, 4)];
            let state = Value::map([("a", 1_u8.into()), ("b", Value::List(vec![Value::Nothing, "text".into()]))]);
            let contents =
                Contents { made_by: "fuzz", created_ns: 1, schema: 1, state: &state, regions: &regions, pages: &Few };
            save(&own, &contents, compress).unwrap();
            let bytes = std::fs::read(&own).unwrap();
            std::fs::remove_file(own).unwrap();
            bytes
        })
    })[usize::from(is_packed)]
}

/// A file whose parts say anything and whose lengths and checksums are right, or not even these.
fn file(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let whole = right(u.arbitrary()?);
    if u.ratio(1, 6)? {
        return edited(u, whole.to_vec());
    }
    let mut header = Header::decode(whole[..HEADER].try_into().unwrap()).unwrap();
    let mut rest = &whole[HEADER..];
    let mut take = |len: u64| {
        let (part, others) = rest.split_at(len as usize);
        rest = others;
        part.to_vec()
    };
    let mut data = take(header.data_len);
    let mut tree_bytes = take(header.tree_len);
    let mut runs = take(header.runs * RUN as u64);
    let mut blocks = take(header.blocks() * BLOCK_ENTRY as u64);
    match u.int_in_range(0..=4)? {
        0 => tree_bytes = edited(u, tree_bytes)?,
        1 => {
            runs.clear();
            for _ in 0..u.int_in_range(0..=4)? {
                let page = near(u, &[0, 5, 64, u64::MAX])?;
                let (region, count) = (u.int_in_range(0..=2)?, near(u, &[0, 1, 3, u32::MAX.into()])? as u32);
                Run { page, stored: near(u, &[0, 3])?, region, count }.encode(&mut runs);
            }
        }
        2 => {
            data = edited(u, data)?;
            // One block with a right checksum.
            header.flags = FLAG_ZSTD;
            blocks = (data.len() as u32).to_le_bytes().to_vec();
            blocks.extend(u.int_in_range(0..=2_u32)?.to_le_bytes());
            blocks.extend(checksum(&data).to_le_bytes());
        }
        3 => blocks = edited(u, blocks)?,
        _ => header.stored = near(u, &[0, 3, 64, u64::MAX])?,
    }
    header.data_len = data.len() as u64;
    header.tree_len = tree_bytes.len() as u64;
    header.runs = (runs.len() / RUN) as u64;
    header.tree_sum = checksum(&tree_bytes);
    header.runs_sum = checksum(&runs);
    header.blocks_sum = checksum(&blocks);
    header.file_len = header.parts_len().unwrap_or(0);
    Ok([&header.encode()[..], &data, &tree_bytes, &runs, &blocks].concat())
}

/// Any file.
pub fn snapshot_file(data: &[u8]) {
    with(data, |u| {
        let bytes = file(u)?;
        let (path, to) = scratch();
        to.write_all_at(&bytes, 0).unwrap();
        to.set_len(bytes.len() as u64).unwrap();
        let Ok(file) = SnapshotFile::open(path) else { return Ok(()) };
        let info = file.info();
        assert_eq!(info.file_len, bytes.len() as u64);
        let mut taken = Taken { regions: file.regions(), pages: BTreeSet::new() };
        // A run of billions of pages that are one in the file is allowed: it is the regions' size that whoever makes them bounds.
        if info.stored + info.identical < 100_000 {
            let poured = file.pour(&mut taken);
            assert_eq!(poured.is_ok(), file.verify().is_ok());
            if poured.is_ok() {
                assert_eq!(taken.pages.len() as u64, info.stored + info.identical);
            }
        }
        assert_eq!(info.pages, info.zero + info.stored + info.identical);
        if file.verify().is_ok() && info.stored + info.identical < 100_000 {
            assert_eq!(diff(&file, &file).unwrap(), Diff::default());
        }
        Ok(())
    });
}
