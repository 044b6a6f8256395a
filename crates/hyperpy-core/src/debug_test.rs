//! Which breakpoints can be set, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::scripted::Step;
use crate::testing::Rig;

fn code(address: u64) -> Breakpoint {
    Breakpoint { address, size: 1, on: On::Execute }
}

#[test]
fn test_breakpoints_take_four_registers_and_give_them_back() {
    let rig = Rig::new(vec![vec![]]);
    let numbers: Vec<_> = (0..4).map(|n| rig.machine.set_breakpoint(code(n), None).unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let error = rig.machine.set_breakpoint(code(0x9000), None).unwrap_err();
    assert_eq!(error.to_string(), "all four debug registers are in use: no place for one at 0x9000");
    assert!(error.hint().contains("remove()"));
    rig.machine.clear_breakpoint(2).unwrap();
    assert_eq!(rig.machine.set_breakpoint(code(5), None).unwrap(), 2);
    // Numbers that are none are nobody's.
    rig.machine.clear_breakpoint(4).unwrap();
    assert_eq!(rig.machine.debug.of(0), [0, 1, 5, 3].map(|n| Some(code(n))));
}

#[test]
fn test_watchpoint_of_a_wrong_size_or_alignment_is_refused_and_takes_no_register() {
    let rig = Rig::new(vec![vec![]]);
    let watch = |address, size| rig.machine.set_breakpoint(Breakpoint { address, size, on: On::Write }, None);
    for size in [0, 3, 5, 16, 255] {
        assert_eq!(
            watch(0x1000, size).unwrap_err().to_string(),
            format!("size of a watchpoint is 1, 2, 4 or 8 bytes: {size}")
        );
    }
    for (address, size) in [(0x1001, 2), (0x1002, 4), (0x1004, 8), (u64::MAX, 2)] {
        let error = watch(address, size).unwrap_err();
        assert_eq!(error.to_string(), format!("watchpoint of {size} bytes is not aligned to its size: {address:#x}"));
        assert!(error.hint().contains("several"));
    }
    assert_eq!(rig.machine.debug.of(0), [None; 4]);
    assert_eq!(watch(u64::MAX, 1).unwrap(), 0);
}

#[test]
fn test_breakpoint_of_one_vcpu_is_set_on_that_one() {
    let rig = Rig::new(vec![vec![], vec![]]);
    rig.machine.set_breakpoint(code(7), Some(1)).unwrap();
    assert_eq!((rig.machine.debug.of(0)[0], rig.machine.debug.of(1)[0]), (None, Some(code(7))));
}

#[test]
fn test_breakpoint_of_a_running_machine_is_refused_and_of_a_closed_one_can_be_removed() {
    let rig = Rig::new(vec![vec![Step::Spin; 9]]);
    let number = rig.machine.set_breakpoint(code(7), None).unwrap();
    rig.start();
    let error = rig.machine.set_breakpoint(code(8), None).unwrap_err();
    assert_eq!(error.to_string(), "cannot set a breakpoint: the machine is running");
    assert!(!error.hint().is_empty());
    assert!(matches!(rig.machine.clear_breakpoint(number), Err(DebugError::State(_))));
    rig.machine.close(None).unwrap();
    rig.machine.clear_breakpoint(number).unwrap();
    assert!(rig.machine.set_breakpoint(code(8), None).is_err());
}

#[test]
fn test_hits_of_code_are_those_of_breakpoints_on_code_at_that_address() {
    let data = Breakpoint { address: 5, size: 1, on: On::ReadWrite };
    let all = [Some(code(5)), Some(data), None, Some(code(5))];
    assert_eq!((hits_of_code(&all, 5), hits_of_code(&all, 6)), (0b1001, 0));
}
