//! The numbers of the format, as docs/reference/snapshot-format.md has them: header, runs, blocks. All are little-endian.

use twox_hash::XxHash3_64;

use super::error::{LoadError, Part};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
pub(super) const PAGE: usize = 4096;
/// Pages of each block but the last.
pub(super) const BLOCK_PAGES: u64 = 64;
pub(super) const BLOCK: usize = 64 * PAGE;
/// A block is at least this part of its pages: so no small file is a large one.
pub(super) const MOST_RATIO: u64 = 1024;

/// Like PNG's: what a transfer as text would change is seen at once.
pub(super) const MAGIC: [u8; 8] = *b"\x89HPS\r\n\x1a\n";
pub(super) const HEADER: usize = PAGE;
const HEADER_SUM: usize = HEADER - 8;
/// Blocks may be of zstd.
pub(super) const FLAG_ZSTD: u32 = 1;

pub(super) const RUN: usize = 24;
pub(super) const BLOCK_ENTRY: usize = 16;

/// The checksum of everything.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// What the first page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub version: u32,
    pub flags: u32,
    pub schema: u32,
    pub file_len: u64,
    pub stored: u64,
    pub data_len: u64,
    pub tree_len: u64,
    pub tree_sum: u64,
    pub runs: u64,
    pub runs_sum: u64,
    pub blocks_sum: u64,
}

impl Header {
    pub fn blocks(&self) -> u64 {
        self.stored.div_ceil(BLOCK_PAGES)
    }

    /// Its page, with the checksum.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut page = [0; HEADER];
        let numbers = [
            u64::from(self.version) | u64::from(self.flags) << 32,
            u64::from(self.schema),
            self.file_len,
            self.stored,
            self.data_len,
            self.tree_len,
            self.tree_sum,
            self.runs,
            self.runs_sum,
            self.blocks_sum,
        ];
        let (magic, rest) = page.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        for (into, number) in rest.chunks_exact_mut(8).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        if let Some((bytes, sum)) = page.split_last_chunk_mut::<8>() {
            *sum = checksum(bytes).to_le_bytes();
        }
        page
    }

    /// What a page says that begins with the magic.
    pub fn decode(page: &[u8; HEADER]) -> Result<Self, LoadError> {
        let wrong = |what| Err(LoadError::malformed(Part::Header, what));
        let number = |at: usize| word(page, 8 + at * 8);
        if word(page, HEADER_SUM) != checksum(page.get(..HEADER_SUM).unwrap_or_default()) {
            return Err(LoadError::Checksum { part: Part::Header });
        }
        let (version, flags) = halves(number(0));
        if version > VERSION {
            return Err(LoadError::Newer { version });
        }
        let (schema, reserved) = halves(number(1));
        if version == 0 {
            return wrong("version 0");
        }
        if flags & !FLAG_ZSTD != 0 {
            return wrong("unknown flags");
        }
        if reserved != 0 || page.get(88..HEADER_SUM).is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
            return wrong("something where nothing is yet");
        }
        let header = Self {
            version,
            flags,
            schema,
            file_len: number(2),
            stored: number(3),
            data_len: number(4),
            tree_len: number(5),
            tree_sum: number(6),
            runs: number(7),
            runs_sum: number(8),
            blocks_sum: number(9),
        };
        if header.parts_len() != Some(header.file_len) {
            return wrong("its parts are not as long as the file");
        }
        Ok(header)
    }

    /// The length of a file with these parts.
    pub fn parts_len(&self) -> Option<u64> {
        let runs = self.runs.checked_mul(RUN as u64)?;
        let blocks = self.blocks().checked_mul(BLOCK_ENTRY as u64)?;
        [self.data_len, self.tree_len, runs, blocks].iter().try_fold(HEADER as u64, |sum, part| sum.checked_add(*part))
    }
}

/// Pages one after the other in a region, whose contents are one after the other in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub page: u64,
    pub stored: u64,
    pub region: u32,
    pub count: u32,
}

impl Run {
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.region.to_le_bytes());
        into.extend_from_slice(&self.count.to_le_bytes());
        into.extend_from_slice(&self.page.to_le_bytes());
        into.extend_from_slice(&self.stored.to_le_bytes());
    }

    pub fn decode(bytes: &[u8; RUN]) -> Self {
        let (region, count) = halves(word(bytes, 0));
        Self { region, count, page: word(bytes, 8), stored: word(bytes, 16) }
    }
}

/// Pages that are kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Where it is in the file: behind the one before.
    pub offset: u64,
    pub sum: u64,
    pub len: u32,
    pub is_zstd: bool,
}

impl Block {
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.len.to_le_bytes());
        into.extend_from_slice(&u32::from(self.is_zstd).to_le_bytes());
        into.extend_from_slice(&self.sum.to_le_bytes());
    }

    /// `raw` is the length of its pages.
    pub fn decode(bytes: &[u8; BLOCK_ENTRY], offset: u64, raw: u64, flags: u32) -> Result<Self, LoadError> {
        let (len, kind) = halves(word(bytes, 0));
        let is_right = match kind {
            0 => u64::from(len) == raw,
            1 => flags & FLAG_ZSTD != 0 && u64::from(len) < raw && u64::from(len) * MOST_RATIO >= raw,
            _ => false,
        };
        if !is_right {
            return Err(LoadError::malformed(Part::Blocks, "a block of another kind or length"));
        }
        Ok(Self { offset, sum: word(bytes, 8), len, is_zstd: kind == 1 })
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

#[allow(clippy::cast_possible_truncation)] // the halves of a word
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
