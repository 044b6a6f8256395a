//! That all bytes are operations, and all operations bytes that come to them again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::fuzz::rng::Rng;
use crate::fuzz::shape::Need;

fn shape() -> Shape {
    let register =
        |offset, length, bits| Target { offset, length, reads: true, writes: true, bits, ..Target::default() };
    let banked = Target { needs: vec![Need { offset: 0, size: 1, mask: 0x80, value: 0x80 }], ..register(4, 4, 0xFF) };
    let closed = Target { writes: false, ..register(8, 8, u64::MAX) };
    let window = Target { is_window: true, ..register(0x40, 0x21, u64::MAX) };
    let mut shape = Shape::new(0x80, vec![register(0, 1, 0x83), banked, closed, window]);
    (shape.events, shape.has_memory) = (vec![0, 300], true);
    shape
}

fn decoded(shape: &Shape, bytes: &[u8]) -> Ops {
    let mut ops = Ops::default();
    shape.decode(bytes, &mut ops);
    ops
}

#[test]
fn test_any_bytes_are_operations_in_range_that_encode_to_themselves() {
    let mut shapes = [shape(), Shape::new(3, Vec::new()), Shape::new(0, Vec::new())];
    shapes[1].most = 10;
    let mut rng = Rng::new(1);
    for round in 0..3000 {
        let shape = &shapes[round % 3];
        let bytes: Vec<u8> = (0..rng.index(200)).map(|_| rng.number().to_le_bytes()[0]).collect();
        let ops = decoded(shape, &bytes);
        assert!(ops.len() <= shape.most);
        for op in ops.list() {
            if let Op::Read { offset, size } | Op::Write { offset, size, .. } = *op {
                assert!((1..=8).contains(&size) && offset + u64::from(size) <= shape.size);
            }
        }
        let mut again = Vec::new();
        shape.encode(&ops, &mut again);
        assert!(decoded(shape, &again) == ops, "{:?}", ops.list());
    }
}

// fault row 48
#[test]
fn test_input_of_no_bytes_is_no_operations_and_one_that_is_too_long_is_cut() {
    let shape = shape();
    assert!(decoded(&shape, &[]).is_empty());
    let mut long = vec![0; LONGEST + 1000];
    let cut = decoded(&shape, &long[..LONGEST]);
    long[LONGEST..].fill(0xFF);
    assert!(decoded(&shape, &long) == cut && cut.len() == shape.most);
}

#[test]
fn test_what_a_target_needs_is_written_before_and_can_be_left_out() {
    let shape = shape();
    let select = Op::Write { offset: 0, size: 1, value: 0x80 };
    let write = Op::Write { offset: 4, size: 4, value: 0xEF };
    assert_eq!(decoded(&shape, &[0, 1, 0, 0xEF, 0xBE, 0, 0]).list(), [select, write]);
    assert_eq!(decoded(&shape, &[BARE, 1, 0xEF, 0xBE, 0, 0]).list(), [write]);
}

#[test]
fn test_operations_that_repeat_take_few_bytes() {
    let shape = shape();
    let mut ops = Ops::default();
    for _ in 0..300 {
        ops.push(Op::Write { offset: 0, size: 1, value: 3 });
        ops.push(Op::Read { offset: 8, size: 8 });
    }
    let mut bytes = Vec::new();
    shape.encode(&ops, &mut bytes);
    assert!(bytes.len() < 20, "{}", bytes.len());
    assert!(decoded(&shape, &bytes) == ops);
}

#[test]
fn test_nine_bytes_of_ten_begin_what_a_driver_does() {
    let is_broken = |form| matches!(form, Form::Near | Form::Any | Form::Raw);
    let broken = (0..=u8::MAX).filter(|&byte| is_broken(form_of(byte))).count();
    assert_eq!(broken, 3 * 8);
    for (form, _) in FORMS {
        assert_eq!(form_of(first(form, 5)), form);
    }
}
