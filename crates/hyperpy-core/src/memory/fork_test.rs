//! Forks: that nobody sees another's byte, what they cost, and in which order they may go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::memory::PAGE_SIZE;

const MIB: u64 = 1 << 20;
const PAGES: u64 = MIB / PAGE_SIZE;

fn fill(memory: &Memory, value: u8) {
    for page in 0..PAGES {
        memory.write(page * PAGE_SIZE + 100, &[value, value ^ page as u8]).unwrap();
    }
}

fn assert_filled(memory: &Memory, value: u8) {
    for page in 0..PAGES {
        let mut seen = [0; 2];
        memory.read(page * PAGE_SIZE + 100, &mut seen).unwrap();
        assert_eq!(seen, [value, value ^ page as u8], "page {page}");
    }
}

#[test]
fn test_parent_and_eight_children_write_every_page_and_nobody_sees_anothers_byte() {
    let parent = Memory::with_ram(MIB).unwrap();
    fill(&parent, 0xff);
    let mut children: Vec<Memory> = (0..8).map(|_| parent.fork().unwrap().0).collect();
    children.iter().for_each(|child| assert_filled(child, 0xff));
    fill(&parent, 0xee);
    for (number, child) in children.iter().enumerate() {
        fill(child, number as u8);
    }
    assert_filled(&parent, 0xee);
    for (number, child) in children.iter().enumerate() {
        assert_filled(child, number as u8);
    }
    // Of what a child has written itself, which is past a quarter; and the parent goes first.
    let (grandchild, forked) = children[3].fork().unwrap();
    assert_eq!(forked, Forked { pages: 0, rebased: MIB });
    drop(parent);
    children.truncate(3);
    assert_filled(&grandchild, 3);
    fill(&grandchild, 0x55);
    assert_filled(&children[2], 2);
    assert_filled(&grandchild.fork().unwrap().0, 0x55);
}

#[test]
fn test_fork_costs_what_was_written_since_the_files_were() {
    let parent = Memory::with_ram(MIB).unwrap();
    fill(&parent, 1);
    assert_eq!(parent.fork().unwrap().1, Forked { pages: 0, rebased: 0 });
    parent.write(0x3000, &[2; 0x2000]).unwrap();
    let image = parent.image().unwrap();
    parent.write(0x4000, &[3; 0x2000]).unwrap();
    let (child, forked) = parent.fork().unwrap();
    assert_eq!(forked, Forked { pages: 3, rebased: 0 });
    let mut seen = [0; 0x4000];
    child.read(0x2fff, &mut seen[..0x3002]).unwrap();
    assert_eq!([seen[0], seen[1], seen[0x1001], seen[0x3000]], [0, 2, 3, 3]);
    // A child goes back to what its parent was.
    assert_eq!(child.restore(&image, &[]).unwrap().pages, 2);
    child.read(0x3000, &mut seen[..0x3000]).unwrap();
    assert_eq!([seen[0], seen[0x1000], seen[0x2000]], [2, 2, 0]);
    assert_eq!(child.restore(&image, &[]).unwrap().pages, 0);
}

#[test]
fn test_fork_past_a_quarter_writes_a_new_file_and_older_images_stay() {
    let parent = Memory::with_ram(MIB).unwrap();
    fill(&parent, 1);
    let old = parent.image().unwrap();
    let before = parent.a_mapping().hva();
    for page in 0..PAGES / 4 + 1 {
        parent.write(page * PAGE_SIZE, &[9]).unwrap();
    }
    let (child, forked) = parent.fork().unwrap();
    assert_eq!((forked, parent.a_mapping().hva()), (Forked { pages: 0, rebased: MIB }, before));
    assert_eq!(parent.committed(), MIB, "what the parent had of its own is the file's");
    assert_eq!(parent.fork().unwrap().1, Forked::default());
    let new = parent.image().unwrap();
    for memory in [&parent, &child] {
        let mut seen = [0];
        for (image, expected) in [(&old, 0), (&new, 9), (&old, 0)] {
            memory.restore(image, &[]).unwrap();
            memory.read(0x1000, &mut seen).unwrap();
            assert_eq!(seen, [expected]);
            assert_filled(memory, 1);
        }
    }
}

#[test]
fn test_fork_while_a_writable_view_lives_loses_nothing_written_through_it() {
    let parent = Memory::with_ram(MIB).unwrap();
    parent.image().unwrap();
    fill(&parent, 1);
    let view = parent.view(0x5000, 1, true).unwrap();
    let (child, forked) = parent.fork().unwrap();
    assert_eq!(forked.rebased, MIB);
    // SAFETY: the view keeps its byte mapped, and nobody else looks.
    unsafe { (view.hva() as *mut u8).write_volatile(8) };
    let image = parent.image().unwrap();
    assert_eq!(image.blocks().next().unwrap().page(5).unwrap()[0], 8);
    let mut seen = [0];
    child.read(0x5000, &mut seen).unwrap();
    assert_eq!(seen, [0]);
    assert_filled(&child, 1);
}

#[test]
fn test_fork_has_aliases_and_regions_of_its_own() {
    let parent = Memory::with_ram(MIB).unwrap();
    parent.add(2 * MIB, 0x1000, Kind::Rom, "rom").unwrap();
    parent.add(3 * MIB, 0x1000, Kind::Mmio, "window").unwrap();
    parent.alias(4 * MIB, 0x2000, 0x1000, "again").unwrap();
    parent.protect(4 * MIB, false).unwrap();
    parent.write(2 * MIB, b"rom").unwrap();
    let (child, _) = parent.fork().unwrap();
    assert_eq!(child.regions(), parent.regions());
    child.write(0x2000, b"child").unwrap();
    let mut seen = [0; 5];
    child.read(4 * MIB, &mut seen).unwrap();
    assert_eq!(&seen, b"child");
    parent.read(4 * MIB, &mut seen).unwrap();
    assert_eq!(seen, [0; 5]);
    child.remove(4 * MIB).unwrap();
    child.add(4 * MIB, 0x1000, Kind::Ram, "own").unwrap();
    assert_eq!(parent.regions().len(), 4);
}

#[test]
fn test_five_hundred_children_share_the_file_and_take_no_descriptor() {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    let parent = Memory::with_ram(MIB).unwrap();
    fill(&parent, 7);
    drop(parent.fork().unwrap());
    let descriptors = count("/proc/self/fd");
    let children: Vec<Memory> = (0..500).map(|_| parent.fork().unwrap().0).collect();
    assert!(count("/proc/self/fd") < descriptors + 100, "other tests open some too");
    for child in children.iter().step_by(100) {
        assert_eq!(child.committed(), MIB);
        fill(child, 1);
        assert_filled(child, 1);
    }
    assert_filled(&children[499], 7);
    assert_filled(&parent, 7);
}
