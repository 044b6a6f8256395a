//! Images: what they keep and cost, their files, and what is left when the host refuses a step.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::*;
use crate::accel::{Accelerator, VmConfig};
use crate::memory::file::{Behind, Place};
use crate::memory::table::{Content, STORE};
use crate::memory::{Kind, Restored};
use crate::scripted::Scripted;

const MIB: u64 = 1 << 20;

fn byte(memory: &Memory, gpa: u64) -> u8 {
    let mut byte = [0];
    memory.read(gpa, &mut byte).unwrap();
    byte[0]
}

/// Path of the file that is behind the first block.
fn path_of(image: &Image) -> String {
    format!("/proc/self/fd/{}", image.nodes[0].base.file().unwrap().as_raw_fd())
}

// fault row 28
#[test]
fn test_image_seals_its_file_against_every_writer() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x1000, b"then").unwrap();
    let image = memory.image().unwrap();
    let path = path_of(&image);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert!(file.write_all_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err() && file.set_len(2 * MIB).is_err());
    assert!(Place::new(Behind::Shared(&file), PAGE, Pages::Small).is_err(), "a shared mapping could be written");
    assert!(file::punch(&file, 0, PAGE).is_err());
    assert!(file::is_sealed(&file));
}

#[test]
fn test_first_image_copies_no_page_and_a_later_one_what_was_written_since() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0, &[7; 0x8000]).unwrap();
    let first = memory.image().unwrap();
    assert_eq!(first.copied(), 0);
    memory.write(0x3fff, &[8, 8]).unwrap();
    memory.write(0x6000, &[0; 0x1000]).unwrap();
    let second = memory.image().unwrap();
    assert_eq!(second.copied(), 3 * PAGE_SIZE);
    assert_eq!(memory.image().unwrap().copied(), 3 * PAGE_SIZE);
    let (first, second) = (first.blocks().next().unwrap(), second.blocks().next().unwrap());
    assert_eq!((first.page(3).unwrap()[0xfff], second.page(3).unwrap()[0xfff]), (7, 8));
    assert_eq!((first.page(6).map(|page| page[0]), second.page(6)), (Some(7), None));
    let shared: Vec<usize> = (0..256).filter(|&page| !first.shares(page, &second)).collect();
    assert_eq!(shared, [3, 4, 6]);
    assert!(second.page(8).is_none() && second.page(256).is_none() && second.page(usize::MAX).is_none());
    let mut told = Vec::new();
    second.each_page(|page, bytes| {
        told.push((page, bytes[0]));
        page < 5
    });
    assert_eq!(told, [(0, 7), (1, 7), (2, 7), (3, 7), (4, 8), (5, 7)]);
}

#[test]
fn test_bytes_of_an_image_are_its_own_when_nobody_else_has_them() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    memory.write(0, &[7; 0x8000]).unwrap();
    let base = memory.image().unwrap();
    assert_eq!((base.bytes(), base.own_bytes()), (0x8000, 0));
    memory.write(0x10_0000, &[1; 0x2000]).unwrap();
    let one = memory.image().unwrap();
    // The memory goes on from it.
    assert_eq!((one.bytes(), one.own_bytes()), (0xa000, 0));
    memory.write(0x10_0000, &[2; 0x1000]).unwrap();
    memory.write(0x20_0000, &[2; 0x1000]).unwrap();
    let two = memory.image().unwrap();
    // Of the two pages that were copied together one is in both.
    assert_eq!((two.bytes(), one.own_bytes(), two.own_bytes()), (0xb000, 0, 0));
    memory.restore(&base, &[]).unwrap();
    assert_eq!((one.own_bytes(), two.own_bytes()), (0, 0x2000));
    drop(one);
    assert_eq!((base.own_bytes(), two.own_bytes()), (0, 0x4000));
    drop(base);
    drop(memory);
    assert_eq!(two.own_bytes(), 0xc000);
}

#[test]
fn test_bytes_of_an_image_are_without_pages_that_became_zeros() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    memory.write(0, &[1; 100 * PAGE]).unwrap();
    let base = memory.image().unwrap();
    memory.write(0, &[0; 99 * PAGE]).unwrap();
    memory.write(99 * PAGE_SIZE, &[2]).unwrap();
    let one = memory.image().unwrap();
    memory.restore(&base, &[]).unwrap();
    assert_eq!((base.bytes(), one.bytes(), one.own_bytes()), (100 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE));
}

#[test]
fn test_last_of_many_images_of_which_each_shares_a_page_keeps_little_beside_what_it_has() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    let mut last = memory.image().unwrap();
    for n in 0..8_u64 {
        // Of each image one page stays in those after it: the first.
        memory.write(n * PAGE_SIZE, &vec![1; 256 * PAGE]).unwrap();
        last = memory.image().unwrap();
    }
    let mut held = std::collections::HashMap::new();
    for word in 0..16 {
        for content in last.nodes[0].table.leaf(word).into_iter().flatten() {
            if let Content::Stored { store, .. } = content {
                held.insert(Arc::as_ptr(store), store.bytes());
            }
        }
    }
    let held: u64 = held.into_values().sum();
    assert_eq!(last.bytes(), (7 + 256) * PAGE_SIZE);
    assert!(held <= last.bytes() + 7 * STORE as u64 * PAGE_SIZE, "{held:#x}");
}

#[test]
fn test_views_stay_where_they_are_across_an_image_and_a_restore() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    memory.alias(8 * MIB, 0x1000, 0x1000, "again").unwrap();
    memory.write(0x1000, &[1]).unwrap();
    let (reader, alias) = (memory.view(0x1000, 1, false).unwrap(), memory.view(8 * MIB, 1, false).unwrap());
    // SAFETY: the view keeps its byte mapped.
    let look = |view: &crate::memory::View| unsafe { (view.hva() as *const u8).read_volatile() };
    let image = memory.image().unwrap();
    memory.write(8 * MIB, &[2]).unwrap();
    assert_eq!((look(&reader), look(&alias), byte(&memory, 0x1000)), (2, 2, 2));
    memory.restore(&image, &[]).unwrap();
    assert_eq!((look(&reader), look(&alias), byte(&memory, 8 * MIB)), (1, 1, 1));
}

#[test]
fn test_image_of_a_writable_view_has_what_was_written_through_it_and_a_restore_undoes_it() {
    let memory = Memory::with_ram(MIB).unwrap();
    let view = memory.view(0x5000, 8, true).unwrap();
    // SAFETY: the view keeps its bytes mapped, and nobody else looks.
    let poke = |value: u8| unsafe { (view.hva() as *mut u8).write_volatile(value) };
    poke(1);
    let first = memory.image().unwrap();
    poke(2);
    let second = memory.image().unwrap();
    poke(3);
    memory.restore(&first, &[]).unwrap();
    assert_eq!(byte(&memory, 0x5000), 1);
    memory.restore(&second, &[]).unwrap();
    assert_eq!(byte(&memory, 0x5000), 2);
    poke(4);
    drop(view);
    memory.restore(&second, &[]).unwrap();
    assert_eq!(byte(&memory, 0x5000), 2);
}

#[test]
fn test_image_from_files_is_what_they_hold_and_memory_made_of_it_too() {
    let regions = {
        let memory = Memory::with_ram(4 * MIB).unwrap();
        memory.add(8 * MIB, 0x2000, Kind::Rom, "rom").unwrap();
        memory.alias(6 * MIB, 0x1000, 0x1000, "before what it is of").unwrap();
        memory.add(16 * MIB, 0x1000, Kind::Mmio, "window").unwrap();
        memory.regions()
    };
    let files = || [4 * MIB, 0x2000].map(|len| Filling::new(len).unwrap());
    let filled = files();
    filled[0].write(0x1002, b"ram").unwrap();
    filled[1].write(0x1ffd, b"rom").unwrap();
    assert!(filled[1].write(0x1ffe, b"rom").is_err() && filled[1].write(u64::MAX, b"rom").is_err());
    let image = Image::from_blocks(regions.clone(), filled.into()).unwrap();
    let memory = Memory::from_image(&image).unwrap();
    assert_eq!(memory.regions(), regions);
    let mut bytes = [0; 3];
    for (gpa, expected) in [(0x1002, b"ram"), (6 * MIB + 2, b"ram"), (8 * MIB + 0x1ffd, b"rom")] {
        memory.read(gpa, &mut bytes).unwrap();
        assert_eq!(&bytes, expected);
    }
    memory.write(0x1002, b"new").unwrap();
    assert_eq!(memory.restore(&image, &[]).unwrap(), Restored { pages: 1, remapped: 0 });
    assert_eq!(byte(&memory, 0x1002), b'r');
    // Regions that cannot be, and files that do not fit.
    let mut wrong = vec![regions.clone(); 5];
    wrong[0][1].alias_of = Some(u64::MAX - 5);
    wrong[1][2].len = u64::MAX - 0xfff;
    wrong[2].swap(0, 1);
    wrong[3][2].len = 0x1000;
    wrong[4].push(RegionInfo { gpa: 32 * MIB, alias_of: None, ..regions[2].clone() });
    for regions in wrong {
        assert!(Image::from_blocks(regions.clone(), files().into()).is_err(), "{regions:?}");
    }
}

#[test]
fn test_region_that_somebody_else_has_mapped_refuses_an_image_and_stays_shared() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x1000, &[1]).unwrap();
    let file = memory.a_mapping().backing().file.as_ref().unwrap().try_clone().unwrap();
    let other = Place::new(Behind::Shared(&file), MIB as usize, Pages::Small).unwrap();
    let refused = memory.image().unwrap_err();
    assert!(matches!(refused, MemoryError::Host { gpa: 0, .. }), "{refused}");
    memory.write(0x2000, &[2]).unwrap();
    assert_eq!((byte(&memory, 0x1000), byte(&memory, 0x2000)), (1, 2));
    let mut seen = [0; 1];
    file.read_exact_at(&mut seen, 0x2000).unwrap();
    assert_eq!(seen, [2], "it is the file that is written");
    drop(other);
    let image = memory.image().unwrap();
    memory.write(0x2000, &[3]).unwrap();
    memory.restore(&image, &[]).unwrap();
    assert_eq!((byte(&memory, 0x1000), byte(&memory, 0x2000)), (1, 2));
}

#[test]
fn test_what_was_written_while_a_seal_was_refused_is_in_the_file_again() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    let mapping = memory.a_mapping();
    let backing = mapping.backing();
    let file = backing.file.as_ref().unwrap();
    mapping.place.replace(0, mapping.place.len(), Behind::Private(file)).unwrap();
    assert!(mapping.write(3 << 20, b"meanwhile"));
    mapping.share_again(file).unwrap();
    let mut seen = [0; 9];
    file.read_exact_at(&mut seen, 3 << 20).unwrap();
    assert_eq!(&seen, b"meanwhile");
}

#[test]
fn test_guests_writes_are_kept_for_the_user_and_for_the_image_alike() {
    let memory = Memory::with_ram(MIB).unwrap();
    let scripted = Scripted::default();
    let vm = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    memory.connect(&vm).unwrap();
    let image = memory.image().unwrap();
    memory.track(true).unwrap();
    let guest = |page: u64, value: u8| {
        // As a guest: without the host's marks.
        memory.a_mapping().put(page as usize, Some(&[value; PAGE]));
        scripted.set_dirty(0, vec![1 << page]);
    };
    guest(3, 9);
    assert_eq!(memory.dirty(true).unwrap(), [(0x3000, 0x1000)]);
    guest(5, 9);
    assert_eq!(memory.restore(&image, &[]).unwrap().pages, 2);
    assert_eq!((byte(&memory, 0x3000), byte(&memory, 0x5000)), (0, 0));
    // The one that the user had been told of has changed once more.
    assert_eq!(memory.dirty(true).unwrap(), [(0x3000, 0x1000), (0x5000, 0x1000)]);
    assert_eq!(memory.restore(&image, &[]).unwrap().pages, 0);
    assert_eq!(memory.dirty(true).unwrap(), []);
    memory.track(false).unwrap();
    guest(7, 9);
    memory.track(true).unwrap();
    assert_eq!(memory.dirty(true).unwrap(), []);
    assert_eq!(memory.restore(&image, &[]).unwrap().pages, 1);
    assert_eq!(byte(&memory, 0x7000), 0);
}

#[test]
fn test_image_of_closed_memory_is_refused_and_its_images_outlive_it() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0, &[5]).unwrap();
    let image = memory.image().unwrap();
    memory.clear();
    assert!(matches!(memory.image(), Err(MemoryError::Closed)));
    assert!(matches!(memory.restore(&image, &[]), Err(MemoryError::Closed)));
    assert!(matches!(memory.fork(), Err(MemoryError::Closed)));
    drop(memory);
    assert_eq!(byte(&Memory::from_image(&image).unwrap(), 0), 5);
}

#[test]
fn test_ten_thousand_images_of_each_other_cost_no_depth() {
    let memory = Memory::with_ram(MIB).unwrap();
    let first = memory.image().unwrap();
    let mut last = first.clone();
    for n in 0..10_000_u32 {
        memory.write(u64::from(n % 4) * PAGE_SIZE, &n.to_le_bytes()).unwrap();
        last = memory.image().unwrap();
    }
    assert_eq!(memory.restore(&first, &[]).unwrap().pages, 4);
    assert_eq!(memory.restore(&last, &[]).unwrap().pages, 4);
    assert_eq!(byte(&memory, 3 * PAGE_SIZE), (9_999_u32 & 0xff) as u8);
    let stores = Arc::strong_count(&last);
    assert_eq!(stores, 1);
}

#[test]
fn test_zeros_reset_and_what_is_given_back_after_an_image() {
    let memory = Memory::with_ram(8 * MIB).unwrap();
    memory.write(0, &vec![7; 8 << 20]).unwrap();
    let image = memory.image().unwrap();
    let before = memory.committed();
    assert_eq!(before, 8 * MIB);
    memory.write(0x1000, &[8]).unwrap();
    assert_eq!(memory.committed(), before + PAGE_SIZE);
    memory.zero(0x800, 0x1000).unwrap();
    memory.zero(4 * MIB - 1, 4 * MIB + 1).unwrap();
    let seen: Vec<u8> = [0x7ff, 0x800, 0x17ff, 0x1800, 4 * MIB - 2, 4 * MIB - 1, 6 * MIB, 8 * MIB - 1]
        .map(|gpa| byte(&memory, gpa))
        .into();
    assert_eq!(seen, [7, 0, 0, 7, 7, 0, 0, 0]);
    let zeros = memory.image().unwrap();
    memory.restore(&image, &[]).unwrap();
    assert_eq!((byte(&memory, 0x1000), byte(&memory, 6 * MIB)), (7, 7));
    memory.restore(&zeros, &[]).unwrap();
    assert_eq!((byte(&memory, 0x1000), byte(&memory, 6 * MIB)), (0, 0));
    memory.reset();
    assert_eq!((memory.committed(), byte(&memory, 0)), (0, 0));
    memory.write(0, &[1]).unwrap();
    let after = memory.image().unwrap();
    memory.restore(&image, &[]).unwrap();
    assert_eq!(byte(&memory, 5 * MIB), 7);
    memory.restore(&after, &[]).unwrap();
    assert_eq!((byte(&memory, 0), byte(&memory, 5 * MIB)), (1, 0));
    assert!(!memory.gather(0, 4 * MIB), "a page of a sealed file is not ours");
}

/// In a child of its own, whose limits are its own: forks, limits the address space to what is used and `room` more, and
/// calls `f` with the memory that was made before. True if `f` says so.
fn limited(memory: &Memory, room: u64, f: impl Fn(&Memory) -> bool) -> bool {
    // SAFETY: the child has one thread, and ends by _exit; what it allocates comes from a heap whose locks nobody else of
    // this test's process holds.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let used: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let most = used * PAGE_SIZE + room;
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the limit is read alone.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
        let good = set == 0 && f(memory);
        // SAFETY: ends the child without what the parent's process has to do at its end.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above, whose status is written to a valid integer.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    status == 0
}

// fault row 38
#[test]
fn test_host_without_memory_for_an_image_a_restore_or_a_fork_leaves_memory_as_it_was() {
    let fresh = Memory::with_ram(256 * MIB).unwrap();
    fresh.write(0x1000, &[1]).unwrap();
    // No room for the mapping that reads the file.
    assert!(limited(&fresh, 64 * MIB, |memory| {
        let refused = matches!(memory.image(), Err(MemoryError::Host { .. })) && memory.fork().is_err();
        refused && memory.write(0x2000, &[2]).is_ok() && byte(memory, 0x1000) == 1 && byte(memory, 0x2000) == 2
    }));
    let image = fresh.image().unwrap();
    fresh.write(0, &vec![3; 128 << 20]).unwrap();
    // None for a child, a new file's mapping, or copies; a restore needs none.
    assert!(limited(&fresh, 16 * MIB, |memory| {
        let refused = memory.fork().is_err() && memory.image().is_err() && byte(memory, 100 * MIB) == 3;
        refused && memory.restore(&image, &[]).is_ok() && byte(memory, 100 * MIB) == 0 && byte(memory, 0x1000) == 1
    }));
    assert_eq!(byte(&fresh, 100 * MIB), 3);
}

// fault row 39
#[test]
fn test_image_and_fork_without_descriptors_are_refused_and_memory_goes_on() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x1000, &[1]).unwrap();
    assert!(limited(&memory, 1 << 30, |memory| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 1 << 10 };
        // SAFETY: the limit is read alone.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        set == 0 && memory.image().is_err() && memory.fork().is_err() && byte(memory, 0x1000) == 1
    }));
    let image = memory.image().unwrap();
    memory.write(0, &vec![2; 1 << 20]).unwrap();
    assert!(limited(&memory, 1 << 30, |memory| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 1 << 10 };
        // SAFETY: the limit is read alone.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        // A new file cannot be had; images and restores need none.
        let good = set == 0 && memory.fork().is_err() && memory.image().is_ok();
        good && memory.restore(&image, &[]).is_ok() && byte(memory, 0x1000) == 1
    }));
    assert_eq!(memory.fork().unwrap().1.rebased, MIB);
}
