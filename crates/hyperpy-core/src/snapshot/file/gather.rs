//! What of memory a file is to have: pages that are not zero, each one once, in blocks for whoever writes them.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender};

use super::Contents;
use super::error::SaveError;
use super::format::{PAGE, PAGE_SIZE, Run, checksum};
use super::partial::host;

const ZERO: [u8; PAGE] = [0; PAGE];

/// A buffer with the pages of a block in its first `len` bytes, and their checksum, which whoever writes them has no time for.
pub(super) struct Full {
    pub buffer: Box<[u8]>,
    pub len: usize,
    pub sum: u64,
}

/// Where the pages are.
pub(super) struct Gathered {
    pub runs: Vec<Run>,
    pub stored: u64,
}

/// A page that is in the file: its number there, and among the pages of all regions.
#[derive(Clone, Copy)]
struct Kept {
    stored: u32,
    place: u32,
}

pub(super) struct Gather<'a> {
    contents: &'a Contents<'a>,
    to_write: Sender<Full>,
    free: Receiver<Box<[u8]>>,
    /// The block's pages so far. Empty while there is no buffer.
    block: Box<[u8]>,
    filled: usize,
    /// By checksum. Two pages may have one, a guest can see to that: then only the first one is found.
    kept: HashMap<u64, Kept>,
    /// Pages of the regions before each.
    before: Vec<u64>,
    runs: Vec<Run>,
    stored: u64,
}

impl<'a> Gather<'a> {
    /// Buffers come by `free`, and go by `to_write`.
    pub fn new(contents: &'a Contents<'a>, to_write: Sender<Full>, free: Receiver<Box<[u8]>>) -> Self {
        let before = contents.regions.iter().scan(0, |sum, region| {
            let before = *sum;
            *sum += region.len / PAGE_SIZE;
            Some(before)
        });
        Self {
            contents,
            to_write,
            free,
            block: Box::default(),
            filled: 0,
            kept: HashMap::new(),
            before: before.collect(),
            runs: Vec::new(),
            stored: 0,
        }
    }

    /// Hands over all blocks. An error of whoever writes is only that there is nobody: why, is his to say.
    pub fn all(mut self) -> Result<Gathered, SaveError> {
        for region in 0..self.contents.regions.len() {
            self.region(region)?;
        }
        if self.filled > 0 {
            self.hand_over()?;
        }
        Ok(Gathered { runs: self.runs, stored: self.stored })
    }

    fn hand_over(&mut self) -> Result<(), SaveError> {
        let (buffer, len) = (std::mem::take(&mut self.block), std::mem::take(&mut self.filled));
        let sum = checksum(buffer.get(..len).unwrap_or_default());
        self.to_write.send(Full { buffer, len, sum }).map_err(|_| nobody())
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
        if self.block.is_empty() {
            self.block = self.free.recv().map_err(|_| nobody())?;
        }
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
            self.hand_over()?;
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
}

fn nobody() -> SaveError {
    host("write the file")(io::ErrorKind::BrokenPipe.into())
}
