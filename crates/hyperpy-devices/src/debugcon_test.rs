use proptest::prelude::*;

use super::*;
use crate::testing::{play, read, steps, sweep, write};

#[test]
fn test_bytes_reach_the_console_and_reads_say_present() {
    let console = Arc::new(Console::new(64));
    let port = DebugConsole::new(console.clone());
    for byte in *b"ok\n" {
        assert_eq!(write(&port, 0, 1, byte.into()), Action::Continue);
    }
    assert_eq!(console.read_from(0).1, b"ok\n");
    assert_eq!(read(&port, 0, 1), 0xe9);
    assert_eq!(read(&port, 0, 2), 0xffe9);
    sweep(&port, 1);
}

proptest! {
    #[test]
    fn test_any_guest_writes_the_bytes_of_offset_0(guest in steps(2)) {
        let console = Arc::new(Console::new(4096));
        let port = DebugConsole::new(console.clone());
        let written = |&(is_write, offset, _, value)| (is_write && offset == 0).then_some(value as u8);
        let expected: Vec<u8> = guest.iter().filter_map(written).collect();
        for step in guest {
            prop_assert_eq!(play(&port, step).1, Action::Continue);
        }
        prop_assert_eq!(console.read_from(0).1, expected);
    }
}
