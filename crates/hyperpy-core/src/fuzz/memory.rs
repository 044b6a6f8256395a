//! Guest memory that is made up as a device reads it: what it touches first comes from the input, and stays.
//!
//! It has no machine and costs what is touched. In double-fetch mode nothing that the guest left stays: each read of it gets the next bytes
//! of the input, as from a guest that changes its mind. What the device itself wrote stays in any case.
//!
//! All of it has bounds: pages that are touched, bytes that wait, and bytes of which is known where they were read. Where the last of these is
//! reached, the input has nothing more to give: what is touched first is 0, and the rest stays as it is.

use std::collections::{BTreeMap, VecDeque};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Most pages that one input may touch: 64 MiB.
const MOST: usize = 1 << 14;
/// Most bytes that wait for the device; what comes beyond them is dropped.
const MOST_FED: usize = 1 << 20;
/// Most bytes of one input of which is known where they were read.
pub const MOST_GIVEN: usize = 1 << 18;
/// What a page costs beside itself: its place in the map, and the allocator's.
const BESIDE: usize = 64;

/// What a byte of a page is.
const UNTOUCHED: u8 = 0;
const FROM_INPUT: u8 = 1;
const WRITTEN: u8 = 2;

/// Where a device reaches no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

struct Page {
    bytes: [u8; PAGE as usize],
    kinds: [u8; PAGE as usize],
}

impl Default for Page {
    fn default() -> Self {
        Self { bytes: [0; PAGE as usize], kinds: [UNTOUCHED; PAGE as usize] }
    }
}

/// Guest memory of one execution.
#[derive(Default)]
pub struct Memory {
    size: u64,
    is_double: bool,
    pages: BTreeMap<u64, Box<Page>>,
    /// Pages of earlier inputs, which this one may have: so what it costs is known.
    free: Vec<Box<Page>>,
    /// What the guest has left for the device to read.
    fed: VecDeque<u8>,
    /// What came of that: where it was read first.
    given: Vec<(u64, u8)>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pages of {:#x} bytes", self.pages.len(), self.size)
    }
}

impl Memory {
    /// Of so many bytes, from 0 on.
    #[must_use]
    pub fn new(size: u64, is_double: bool) -> Self {
        Self { size, is_double, ..Self::default() }
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.free.extend(std::mem::take(&mut self.pages).into_values());
        self.fed.clear();
        self.given.clear();
    }

    /// The guest leaves bytes for the device.
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = MOST_FED.saturating_sub(self.fed.len());
        self.fed.extend(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    /// Where bytes of the input were read, in order: at most [`MOST_GIVEN`]. Without double fetch what nobody left is not among them: it is 0.
    #[must_use]
    pub fn given(&self) -> &[(u64, u8)] {
        &self.given
    }

    /// What it takes of the process's memory, in bytes: the fuzzer's own, and none of the device's.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let pages = self.pages.len() + self.free.len();
        pages * (size_of::<Page>() + BESIDE) + self.fed.capacity() + self.given.capacity() * size_of::<(u64, u8)>()
    }

    /// Whether a range is memory.
    #[must_use]
    pub fn holds(&self, gpa: u64, len: u64) -> bool {
        self.size.checked_sub(len).is_some_and(|last| gpa <= last)
    }

    /// Reads what the device reads.
    ///
    /// # Errors
    /// A byte is no memory, or it has touched too much.
    pub fn read(&mut self, gpa: u64, mut into: &mut [u8]) -> Result<(), Refused> {
        self.check(gpa, into.len())?;
        let mut at = gpa;
        while !into.is_empty() {
            let (start, room) = place(at);
            let (part, rest) = into.split_at_mut(room.min(into.len()));
            let page = page_of(&mut self.pages, &mut self.free, at);
            let held = page.bytes.iter_mut().zip(&mut page.kinds).skip(start);
            for ((byte, (held, kind)), at) in part.iter_mut().zip(held).zip(at..) {
                let gives = self.given.len() < MOST_GIVEN;
                if *kind == UNTOUCHED || gives && self.is_double && *kind == FROM_INPUT {
                    let next = if gives { self.fed.pop_front() } else { None };
                    (*held, *kind) = (next.unwrap_or_default(), FROM_INPUT);
                    if next.is_some() || gives && self.is_double {
                        self.given.push((at, *held));
                    }
                }
                *byte = *held;
            }
            at = at.saturating_add(part.len() as u64);
            into = rest;
        }
        Ok(())
    }

    /// Writes what the device writes.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Refused> {
        self.check(gpa, bytes.len())?;
        let (mut at, mut bytes) = (gpa, bytes);
        while !bytes.is_empty() {
            let (start, room) = place(at);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            let page = page_of(&mut self.pages, &mut self.free, at);
            for (byte, (held, kind)) in part.iter().zip(page.bytes.iter_mut().zip(&mut page.kinds).skip(start)) {
                (*held, *kind) = (*byte, WRITTEN);
            }
            at = at.saturating_add(part.len() as u64);
            bytes = rest;
        }
        Ok(())
    }

    fn check(&self, gpa: u64, len: usize) -> Result<(), Refused> {
        let pages = len / usize::try_from(PAGE).unwrap_or(usize::MAX) + self.pages.len();
        if self.holds(gpa, len as u64) && pages < MOST { Ok(()) } else { Err(Refused) }
    }
}

/// Where in its page an address is, and how many bytes follow there, with itself.
fn place(gpa: u64) -> (usize, usize) {
    let start = gpa % PAGE;
    (usize::try_from(start).unwrap_or_default(), usize::try_from(PAGE - start).unwrap_or(1))
}

/// The page of an address, one of an earlier input if there is one.
fn page_of<'a>(pages: &'a mut BTreeMap<u64, Box<Page>>, free: &mut Vec<Box<Page>>, gpa: u64) -> &'a mut Page {
    pages.entry(gpa / PAGE).or_insert_with(|| {
        let mut page = free.pop().unwrap_or_default();
        *page = Page::default();
        page
    })
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
