//! Writing: pages in blocks, each one once, as they come; then what tells where they are; the header last.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use zstd::bulk::Compressor;

use super::error::SaveError;
use super::format::{BLOCK, BLOCK_PAGES, Block, FLAG_ZSTD, HEADER, Header, MOST_RATIO, PAGE, PAGE_SIZE, Run, VERSION};
use super::format::{BLOCK_ENTRY, RUN, checksum};
use super::partial::{Partial, host};
use super::{Contents, Region, value_codec};

/// How pages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// As they are.
    #[default]
    No,
    /// By zstd, at its level 1.
    Zstd,
}

const LEVEL: i32 = 1;
const WRITING: &str = "write the file";

/// Writes a snapshot to `path`, and returns when it is on the disk. A file that was there is replaced, at once: whenever the process or the
/// host ends, the path has all of the old file or all of the new one. The file can be read by its owner alone.
///
/// # Errors
/// The host refuses, memory cannot be read, or something cannot be written. There is no new file then.
pub fn save(path: &Path, contents: &Contents<'_>, compress: Compress) -> Result<(), SaveError> {
    check(contents.regions)?;
    let tree = tree(contents)?;
    let partial = Partial::create(path)?;
    let mut writer = Writer::new(&partial.file, contents, compress)?;
    writer.emit(&[0; HEADER])?;
    for region in 0..contents.regions.len() {
        writer.region(region)?;
    }
    writer.block()?;
    writer.finish(&tree)?;
    partial.finish()
}

/// Refuses regions that no reader takes.
fn check(regions: &[Region]) -> Result<(), SaveError> {
    let mut free = 0;
    for Region { name, gpa, len, .. } in regions {
        let end = gpa.checked_add(*len).filter(|_| *gpa >= free && *len > 0 && (gpa | len) % PAGE_SIZE == 0);
        free = end.ok_or_else(|| SaveError::Region { name: name.clone(), gpa: *gpa, len: *len })?;
    }
    Ok(())
}

fn tree(contents: &Contents<'_>) -> Result<Vec<u8>, SaveError> {
    let mut tree = Vec::new();
    value_codec::map(&mut tree, 4);
    value_codec::text(&mut tree, "made_by");
    value_codec::text(&mut tree, contents.made_by);
    value_codec::text(&mut tree, "created_ns");
    value_codec::int(&mut tree, contents.created_ns.into());
    value_codec::text(&mut tree, "regions");
    value_codec::list(&mut tree, contents.regions.len());
    for region in contents.regions {
        value_codec::map(&mut tree, 4);
        value_codec::text(&mut tree, "name");
        value_codec::text(&mut tree, &region.name);
        value_codec::text(&mut tree, "gpa");
        value_codec::int(&mut tree, region.gpa.into());
        value_codec::text(&mut tree, "len");
        value_codec::int(&mut tree, region.len.into());
        value_codec::text(&mut tree, "about");
        value_codec::value(&mut tree, &region.about, 3)?;
    }
    value_codec::text(&mut tree, "state");
    value_codec::value(&mut tree, contents.state, 1)?;
    Ok(tree)
}

/// A page that is in the file: its number there, and among the pages of all regions.
#[derive(Clone, Copy)]
struct Kept {
    stored: u32,
    place: u32,
}

struct Writer<'a> {
    file: &'a File,
    contents: &'a Contents<'a>,
    compressor: Option<Compressor<'static>>,
    /// The block's pages so far, and what they are compressed to.
    block: Box<[u8]>,
    filled: usize,
    packed: Box<[u8]>,
    /// By checksum. Two pages may have one, a guest can see to that: then only the first one is found.
    kept: HashMap<u64, Kept>,
    /// Pages of the regions before each.
    before: Vec<u64>,
    blocks: Vec<Block>,
    runs: Vec<Run>,
    stored: u64,
    data_len: u64,
}

impl<'a> Writer<'a> {
    fn new(file: &'a File, contents: &'a Contents<'a>, compress: Compress) -> Result<Self, SaveError> {
        let compressor = match compress {
            Compress::No => None,
            Compress::Zstd => Some(Compressor::new(LEVEL).map_err(host("compress"))?),
        };
        let packed = if compressor.is_some() { BLOCK } else { 0 };
        let before = contents.regions.iter().scan(0, |sum, region| {
            let before = *sum;
            *sum += region.len / PAGE_SIZE;
            Some(before)
        });
        Ok(Self {
            file,
            contents,
            compressor,
            block: vec![0; BLOCK].into_boxed_slice(),
            filled: 0,
            packed: vec![0; packed].into_boxed_slice(),
            kept: HashMap::new(),
            before: before.collect(),
            blocks: Vec::new(),
            runs: Vec::new(),
            stored: 0,
            data_len: 0,
        })
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.file.write_all(bytes).map_err(host(WRITING))
    }

    fn region(&mut self, region: usize) -> Result<(), SaveError> {
        let pages = self.contents.regions.get(region).map_or(0, |region| region.len / PAGE_SIZE);
        let failed = |source| SaveError::Pages { source };
        let mut from = 0;
        while let Some((first, count)) = self.contents.pages.next(region, from).map_err(failed)? {
            let end = first.checked_add(count).filter(|end| first >= from && count > 0 && *end <= pages);
            // Whoever counts wrong is not to have half of its memory saved.
            let end = end.ok_or_else(|| failed(io::Error::other("it has pages where it has none")))?;
            let mut page = first;
            while page < end {
                page += self.gather(region, page, end - page)?;
            }
            from = end;
        }
        Ok(())
    }

    /// Reads pages to where the block has room for them, and keeps what is new; how many were read.
    fn gather(&mut self, region: usize, first: u64, most: u64) -> Result<u64, SaveError> {
        let from = self.filled;
        let room = self.block.len() - from;
        let len = usize::try_from(most).unwrap_or(usize::MAX).saturating_mul(PAGE).min(room);
        let into = self.block.get_mut(from..from + len).unwrap_or_default();
        self.contents.pages.read(region, first, into).map_err(|source| SaveError::Pages { source })?;
        let mut page = first;
        for at in (from..from + len).step_by(PAGE) {
            self.page(region, page, at)?;
            page += 1;
        }
        if self.filled == self.block.len() {
            self.block()?;
        }
        Ok(page - first)
    }

    /// Takes the page at `at` of the block into it, unless it is zero or in the file already.
    fn page(&mut self, region: usize, page: u64, at: usize) -> Result<(), SaveError> {
        let bytes = self.block.get(at..at + PAGE).unwrap_or_default();
        if *bytes == ZERO {
            return Ok(());
        }
        let sum = checksum(bytes);
        if let Some(kept) = self.kept.get(&sum).copied()
            && self.is_same(kept, at)?
        {
            self.run(region, page, kept.stored.into());
            return Ok(());
        }
        let place = self.before.get(region).map_or(u64::MAX, |before| before + page);
        if let (Ok(stored), Ok(place)) = (u32::try_from(self.stored), u32::try_from(place)) {
            self.kept.entry(sum).or_insert(Kept { stored, place });
        }
        if at != self.filled {
            self.block.copy_within(at..at + PAGE, self.filled);
        }
        self.filled += PAGE;
        self.run(region, page, self.stored);
        self.stored += 1;
        Ok(())
    }

    /// Whether the page at `at` of the block is that one: checksums alone do not tell, since a guest can make two that agree.
    fn is_same(&self, kept: Kept, at: usize) -> Result<bool, SaveError> {
        let place = u64::from(kept.place);
        let region = self.before.partition_point(|before| *before <= place).saturating_sub(1);
        let page = place - self.before.get(region).copied().unwrap_or_default();
        let mut other = [0; PAGE];
        self.contents.pages.read(region, page, &mut other).map_err(|source| SaveError::Pages { source })?;
        Ok(self.block.get(at..at + PAGE) == Some(&other))
    }

    /// Notes where a page is.
    fn run(&mut self, region: usize, page: u64, stored: u64) {
        let region = u32::try_from(region).unwrap_or(u32::MAX);
        if let Some(last) = self.runs.last_mut() {
            let count = u64::from(last.count);
            let follows = last.region == region && last.page + count == page && last.stored + count == stored;
            if follows && last.count < u32::MAX {
                last.count += 1;
                return;
            }
        }
        self.runs.push(Run { page, stored, region, count: 1 });
    }

    /// Writes the block, if there is something in it.
    fn block(&mut self) -> Result<(), SaveError> {
        let raw = self.block.get(..self.filled).unwrap_or_default();
        if raw.is_empty() {
            return Ok(());
        }
        let mut written = raw;
        if let Some(compressor) = &mut self.compressor
            // Does not fit: it cannot be compressed.
            && let Ok(len) = compressor.compress_to_buffer(raw, &mut *self.packed)
            && len < raw.len()
            && len as u64 * MOST_RATIO >= raw.len() as u64
        {
            written = self.packed.get(..len).unwrap_or_default();
        }
        let is_zstd = written.len() < raw.len();
        self.file.write_all(written).map_err(host(WRITING))?;
        let len = u32::try_from(written.len()).unwrap_or_default();
        let offset = HEADER as u64 + self.data_len;
        self.blocks.push(Block { offset, sum: checksum(written), len, is_zstd });
        self.data_len += u64::from(len);
        self.filled = 0;
        Ok(())
    }

    fn finish(mut self, tree: &[u8]) -> Result<(), SaveError> {
        debug_assert_eq!(self.blocks.len() as u64, self.stored.div_ceil(BLOCK_PAGES));
        let mut runs = Vec::with_capacity(self.runs.len() * RUN);
        self.runs.iter().for_each(|run| run.encode(&mut runs));
        let mut blocks = Vec::with_capacity(self.blocks.len() * BLOCK_ENTRY);
        self.blocks.iter().for_each(|block| block.encode(&mut blocks));
        let mut header = Header {
            version: VERSION,
            flags: if self.compressor.is_some() { FLAG_ZSTD } else { 0 },
            schema: self.contents.schema,
            file_len: 0,
            stored: self.stored,
            data_len: self.data_len,
            tree_len: tree.len() as u64,
            tree_sum: checksum(tree),
            runs: self.runs.len() as u64,
            runs_sum: checksum(&runs),
            blocks_sum: checksum(&blocks),
        };
        header.file_len = header.parts_len().unwrap_or_default();
        for part in [tree, &runs, &blocks] {
            self.emit(part)?;
        }
        self.file.seek(SeekFrom::Start(0)).map_err(host(WRITING))?;
        self.emit(&header.encode())
    }
}

const ZERO: [u8; PAGE] = [0; PAGE];
