#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn test_input_device_answers_reads_with_the_next_bytes_and_then_with_its_filling() {
    let input = Arc::new(FuzzInput::default());
    let device = InputDevice { input: input.clone(), after: 0xff };
    let read = |size| device.read(Access { offset: 0, size, vcpu: 0 });
    input.put(&[1, 2, 3, 4, 5]);
    assert_eq!([read(1), read(2), read(4), read(1)], [1, 0x0302, 0xffff_0504, 0xff]);
    assert_eq!(input.left(), 0);
    input.put(&[9]);
    assert_eq!((input.left(), read(1)), (1, 9));
}

#[test]
fn test_input_taken_past_its_end_gives_what_there_is() {
    let input = FuzzInput::default();
    assert_eq!(input.take(4), []);
    input.put(b"abc");
    assert_eq!((input.take(2), input.take(usize::MAX)), (b"ab".to_vec(), b"c".to_vec()));
}

#[test]
fn test_input_device_has_nothing_that_a_restore_would_put_back() {
    let device = InputDevice { input: Arc::default(), after: 0 };
    device.input.put(b"abc");
    let state = device.save().unwrap();
    device.input.take(2);
    device.load(&*state).unwrap();
    assert_eq!(device.input.left(), 1);
}
