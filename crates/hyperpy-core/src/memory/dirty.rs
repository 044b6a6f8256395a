//! Which pages were written since somebody last asked: by the guest, from the accelerator's log; by the host and its
//! devices, from the bits of each block; and by live writable views, whose whole range counts each time.
//!
//! The log is drained into the bits, so that nothing is lost when a query fails half-way, and a page is told once, at
//! the region that it belongs to, whatever alias it was written through.

use std::io;

use super::{Memory, PAGE_SIZE, Pages, Part};
use crate::accel::{AccelError, Vm};
use crate::error::MemoryError;

const BITS: usize = u64::BITS as usize;

/// Ranges that a query has room for beyond those that it has seen.
const SPARE: usize = 64;

/// A range of guest memory: gpa and bytes.
pub type Written = (u64, u64);

/// Moves what the accelerator has logged of one region into the bits of its block.
pub(super) fn drain(vm: &dyn Vm, part: &Part, tracking: bool) -> Result<(), MemoryError> {
    let Some((id, mapping)) = part.backed.as_ref().filter(|_| tracking && part.info.writable) else { return Ok(()) };
    let (first, count) = mapping.range();
    let mut words = Vec::new();
    words.try_reserve_exact(count.div_ceil(BITS)).map_err(|_| none_left(part.info.gpa, part.info.len))?;
    words.resize(count.div_ceil(BITS), 0_u64);
    let taken = vm.take_dirty(*id, &mut words);
    for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
        let left = count - index * BITS;
        let mask = if left < BITS { (1 << left) - 1 } else { u64::MAX };
        mapping.block().bits.or(first + index * BITS, word & mask);
    }
    // What was there before it failed may be forgotten by the accelerator already.
    Ok(taken?)
}

/// The host has no room for what a query needs.
fn none_left(gpa: u64, len: u64) -> MemoryError {
    let source = io::Error::from_raw_os_error(libc::ENOMEM);
    MemoryError::Host { gpa, len, pages: Pages::Small, source }
}

impl Memory {
    /// Begins to track which pages are written, or ends it; whether it was on before. Tracking costs the guest a fault at the first write to each
    /// page after each query.
    ///
    /// # Errors
    /// The machine is closed, or the accelerator refuses.
    pub fn track(&self, on: bool) -> Result<bool, MemoryError> {
        let mut link = self.link();
        let layout = self.layout();
        if layout.closed {
            return Err(MemoryError::Closed);
        }
        if link.tracking == on {
            return Ok(on);
        }
        if on {
            layout.parts.iter().filter_map(Part::owned).for_each(|mapping| mapping.block().bits.clear());
        }
        let set = |on: bool| -> Result<(), AccelError> {
            let Some(vm) = link.vm() else { return Ok(()) };
            let slots = layout.parts.iter().filter(|part| part.info.writable).filter_map(|part| part.slot(on));
            slots.into_iter().try_for_each(|slot| vm.map(&slot))
        };
        if let Err(error) = set(on) {
            // What was switched goes back; a slot that will not is only slower.
            let _ = set(!on);
            return Err(error.into());
        }
        link.tracking = on;
        Ok(!on)
    }

    /// The pages written since tracking began or since the last call that cleared, as ranges by ascending gpa, joined
    /// where they touch.
    ///
    /// # Errors
    /// Nothing is tracked, the machine is closed, or the accelerator refuses; nothing is forgotten then.
    pub fn dirty(&self, clear: bool) -> Result<Vec<Written>, MemoryError> {
        let link = self.link();
        let layout = self.layout();
        if layout.closed {
            return Err(MemoryError::Closed);
        }
        if !link.tracking {
            return Err(MemoryError::NotTracked);
        }
        if let Some(vm) = link.vm() {
            layout.parts.iter().try_for_each(|part| drain(&*vm, part, true))?;
        }
        let owned = || layout.parts.iter().filter_map(|part| Some((part.info.gpa, part.owned()?)));
        let mut runs = 0;
        for (_, mapping) in owned() {
            mapping.block().mark_views();
            let (first, count) = mapping.range();
            mapping.block().bits.runs(first, count, false, |_, _| runs += 1);
        }
        // Room for all before anything is forgotten, and for some that are written meanwhile.
        let mut written: Vec<Written> = Vec::new();
        written.try_reserve_exact(runs + SPARE).map_err(|_| none_left(0, runs as u64))?;
        for (start, mapping) in owned() {
            let bits = &mapping.block().bits;
            let (first, count) = mapping.range();
            bits.runs(first, count, clear, |page, pages| {
                let gpa = start + (page - first) as u64 * PAGE_SIZE;
                let len = pages as u64 * PAGE_SIZE;
                let has_room = written.len() < written.capacity();
                match written.last_mut() {
                    Some(last) if last.0 + last.1 == gpa => last.1 += len,
                    _ if has_room => written.push((gpa, len)),
                    _ => bits.set(page, pages), // for the next query
                }
            });
        }
        Ok(written)
    }
}

#[cfg(test)]
#[path = "dirty_test.rs"]
mod tests;
