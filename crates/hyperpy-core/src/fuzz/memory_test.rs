//! What a device finds in memory that is made up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn read(memory: &mut Memory, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    memory.read(gpa, &mut bytes).unwrap();
    bytes
}

#[test]
fn test_what_is_read_first_comes_from_the_input_and_stays() {
    let mut memory = Memory::new(0x4000, false);
    memory.feed(&[1, 2, 3]);
    assert_eq!(read(&mut memory, 0xFFF, 2), [1, 2]);
    assert_eq!(read(&mut memory, 0xFFE, 4), [3, 1, 2, 0]);
    assert_eq!(memory.given(), [(0xFFF, 1), (0x1000, 2), (0xFFE, 3)]);
    memory.clear();
    assert_eq!(read(&mut memory, 0xFFF, 2), [0, 0]);
}

#[test]
fn test_guest_that_changes_its_mind_gives_other_bytes_and_not_for_what_the_device_wrote() {
    let mut memory = Memory::new(0x4000, true);
    memory.feed(&[1, 2, 3]);
    memory.write(0x11, &[9]).unwrap();
    assert_eq!(read(&mut memory, 0x10, 2), [1, 9]);
    assert_eq!(read(&mut memory, 0x10, 2), [2, 9]);
}

#[test]
fn test_what_is_no_memory_or_too_much_of_it_is_refused() {
    let mut memory = Memory::new(0x4000, false);
    for (gpa, len) in [(0x4000, 1), (0x3FFF, 2), (u64::MAX, 1), (u64::MAX, 2)] {
        assert_eq!(memory.read(gpa, &mut vec![0; len]), Err(Refused));
        assert_eq!(memory.write(gpa, &vec![0; len]), Err(Refused));
    }
    let mut large = Memory::new(1 << 40, false);
    let touched = (0..1 << 20).find(|page| large.write(page * PAGE, &[1]).is_err());
    assert_eq!(touched, Some(MOST as u64));
}

#[test]
fn test_what_is_read_again_and_again_is_told_up_to_a_bound_and_stays_then() {
    for is_double in [false, true] {
        let mut memory = Memory::new(1 << 20, is_double);
        for _ in 0..8 {
            memory.feed(&vec![7; 1 << 17]);
        }
        for _ in 0..4 {
            read(&mut memory, 0, 1 << 19);
        }
        assert_eq!(memory.given().len(), MOST_GIVEN, "{is_double}");
        assert_eq!(read(&mut memory, 0, 1)[0], 7);
        let held = read(&mut memory, 0, 1 << 19);
        memory.feed(&[9]);
        assert_eq!(read(&mut memory, 0, 1 << 19), held);
        assert_eq!(read(&mut memory, 1 << 19, 1), [0]);
    }
}

#[test]
fn test_what_waits_for_the_device_has_a_bound() {
    let mut memory = Memory::new(1 << 20, false);
    for _ in 0..1 << 10 {
        memory.feed(&[1; 4096]);
    }
    assert!(memory.footprint() <= 2 * MOST_FED, "{}", memory.footprint());
}

#[test]
fn test_pages_of_one_input_are_those_of_the_next_and_empty() {
    let mut memory = Memory::new(1 << 20, false);
    let mut costs = Vec::new();
    for _ in 0..3 {
        memory.clear();
        memory.write(0, &[5; 64 << 10]).unwrap();
        costs.push(memory.footprint());
    }
    assert_eq!(costs[0], costs[2]);
    assert!(costs[0] >= 2 * (64 << 10));
    memory.clear();
    assert_eq!(read(&mut memory, 0, 64 << 10), vec![0; 64 << 10]);
}
