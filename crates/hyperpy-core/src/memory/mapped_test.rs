#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;

use super::*;

/// A file without a name, of a length.
fn unlinked(len: u64) -> File {
    let path = std::env::temp_dir().join(format!("hyperpy-mapped-{len}-{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(len).unwrap();
    file
}

#[test]
fn test_mapped_write_is_in_the_file_and_ends_where_there_is_no_room() {
    let file = unlinked(4096);
    let mapped = Mapped::new(file.try_clone().unwrap(), 16).unwrap();
    assert_eq!((mapped.write(0, b"one"), mapped.write(14, b"three"), mapped.write(17, b"no")), (3, 2, 0));
    let mut read = [0; 17];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"one\0\0\0\0\0\0\0\0\0\0\0th\0");
}

#[test]
fn test_mapped_of_a_file_that_is_too_short_is_refused() {
    assert!(Mapped::new(unlinked(8), 16).is_err());
}
