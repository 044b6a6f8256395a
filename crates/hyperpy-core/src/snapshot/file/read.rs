//! Reading: a file may hold anything. Opening it reads and checks all but the pages; [`verify`](SnapshotFile::verify) and
//! [`pour`](SnapshotFile::pour) go through these block by block.

use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use twox_hash::XxHash3_64;
use zstd::bulk::Decompressor;

use super::error::{LoadError, Part};
use super::format::{
    BLOCK, BLOCK_ENTRY, BLOCK_PAGES, Block, HEADER, Header, MAGIC, PAGE, PAGE_SIZE, RUN, Run, checksum,
};
use super::value_codec::Decoder;
use super::{PageSink, Region};
use crate::snapshot::value::Value;

/// A snapshot's file that is open. It is read where it is: whoever changes it meanwhile is found by the checksums.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    header: Header,
    tree: Tree,
    runs: Vec<Run>,
    blocks: Vec<Block>,
}

/// What the plain data of a file says.
#[derive(Debug)]
struct Tree {
    made_by: Box<str>,
    created_ns: u64,
    regions: Vec<Region>,
    state: Value,
}

/// What there is to know of a file, beside its state and regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Of the format.
    pub version: u32,
    /// Of the state.
    pub schema: u32,
    /// Who wrote it.
    pub made_by: Box<str>,
    /// When the snapshot was taken: nanoseconds since 1970, UTC.
    pub created_ns: u64,
    /// Whether pages may be compressed.
    pub is_compressed: bool,
    /// Its length in bytes.
    pub file_len: u64,
    /// The length of the pages in it, and of plain data.
    pub data_len: u64,
    /// The length of plain data.
    pub tree_len: u64,
    /// Pages of all regions.
    pub pages: u64,
    /// Pages that are in the file.
    pub stored: u64,
    /// Pages that are another one's equal.
    pub identical: u64,
    /// Pages that are zero.
    pub zero: u64,
}

impl SnapshotFile {
    /// Opens a file, and reads everything but pages.
    ///
    /// # Errors
    /// It cannot be read, is no snapshot, of a newer version, cut off or damaged.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        // A pipe would have to be waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(LoadError::Host)?;
        let about = file.metadata().map_err(LoadError::Host)?;
        if !about.is_file() {
            return Err(LoadError::NotAFile);
        }
        let header = header(&file, about.len())?;
        let mut from = &file;
        from.seek(SeekFrom::Start(HEADER as u64 + header.data_len)).map_err(LoadError::Host)?;
        let tree = Decoder::new(from.take(header.tree_len), header.tree_len).tree(header.tree_sum)?;
        let tree = Tree::from_value(tree)?;
        let mut at = HEADER as u64 + header.data_len + header.tree_len;
        let runs = runs(&file, at, &header, &tree.regions)?;
        at += header.runs * RUN as u64;
        let blocks = blocks(&file, at, &header)?;
        Ok(Self { file, header, tree, runs, blocks })
    }

    /// What there is to know of it.
    #[must_use]
    pub fn info(&self) -> Info {
        let pages = self.tree.regions.iter().map(|region| region.len / PAGE_SIZE).sum::<u64>();
        let there = self.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        Info {
            version: self.header.version,
            schema: self.header.schema,
            made_by: self.tree.made_by.clone(),
            created_ns: self.tree.created_ns,
            is_compressed: self.header.flags & super::format::FLAG_ZSTD != 0,
            file_len: self.header.file_len,
            data_len: self.header.data_len,
            tree_len: self.header.tree_len,
            pages,
            stored: self.header.stored,
            identical: there.saturating_sub(self.header.stored),
            zero: pages.saturating_sub(there),
        }
    }

    /// All that is not memory.
    #[must_use]
    pub fn state(&self) -> &Value {
        &self.tree.state
    }

    /// The same, for who keeps it: what is left has no state.
    pub fn take_state(&mut self) -> Value {
        std::mem::take(&mut self.tree.state)
    }

    /// Memory, by ascending address.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.tree.regions
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Reads all pages and their checksums.
    ///
    /// # Errors
    /// A block is damaged, or cannot be read.
    pub fn verify(&self) -> Result<(), LoadError> {
        self.each_block(|_, _| Ok(()))
    }

    /// Puts all pages that are not zero where they belong.
    ///
    /// # Errors
    /// A block is damaged or cannot be read, or the sink's own: some pages have been put then.
    pub fn pour(&self, sink: &mut dyn PageSink) -> Result<(), LoadError> {
        let mut order: Vec<&Run> = self.runs.iter().collect();
        order.sort_unstable_by_key(|run| run.stored);
        let mut order = order.into_iter().peekable();
        // Runs with pages of the block, which is the number of pages of each that are done.
        let mut open: Vec<&Run> = Vec::new();
        self.each_block(|first, bytes| {
            let end = first + (bytes.len() / PAGE) as u64;
            while let Some(run) = order.next_if(|run| run.stored < end) {
                open.push(run);
            }
            for run in &open {
                let skipped = first.saturating_sub(run.stored);
                let at = usize::try_from((run.stored + skipped - first) * PAGE_SIZE).unwrap_or(usize::MAX);
                let len = usize::try_from((u64::from(run.count) - skipped) * PAGE_SIZE).unwrap_or(usize::MAX);
                let part = bytes.get(at..).unwrap_or_default();
                let part = part.get(..len).unwrap_or(part);
                sink.put(run.region as usize, run.page + skipped, part).map_err(LoadError::Sink)?;
            }
            open.retain(|run| run.stored + u64::from(run.count) > end);
            Ok(())
        })
    }

    /// Calls `f` with the pages of each block, and with the number of the first of them.
    pub(super) fn each_block(&self, mut f: impl FnMut(u64, &[u8]) -> Result<(), LoadError>) -> Result<(), LoadError> {
        let most = usize::try_from(self.header.stored).unwrap_or(usize::MAX).saturating_mul(PAGE).min(BLOCK);
        let (mut raw, mut packed) = (vec![0; most], Vec::new());
        let mut unpack = Decompressor::new().map_err(LoadError::Host)?;
        for (number, block) in (0..).zip(&self.blocks) {
            let (first, part) = (number * BLOCK_PAGES, Part::Block(number));
            let pages = (self.header.stored - first).min(BLOCK_PAGES);
            let raw = raw.get_mut(..usize::try_from(pages * PAGE_SIZE).unwrap_or(most)).unwrap_or_default();
            let wrong = || LoadError::Checksum { part };
            if block.is_zstd {
                packed.resize(block.len as usize, 0);
                self.read_at(&mut packed, block.offset)?;
                if checksum(&packed) != block.sum {
                    return Err(wrong());
                }
                if unpack.decompress_to_buffer(&packed, raw).ok() != Some(raw.len()) {
                    return Err(LoadError::malformed(part, "it does not unpack to whole pages"));
                }
            } else {
                self.read_at(raw, block.offset)?;
                if checksum(raw) != block.sum {
                    return Err(wrong());
                }
            }
            f(first, raw)?;
        }
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<(), LoadError> {
        self.file.read_exact_at(into, offset).map_err(|error| self.shortened(error))
    }

    fn shortened(&self, error: io::Error) -> LoadError {
        match (error.kind(), self.file.metadata()) {
            (io::ErrorKind::UnexpectedEof, Ok(about)) => {
                LoadError::CutOff { len: about.len(), expected: self.header.file_len }
            }
            _ => LoadError::Host(error),
        }
    }
}

fn header(file: &File, len: u64) -> Result<Header, LoadError> {
    let mut page = [0; HEADER];
    let there = HEADER.min(usize::try_from(len).unwrap_or(HEADER));
    file.read_exact_at(page.get_mut(..there).unwrap_or_default(), 0).map_err(LoadError::Host)?;
    if there < MAGIC.len() || !page.starts_with(&MAGIC) {
        return Err(LoadError::NotASnapshot);
    }
    if there < HEADER {
        return Err(LoadError::CutOff { len, expected: HEADER as u64 });
    }
    let header = Header::decode(&page)?;
    match header.file_len {
        expected if len < expected => Err(LoadError::CutOff { len, expected }),
        expected if len > expected => Err(LoadError::malformed(Part::Header, "the file is longer")),
        _ => Ok(header),
    }
}

/// Reads a table of records of `N` bytes, whose number has been held against the file's length.
fn records<const N: usize>(
    file: &File,
    mut at: u64,
    count: u64,
    (part, sum): (Part, u64),
    mut record: impl FnMut(&[u8; N]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    const RECORDS: u64 = 512;
    let mut buffer = vec![0; N * usize::try_from(count.min(RECORDS)).unwrap_or_default()];
    let mut hasher = XxHash3_64::new();
    // A wrong checksum is what is told first.
    let mut first_wrong = None;
    let mut left = count;
    while left > 0 {
        let now = left.min(RECORDS);
        let bytes = buffer.get_mut(..N * usize::try_from(now).unwrap_or_default()).unwrap_or_default();
        file.read_exact_at(bytes, at).map_err(LoadError::Host)?;
        hasher.write(bytes);
        at += bytes.len() as u64;
        left -= now;
        if first_wrong.is_none() {
            first_wrong = bytes.as_chunks::<N>().0.iter().find_map(|one| record(one).err());
        }
    }
    if hasher.finish() != sum {
        return Err(LoadError::Checksum { part });
    }
    first_wrong.map_or(Ok(()), Err)
}

fn runs(file: &File, at: u64, header: &Header, regions: &[Region]) -> Result<Vec<Run>, LoadError> {
    let wrong = |what| LoadError::malformed(Part::Runs, what);
    if header.runs > regions.iter().map(|region| region.len / PAGE_SIZE).sum() {
        return Err(wrong("more runs than pages"));
    }
    let mut runs: Vec<Run> = LoadError::room(header.runs)?;
    let mut known = 0;
    records(file, at, header.runs, (Part::Runs, header.runs_sum), |record| {
        let run = Run::decode(record);
        let count = u64::from(run.count);
        let end = run.page.checked_add(count).filter(|_| count > 0).ok_or_else(|| wrong("a run of no pages"))?;
        if regions.get(run.region as usize).is_none_or(|region| end > region.len / PAGE_SIZE) {
            return Err(wrong("a page is outside of its region"));
        }
        if let Some(last) = runs.last()
            && (run.region, run.page)
                < (last.region, if run.region == last.region { last.page + u64::from(last.count) } else { 0 })
        {
            return Err(wrong("a page is there twice, or out of order"));
        }
        let stored = run.stored.checked_add(count).filter(|_| run.stored <= known);
        known = known
            .max(stored.filter(|end| *end <= header.stored).ok_or_else(|| wrong("a page is of none in the file"))?);
        runs.push(run);
        Ok(())
    })?;
    if known != header.stored {
        return Err(wrong("a page in the file is of no region"));
    }
    Ok(runs)
}

fn blocks(file: &File, at: u64, header: &Header) -> Result<Vec<Block>, LoadError> {
    let wrong = |what| LoadError::malformed(Part::Blocks, what);
    let mut blocks = LoadError::room(header.blocks())?;
    let (mut offset, mut left) = (HEADER as u64, header.stored);
    records::<BLOCK_ENTRY>(file, at, header.blocks(), (Part::Blocks, header.blocks_sum), |record| {
        let pages = left.min(BLOCK_PAGES);
        let block = Block::decode(record, offset, pages * PAGE_SIZE, header.flags)?;
        left -= pages;
        offset += u64::from(block.len);
        blocks.push(block);
        Ok(())
    })?;
    if offset != HEADER as u64 + header.data_len {
        return Err(wrong("blocks are not as long as all of them"));
    }
    Ok(blocks)
}

impl Tree {
    fn from_value(value: Value) -> Result<Self, LoadError> {
        let wrong = |what| LoadError::malformed(Part::Tree, what);
        let [made_by, created_ns, regions, state] = fields(value, ["made_by", "created_ns", "regions", "state"])
            .ok_or_else(|| wrong("not what a snapshot has"))?;
        let Value::Text(made_by) = made_by else { return Err(wrong("made_by is no text")) };
        let created_ns = created_ns.int().ok_or_else(|| wrong("created_ns is no time"))?;
        let Value::List(list) = regions else { return Err(wrong("regions is no list")) };
        let mut regions = Vec::with_capacity(list.len());
        let mut free = 0;
        for region in list {
            let region = self::region(region).ok_or_else(|| wrong("not what a region has"))?;
            let Region { gpa, len, .. } = region;
            let end = gpa.checked_add(len).filter(|_| gpa >= free && len > 0 && (gpa | len) % PAGE_SIZE == 0);
            free = end.ok_or_else(|| wrong("a region is empty, unaligned, out of order, or overlaps"))?;
            regions.push(region);
        }
        Ok(Self { made_by, created_ns, regions, state })
    }
}

fn region(value: Value) -> Option<Region> {
    let [name, gpa, len, about] = fields(value, ["name", "gpa", "len", "about"])?;
    let Value::Text(name) = name else { return None };
    Some(Region { name, gpa: gpa.int()?, len: len.int()?, about })
}

/// The values of a map that has these names, in this order, and no others.
fn fields<const N: usize>(value: Value, names: [&str; N]) -> Option<[Value; N]> {
    let Value::Map(entries) = value else { return None };
    let entries: [(Box<str>, Value); N] = entries.try_into().ok()?;
    let is_right = entries.iter().zip(names).all(|((name, _), expected)| **name == *expected);
    is_right.then(|| entries.map(|(_, value)| value))
}
