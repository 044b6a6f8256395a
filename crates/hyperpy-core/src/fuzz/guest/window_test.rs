#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

const GPA: u64 = 0x4000;

fn memory() -> Memory {
    Memory::with_ram(1 << 20).unwrap()
}

#[test]
fn test_window_of_counters_is_counted_by_place_and_cleared() {
    let memory = memory();
    let mut window = Window::new(&memory, GPA, 0x2000, Layout::Counters).unwrap();
    memory.write(GPA + 3, &[7]).unwrap();
    memory.write(GPA + 0x1ff8, &[1, 2]).unwrap();
    let mut counters = Counters::default();
    window.collect(&memory, &mut counters).unwrap();
    let mut counts: Vec<u8> = counters.slots().map(|slot| counters.count(slot)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 7]);
    window.clear(&memory).unwrap();
    let mut now = [1; 0x2000];
    memory.read(GPA, &mut now).unwrap();
    assert_eq!(now, [0; 0x2000]);
    counters.clear();
    window.collect(&memory, &mut counters).unwrap();
    assert!(counters.is_empty());
}

#[test]
fn test_window_that_was_not_collected_is_cleared_whole() {
    let memory = memory();
    let mut window = Window::new(&memory, GPA, 0x2000, Layout::Counters).unwrap();
    window.clear(&memory).unwrap();
    let mut counters = Counters::default();
    window.collect(&memory, &mut counters).unwrap();
    window.clear(&memory).unwrap();
    memory.write(GPA + 0x1000, &[1]).unwrap();
    window.clear(&memory).unwrap();
    window.collect(&memory, &mut counters).unwrap();
    assert!(counters.is_empty());
}

#[test]
fn test_window_of_kcov_is_counted_by_which_place_follows_which() {
    let memory = memory();
    let covered = |places: &[u64]| {
        let mut window = Window::new(&memory, GPA, 0x1000, Layout::Kcov).unwrap();
        window.clear(&memory).unwrap();
        for (index, place) in (1..).zip(places) {
            memory.write(GPA + 8 * index, &place.to_le_bytes()).unwrap();
        }
        memory.write(GPA, &(places.len() as u64).to_le_bytes()).unwrap();
        let mut counters = Counters::default();
        window.collect(&memory, &mut counters).unwrap();
        let mut slots: Vec<u32> = counters.slots().collect();
        slots.sort_unstable();
        slots
    };
    assert!(covered(&[]).is_empty());
    assert_eq!(covered(&[0x1000, 0x2000]).len(), 2);
    assert_ne!(covered(&[0x1000, 0x2000]), covered(&[0x2000, 0x1000]));
}

#[test]
fn test_window_of_kcov_whose_number_is_too_large_is_read_to_its_end() {
    let memory = memory();
    let mut window = Window::new(&memory, GPA, 0x1000, Layout::Kcov).unwrap();
    memory.write(GPA, &u64::MAX.to_le_bytes()).unwrap();
    let mut counters = Counters::default();
    window.collect(&memory, &mut counters).unwrap();
    assert!(!counters.is_empty());
}

#[test]
fn test_window_that_is_not_of_whole_pages_of_memory_is_refused() {
    let memory = memory();
    let refused = |gpa, len| Window::new(&memory, gpa, len, Layout::Counters).is_err();
    assert!(refused(GPA, 0) && refused(GPA + 8, 0x1000) && refused(GPA, 0x1001));
    assert!(refused(1 << 20, 0x1000) && refused(0, 32 << 20) && refused(u64::MAX - 0xfff, 0x1000));
}
