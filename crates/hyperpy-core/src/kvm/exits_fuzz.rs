//! A page, a ring of posted writes and a ring of written pages that say anything: what is read of them is bounded, lies where it
//! should, and nothing else of the page changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};

use super::super::ring::{BYTES, ENTRIES, Ring};
use super::*;
use crate::bus::{Space, ones};
use crate::targets::{any_of, near, with};

const PAGE: usize = 4096;
/// `struct kvm_run`, the page of port values, and the ring of posted writes.
const PAGES: usize = 3;

/// A file in the place of a vCPU's descriptor.
fn file(len: usize) -> File {
    // SAFETY: the name ends with a zero; the descriptor is a new one and has no other owner.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"page".as_ptr(), 0)) };
    file.set_len(len as u64).unwrap();
    file
}

thread_local! {
    static RUN: (File, RunPage) = {
        let file = file(PAGES * PAGE);
        let page = RunPage::map(file.as_raw_fd(), PAGES * PAGE).unwrap();
        (file, page)
    };
}

/// The page as it is now.
fn copy(page: &RunPage) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * PAGE];
    page.read(0, &mut bytes);
    bytes
}

/// What is at a place of the page, if all of it is there.
fn at(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let held = offset.checked_add(size).and_then(|end| bytes.get(offset..end)).unwrap_or_default();
    held.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Any exit.
pub fn exit_page(data: &[u8]) {
    with(data, |u| {
        RUN.with(|(_, page)| {
            let mut bytes = vec![0; PAGES * PAGE];
            let reason = match u.arbitrary::<u8>()? {
                reason @ 0..60 => u32::from(reason),
                _ => {
                    any_of(u, &[KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SYSTEM_EVENT, u32::MAX])?
                }
            };
            let reason_at = std::mem::offset_of!(kvm_run, exit_reason);
            bytes[reason_at..reason_at + 4].copy_from_slice(&reason.to_le_bytes());
            let arms = std::mem::offset_of!(kvm_run, __bindgen_anon_1);
            if reason == KVM_EXIT_IO && u.arbitrary()? {
                let count = near(u, &[1, 4096])? as u32;
                let offset = near(u, &[PAGE as u64, (PAGES * PAGE) as u64, u64::MAX])?;
                bytes[arms..arms + 2].copy_from_slice(&[u.arbitrary()?, u.int_in_range(0..=9)?]);
                bytes[arms + 2..arms + 4].copy_from_slice(&u.arbitrary::<u16>()?.to_le_bytes());
                bytes[arms + 4..arms + 8].copy_from_slice(&count.to_le_bytes());
                bytes[arms + 8..arms + 16].copy_from_slice(&offset.to_le_bytes());
            } else {
                u.fill_buffer(&mut bytes[arms..arms + 160])?;
            }
            u.fill_buffer(&mut bytes[PAGE..PAGE + 64])?;
            page.write(0, &bytes);
            let (exit, data) = decode(page);
            let (size, count) = match exit {
                AccelExit::Pio { size, count, .. } => (size, count),
                AccelExit::Mmio { size, .. } => (size, 1),
                AccelExit::Hypercall { .. } | AccelExit::Msr { .. } => (8, 1),
                AccelExit::InternalError { len, .. } => {
                    assert!(len <= 15);
                    (0, 0)
                }
                _ => (0, 0),
            };
            assert!(size <= 8 && count as usize <= PAGE, "{exit:?}");
            assert!(count == 0 || size > 0, "an access of no bytes: {exit:?}");
            assert_eq!(data.size, usize::from(size));
            for index in [0, 1, count.saturating_sub(1), u32::MAX, u.arbitrary()?] {
                let place = data.offset.saturating_add(data.size.saturating_mul(index as usize));
                assert_eq!(data.value(page, index), at(&bytes, place, data.size));
                let value = u.arbitrary::<u64>()?;
                data.set_value(page, index, value);
                if let Some(held) = place.checked_add(data.size).and_then(|end| bytes.get_mut(place..end)) {
                    held.copy_from_slice(&value.to_le_bytes()[..data.size]);
                }
                assert!(copy(page) == bytes, "more was written than one value");
            }
            assert!(page.event_data().len() <= 16);
            page.set_msr_fault(true);
            assert!(copy(page) == bytes || matches!(exit, AccelExit::Msr { .. }));
            Ok(())
        })
    });
}

/// Any ring of posted writes: no more of it are served than it has room for, each once and in order.
pub fn posted_ring(data: &[u8]) {
    with(data, |u| {
        RUN.with(|(_, page)| {
            const HEAD: usize = 8;
            const ENTRY: usize = 24;
            const LEN: u32 = ((PAGE - HEAD) / ENTRY) as u32;
            let mut ring = vec![0; PAGE];
            let (first, last) = (near(u, &[0, LEN.into()])? as u32, near(u, &[0, LEN.into()])? as u32);
            ring[..4].copy_from_slice(&first.to_le_bytes());
            ring[4..8].copy_from_slice(&last.to_le_bytes());
            for _ in 0..u.int_in_range(0..=20)? {
                let from = HEAD + ENTRY * u.int_in_range(0..=LEN as usize - 1)?;
                u.fill_buffer(&mut ring[from..from + ENTRY])?;
            }
            page.write(2 * PAGE, &ring);
            let mut served = Vec::new();
            page.take_posted(&Mutex::new(()), &mut |write| served.push(*write));
            let mut expected = Vec::new();
            let mut next = first;
            while next < LEN && next != last && expected.len() < LEN as usize {
                let entry = HEAD + ENTRY * next as usize;
                let size = (at(&ring, entry + 8, 4) as u32).clamp(1, 8) as u8;
                let space = if at(&ring, entry + 12, 4) == 0 { Space::Mmio } else { Space::Pio };
                expected.push((space, at(&ring, entry, 8), size, at(&ring, entry + 16, 8) & ones(size)));
                next = (next + 1) % LEN;
            }
            let served: Vec<_> = served.iter().map(|it| (it.space, it.address, it.size, it.value)).collect();
            assert_eq!(served, expected);
            assert_eq!(page.has_posted(), next != last);
            let mut after = vec![0; PAGE];
            page.read(2 * PAGE, &mut after);
            ring[..4].copy_from_slice(&next.to_le_bytes());
            assert_eq!(after, ring);
            Ok(())
        })
    });
}

/// Any ring of written pages, filled again and again: entries are taken in order as long as the kernel has marked them.
pub fn dirty_ring(data: &[u8]) {
    thread_local! {
        static FILE: File = file(KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE + BYTES);
    }
    with(data, |u| {
        FILE.with(|file| {
            const ENTRY: usize = size_of::<kvm_dirty_gfn>();
            let start = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE as u64;
            let mut entries = vec![0; BYTES];
            file.write_all_at(&entries, start).unwrap();
            let (mut ring, mut next) = (Ring::map(file.as_raw_fd()).unwrap(), 0);
            for _ in 0..u.int_in_range(1..=4)? {
                let (from, count) = (near(u, &[0, next as u64, ENTRIES.into()])?, near(u, &[0, ENTRIES.into()])?);
                let flags = any_of(u, &[1, 1, 1, 2, 3, 0])?;
                for number in 0..count.min(ENTRIES.into()) {
                    let at = (from.wrapping_add(number) % u64::from(ENTRIES)) as usize * ENTRY;
                    entries[at..at + 4].copy_from_slice(&u32::to_le_bytes(flags));
                    if number < 8 {
                        u.fill_buffer(&mut entries[at + 4..at + ENTRY])?;
                    }
                }
                file.write_all_at(&entries, start).unwrap();
                let mut taken = Vec::new();
                let count = ring.take(|slot, page| taken.push((u64::from(slot), page)));
                let mut expected = Vec::new();
                while expected.len() < ENTRIES as usize && at(&entries, next * ENTRY, 4) & 3 == 1 {
                    expected.push((at(&entries, next * ENTRY + 4, 4), at(&entries, next * ENTRY + 8, 8)));
                    entries[next * ENTRY..next * ENTRY + 4].copy_from_slice(&[2, 0, 0, 0]);
                    next = (next + 1) % ENTRIES as usize;
                }
                assert!(taken == expected && count as usize == taken.len());
                let mut after = vec![0; BYTES];
                file.read_exact_at(&mut after, start).unwrap();
                assert!(after == entries);
            }
            Ok(())
        })
    });
}
