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
    assert_eq!(memory.given(), [(0xFFF, 1), (0x1000, 2), (0xFFE, 3), (0x1001, 0)]);
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
