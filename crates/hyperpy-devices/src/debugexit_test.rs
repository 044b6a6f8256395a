use proptest::prelude::*;

use super::*;
use crate::testing::{play, read, steps, sweep, write};

fn exit(status: u32) -> Action {
    Action::Stop(StopReason::DebugExit { status })
}

#[test]
fn test_write_of_each_width_gives_the_status() {
    for (size, value, status) in [
        (1, 0x00, 1),
        (1, 0x10, 0x21),
        (1, 0xff, 0x1ff),
        (1, 0x1234, 0x69),
        (2, 0xffff, 0x1_ffff),
        (4, 0x31, 0x63),
        (4, 0x8000_0001, 3),
        (4, 0xffff_ffff, 0xffff_ffff),
        (8, u64::MAX, 0xffff_ffff),
        (0, 7, 1),
    ] {
        assert_eq!(write(&DebugExit, 0, size, value), exit(status), "{value:#x} of {size}");
    }
}

#[test]
fn test_read_gives_0() {
    for size in 1..=8 {
        assert_eq!(read(&DebugExit, 0, size), 0);
    }
    sweep(&DebugExit, PORTS);
}

proptest! {
    #[test]
    fn test_any_write_stops_with_an_odd_status(guest in steps(PORTS)) {
        for step in guest {
            match play(&DebugExit, step) {
                (0, Action::Stop(StopReason::DebugExit { status })) => prop_assert!(step.0 && status & 1 == 1),
                (0, Action::Continue) => prop_assert!(!step.0),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
