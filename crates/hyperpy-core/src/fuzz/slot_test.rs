#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;

use super::*;

/// A file without a name.
fn unlinked() -> File {
    let path = std::env::temp_dir().join(format!("hyperpy-slot-{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// A process has one, so this is of all of it.
#[test]
fn test_slot_has_the_input_while_it_is_executed_and_one_is_enough() {
    drop(Noted::new(b"nobody wants to know"));
    let file = unlinked();
    assert!(open(file.try_clone().unwrap()).is_err());
    file.set_len(SIZE as u64).unwrap();
    open(file.try_clone().unwrap()).unwrap();
    let read = || {
        let mut head = [0; HEAD + 4];
        file.read_exact_at(&mut head, 0).unwrap();
        head
    };
    let noted = Noted::new(b"abcd");
    assert_eq!(&read(), b"\x05\0\0\0\0\0\0\0abcd");
    drop(noted);
    assert_eq!(&read()[..HEAD], &[0; HEAD]);
    drop(Noted::new(&vec![7; LONGEST + 1]));
    assert!(open(file).is_err());
}
