//! A guest's memory as its code sees it: by linear addresses, through its page tables as they are now.
//!
//! Both are the guest's and may be anything: what is not there is not read.

use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::paging;
use crate::memory::Memory;

/// What a vCPU sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Guest-physical memory.
    pub memory: &'a Memory,
    /// Where its page tables are, and what mode it is in.
    pub sregs: &'a Sregs,
}

impl View<'_> {
    /// The guest-physical address of a byte, and how many bytes of its page there are from it on.
    #[must_use]
    pub fn gpa(&self, gva: u64) -> Option<(u64, u64)> {
        let walk = paging::walk(gva, self.sregs, |gpa| {
            let mut entry = [0; 8];
            self.memory.read(gpa, &mut entry).ok().map(|()| u64::from_le_bytes(entry))
        });
        let page = walk.page()?;
        // Without paging a page is as good as any other.
        let size = page.size.clamp(1, 1 << 12);
        Some((page.gpa, size - page.gpa % size))
    }

    /// The guest-physical ranges of bytes that follow each other.
    #[must_use]
    pub fn ranges(&self, gva: u64, len: u64) -> Option<Vec<(u64, u64)>> {
        let (mut done, mut ranges) = (0, Vec::<(u64, u64)>::new());
        while done < len {
            let (gpa, most) = self.gpa(gva.checked_add(done)?)?;
            let here = most.min(len - done);
            match ranges.last_mut() {
                Some((first, size)) if *first + *size == gpa => *size += here,
                _ => ranges.push((gpa, here)),
            }
            done += here;
        }
        Some(ranges)
    }

    /// Reads bytes; how many of them there are.
    pub fn read(&self, gva: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some((gpa, most)) = gva.checked_add(done as u64).and_then(|gva| self.gpa(gva)) else { break };
            let here = rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            let Some(rest) = rest.get_mut(..here) else { break };
            if self.memory.read(gpa, rest).is_err() {
                break;
            }
            done += here;
        }
        done
    }

    /// A little-endian number of 1 to 8 bytes.
    #[must_use]
    pub fn number(&self, gva: u64, size: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        let into = bytes.get_mut(..size)?;
        (self.read(gva, into) == size).then(|| u64::from_le_bytes(bytes))
    }
}
