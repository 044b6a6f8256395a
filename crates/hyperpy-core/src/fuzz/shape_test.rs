//! What a shape knows of its targets.

use super::*;

#[test]
fn test_legal_value_has_bits_that_can_be_written_and_members_of_enums() {
    let target = Target { bits: 0xFF, enums: vec![(0xF0, vec![0x10, 0x30])], ..Target::default() };
    assert_eq!([0x13, 0x103, 0x33].map(|value| target.legal(value)), [0x13, 0x13, 0x33]);
    for value in 0..0x200 {
        let legal = target.legal(value);
        assert!([0x10, 0x30].contains(&(legal & 0xF0)) && legal & !0xFF == 0);
        assert_eq!(target.legal(legal), legal);
    }
}

#[test]
fn test_offsets_far_away_find_their_register_and_others_none() {
    let target =
        |offset| Target { offset, length: 4, reads: true, writes: true, bits: 0xFFFF_FFFF, ..Target::default() };
    let shape = Shape::new(1 << 40, vec![target(0), target(1 << 30)]);
    assert_eq!([0, 3, 4, 1 << 30, 2 << 30].map(|offset| shape.at(offset)), [Some(0), Some(0), None, Some(1), None]);
    assert_eq!(shape.inside(u64::MAX, 8), Some(((1 << 40) - 8, 8)));
    assert_eq!(Shape::new(0, Vec::new()).inside(0, 1), None);
}

#[test]
fn test_device_that_declares_nothing_has_its_bytes() {
    let targets = undeclared(2);
    let places: Vec<_> = targets.iter().map(|it| (it.offset, it.length)).collect();
    assert_eq!(places, [(0, 1), (1, 1), (0, 2)]);
    assert!(undeclared(1 << 40).len() < 300 && undeclared(0).is_empty());
}
