//! Which pages were written since somebody last asked: by the guest, from the accelerator's log; by the host and its
//! devices, from the bits of each block; by live writable views, whose whole range counts each time; and by a restore.
//!
//! Two want to know, the user and whoever puts pages back, each since another moment. So the log is drained into one set of
//! bits for each block, and these are spread to the bits of both: nothing is lost when one of them asks, or a query fails
//! half-way. A page is told once, at the region that it belongs to, whatever alias it was written through.

use std::io;

use super::{Layout, Link, Memory, PAGE_SIZE, Pages};
use crate::accel::AccelError;
use crate::error::MemoryError;

/// A range of guest memory: gpa and bytes.
pub type Written = (u64, u64);

/// The host has no room for what a query needs.
fn none_left(gpa: u64, len: u64) -> MemoryError {
    let source = io::Error::from_raw_os_error(libc::ENOMEM);
    MemoryError::Host { gpa, len, pages: Pages::Small, source }
}

/// Brings what was written to those who want to know.
pub(super) fn harvest(link: &Link, layout: &Layout) -> Result<(), MemoryError> {
    let marked = match link.vm().filter(|_| link.logs()) {
        Some(vm) => vm.mark_written(),
        None => Ok(()),
    };
    for (_, mapping) in layout.blocks() {
        mapping.spread(link.tracking, link.keeping);
    }
    Ok(marked?)
}

/// Has the accelerator log writes, or no longer.
pub(super) fn log(link: &Link, layout: &Layout, on: bool) -> Result<(), AccelError> {
    let set = |on: bool| -> Result<(), AccelError> {
        let Some(vm) = link.vm() else { return Ok(()) };
        let mut slots = layout.parts.iter().filter(|part| part.info.writable).filter_map(|part| part.slot(on));
        slots.try_for_each(|slot| vm.map(&slot))
    };
    set(on).inspect_err(|_| {
        // What was switched goes back; a slot that will not is only slower.
        let _ = set(!on);
    })
}

impl Memory {
    /// Begins to track which pages are written, or ends it; whether it was on before. Tracking costs the guest a fault at
    /// the first write to each page after each query.
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
        // What was written before is for others.
        harvest(&link, &layout)?;
        for (info, mapping) in layout.blocks() {
            mapping.remember().map_err(|_| none_left(info.gpa, info.len))?;
        }
        if !link.keeping {
            log(&link, &layout, on)?;
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
        harvest(&link, &layout)?;
        let mut runs = 0;
        let told = || layout.blocks().filter_map(|(info, mapping)| Some((info.gpa, mapping.told(true)?)));
        told().for_each(|(_, told)| told.runs(false, |_, _| runs += 1));
        // Room for all before anything is forgotten.
        let mut written: Vec<Written> = Vec::new();
        written.try_reserve_exact(runs).map_err(|_| none_left(0, runs as u64))?;
        for (start, told) in told() {
            told.runs(clear, |page, pages| {
                let (gpa, len) = (start + page as u64 * PAGE_SIZE, pages as u64 * PAGE_SIZE);
                match written.last_mut() {
                    Some(last) if last.0 + last.1 == gpa => last.1 += len,
                    _ => written.push((gpa, len)),
                }
            });
        }
        Ok(written)
    }
}

#[cfg(test)]
#[path = "dirty_test.rs"]
mod tests;
