//! Writing: pages in blocks, each one once, as they come; then what tells where they are; the header last.
//!
//! One thread reads memory and finds out what is new ([`gather`](super::gather)), another compresses it, if it is to be, and writes: the
//! disk and the compressor never wait for the first one's work. A third has the disk begin meanwhile ([`write_back`](super::write_back)).

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use zstd::bulk::Compressor;

use super::error::SaveError;
use super::format::{BLOCK, BLOCK_ENTRY, BLOCK_PAGES, Block, FLAG_ZSTD, HEADER, Header, MOST_RATIO, PAGE_SIZE, RUN};
use super::format::{VERSION, checksum};
use super::gather::{Full, Gather, Gathered};
use super::partial::{Partial, host};
use super::write_back::{Progress, follow, progress};
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
/// One is filled, one is written, and two wait so that neither thread does.
const BUFFERS: usize = 4;

/// Writes a snapshot to `path`, and returns when it is on the disk. A file that was there is replaced, at once: whenever the process or the
/// host ends, the path has all of the old file or all of the new one. The file can be read by its owner alone.
///
/// # Errors
/// The host refuses, memory cannot be read, or something cannot be written. There is no new file then.
pub fn save(path: &Path, contents: &Contents<'_>, compress: Compress) -> Result<(), SaveError> {
    check(contents.regions)?;
    let tree = tree(contents)?;
    let partial = Partial::create(path)?;
    let mut output = Output::new(&partial.file, compress)?;
    output.emit(&[0; HEADER])?;
    let gathered = pages(contents, &mut output, &partial.file)?;
    output.finish(contents.schema, &tree, &gathered)?;
    partial.finish()
}

/// Brings all pages into the file.
fn pages(contents: &Contents<'_>, output: &mut Output<'_>, file: &File) -> Result<Gathered, SaveError> {
    let (to_write, full) = channel();
    let (to_fill, free) = channel();
    for _ in 0..BUFFERS {
        // The other end is here.
        let _ = to_fill.send(vec![0; BLOCK].into_boxed_slice());
    }
    let (progress, reached) = progress();
    thread::scope(|scope| {
        // Where the host has no thread for it, the disk begins later.
        let _ = thread::Builder::new().name("hyperpy-sync".into()).spawn_scoped(scope, move || follow(file, &reached));
        let writing = move || output.blocks(&full, &to_fill, progress);
        let writing = thread::Builder::new().name("hyperpy-save".into()).spawn_scoped(scope, writing);
        let writing = writing.map_err(host("begin a thread"))?;
        let gathered = Gather::new(contents, to_write, free).all();
        match writing.join() {
            // Then that is why nobody takes what is gathered.
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => gathered,
            Err(panic) => resume_unwind(panic),
        }
    })
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

/// The file, and what is in it so far.
struct Output<'a> {
    file: &'a File,
    compressor: Option<Compressor<'static>>,
    /// A block that is compressed.
    packed: Box<[u8]>,
    blocks: Vec<Block>,
    data_len: u64,
}

impl<'a> Output<'a> {
    fn new(file: &'a File, compress: Compress) -> Result<Self, SaveError> {
        let compressor = match compress {
            Compress::No => None,
            Compress::Zstd => Some(Compressor::new(LEVEL).map_err(host("compress"))?),
        };
        let packed = vec![0; if compressor.is_some() { BLOCK } else { 0 }].into_boxed_slice();
        Ok(Self { file, compressor, packed, blocks: Vec::new(), data_len: 0 })
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.file.write_all(bytes).map_err(host(WRITING))
    }

    /// Writes blocks while there come any, and gives the buffers back.
    fn blocks(
        &mut self,
        full: &Receiver<Full>,
        to_fill: &Sender<Box<[u8]>>,
        mut progress: Progress,
    ) -> Result<(), SaveError> {
        for Full { buffer, len, sum } in full {
            self.block(buffer.get(..len).unwrap_or_default(), sum)?;
            progress.reached(HEADER as u64 + self.data_len);
            // After the last block nobody wants it.
            let _ = to_fill.send(buffer);
        }
        Ok(())
    }

    fn block(&mut self, raw: &[u8], raw_sum: u64) -> Result<(), SaveError> {
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
        let sum = if is_zstd { checksum(written) } else { raw_sum };
        self.blocks.push(Block { offset, sum, len, is_zstd });
        self.data_len += u64::from(len);
        Ok(())
    }

    /// What follows the blocks, and the header.
    fn finish(mut self, schema: u32, tree: &[u8], gathered: &Gathered) -> Result<(), SaveError> {
        debug_assert_eq!(self.blocks.len() as u64, gathered.stored.div_ceil(BLOCK_PAGES));
        let mut runs = Vec::with_capacity(gathered.runs.len() * RUN);
        gathered.runs.iter().for_each(|run| run.encode(&mut runs));
        let mut blocks = Vec::with_capacity(self.blocks.len() * BLOCK_ENTRY);
        self.blocks.iter().for_each(|block| block.encode(&mut blocks));
        let mut header = Header {
            version: VERSION,
            flags: if self.compressor.is_some() { FLAG_ZSTD } else { 0 },
            schema,
            file_len: 0,
            stored: gathered.stored,
            data_len: self.data_len,
            tree_len: tree.len() as u64,
            tree_sum: checksum(tree),
            runs: gathered.runs.len() as u64,
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
