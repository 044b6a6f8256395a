use proptest::prelude::*;

use super::*;
use crate::testing::{play, read, steps, sweep, write};

fn device() -> FwCfg {
    let files = vec![("etc/e820".into(), vec![1, 2, 3]), ("bootorder".into(), b"HALT\0".to_vec())];
    FwCfg::new(3, files).unwrap()
}

/// The first `len` bytes of an item, as firmware reads them.
fn item(device: &FwCfg, item: u16, len: usize) -> Vec<u8> {
    assert_eq!(write(device, 0, 2, item.into()), Action::Continue);
    (0..len).map(|_| read(device, 1, 1) as u8).collect()
}

#[test]
fn test_items_that_firmware_asks_for_by_number_are_there() {
    let device = device();
    assert_eq!(item(&device, 0, 4), b"QEMU");
    assert_eq!(item(&device, 1, 4), [1, 0, 0, 0]); // no DMA
    assert_eq!((item(&device, 5, 2), item(&device, 0x0f, 2)), (vec![3, 0], vec![3, 0]));
}

#[test]
fn test_directory_lists_files_by_name_and_each_can_be_read() {
    let device = device();
    let directory = item(&device, 0x19, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    assert_eq!(directory[4..12], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert_eq!(directory[12..22], *b"bootorder\0");
    assert_eq!(directory[68..76], [0, 0, 0, 3, 0, 0x21, 0, 0]);
    assert_eq!(directory[76..85], *b"etc/e820\0");
    assert_eq!(item(&device, 0x20, 5), b"HALT\0");
    assert_eq!(item(&device, 0x21, 3), [1, 2, 3]);
}

#[test]
fn test_bytes_that_are_not_there_read_as_0() {
    let device = device();
    assert_eq!(item(&device, 0x21, 5), [1, 2, 3, 0, 0]);
    assert_eq!((item(&device, 0x22, 2), item(&device, 0xffff, 2)), (vec![0, 0], vec![0, 0]));
}

#[test]
fn test_selector_takes_16_bits_and_starts_at_the_beginning() {
    let device = device();
    assert_eq!(item(&device, 0x21, 2), [1, 2]);
    write(&device, 0, 1, 0);
    write(&device, 1, 1, 0);
    assert_eq!(read(&device, 1, 1), 3); // neither moved it
    assert_eq!(item(&device, 0x21, 1), [1]);
    device.reset();
    assert_eq!(read(&device, 1, 1), u64::from(b'Q'));
    assert_eq!(read(&device, 0, 2), u64::from(b'E') << 8 | 0xff);
    sweep(&device, PORTS);
}

#[test]
fn test_files_that_cannot_be_listed_are_refused() {
    let with = |name: &str| FwCfg::new(1, vec![(name.into(), vec![])]).map(|_| ());
    assert!(with(&"a".repeat(55)).is_ok());
    for name in ["", "a\0b", "ä", &"a".repeat(56)] {
        assert!(matches!(with(name), Err(FwCfgError::Name { .. })), "{name:?}");
    }
    let twice = FwCfg::new(1, vec![("a".into(), vec![1]), ("a".into(), vec![2])]);
    assert!(matches!(twice, Err(FwCfgError::Name { name }) if name == "a"));
    let many = (0..=MOST_FILES).map(|i| (i.to_string(), vec![])).collect();
    assert!(matches!(FwCfg::new(1, many), Err(FwCfgError::TooMany { count: 0x3fe1, most: 0x3fe0 })));
}

proptest! {
    #[test]
    fn test_any_guest_reads_bytes_and_stops_nothing(guest in steps(PORTS)) {
        let device = device();
        for step in guest {
            prop_assert_eq!(play(&device, step).1, Action::Continue);
        }
    }
}
