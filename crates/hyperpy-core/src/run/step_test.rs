//! Steps and breakpoints over scripted vCPUs: what is armed when, accesses in the middle of a step, who goes first.
//!
//! A scripted vCPU stands at 0 and goes one further with each exit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::bus::Space;
use crate::control::Phase;
use crate::debug::Breakpoint;
use crate::error::RunError;
use crate::scripted::Step;
use crate::testing::{LONG, Recorder, Rig, ins, io, outs, stopped, stopper};

const STEPPED: u64 = DR6_ONES | DR6_STEP;

fn debug(pc: u64, dr6: u64) -> AccelExit {
    AccelExit::Debug { pc, dr6 }
}

/// A step that leads to `pc`, which is where the scripted vCPU stands then.
fn to(pc: u64) -> Step {
    Step::Exit(debug(pc, STEPPED), vec![])
}

fn at(vcpu: u32, pc: u64, dr6: u64) -> Exit {
    Exit::Debug { vcpu, pc, dr6 }
}

fn code(address: u64) -> Breakpoint {
    Breakpoint { address, size: 1, on: On::Execute }
}

fn step(rig: &Rig, count: u64) -> Exit {
    rig.machine.step(0, count, Some(LONG), rig).unwrap()
}

/// (step, number of breakpoints) of each setting.
fn armed(rig: &Rig) -> Vec<(bool, usize)> {
    let count = |control: &DebugControl| control.breakpoints.iter().flatten().count();
    rig.log().debug.iter().map(|(_, control)| (control.step, count(control))).collect()
}

#[test]
fn test_step_executes_as_many_instructions_as_asked_and_arms_each() {
    let rig = Rig::new(vec![(1..9).map(to).collect()]);
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(step(&rig, 4), at(0, 5, STEPPED));
    assert_eq!(armed(&rig), [(true, 0); 5]);
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    assert!(matches!(rig.machine.step(1, 1, None, &rig), Err(RunError::NoVcpu { vcpu: 1 })));
}

#[test]
fn test_step_onto_a_breakpoint_ends_early_and_names_it() {
    let rig = Rig::new(vec![(1..9).map(to).collect()]);
    rig.machine.set_breakpoint(code(0x999), None).unwrap();
    rig.machine.set_breakpoint(code(3), None).unwrap();
    let watch = Breakpoint { address: 0x2000, size: 4, on: On::Write };
    rig.machine.set_breakpoint(watch, None).unwrap();
    assert_eq!(step(&rig, 9), at(0, 3, STEPPED | 0b10));
    // While it steps only the watchpoint is in a register.
    assert_eq!(armed(&rig), [(true, 1); 3]);
    // A further step leaves it.
    assert_eq!(step(&rig, 1), at(0, 4, STEPPED));
}

#[test]
fn test_hits_of_registers_that_hold_nothing_are_not_told() {
    // A processor may name them: what a breakpoint that is gone, or not in its register during a step, has left there.
    let rig = Rig::new(vec![vec![
        Step::Exit(debug(1, STEPPED | 0b1111), vec![]),
        to(2),
        Step::Exit(debug(3, DR6_ONES | 0b1101), vec![]),
    ]]);
    rig.machine.set_breakpoint(code(0x999), None).unwrap();
    assert_eq!(step(&rig, 2), at(0, 2, STEPPED));
    assert_eq!(rig.machine.run(Some(LONG), &rig).unwrap(), at(0, 3, DR6_ONES | 1));
}

#[test]
fn test_step_whose_write_hits_a_watchpoint_ends_early() {
    let rig = Rig::new(vec![vec![to(1), Step::Exit(debug(2, STEPPED | 1), vec![]), to(3)]]);
    rig.machine.set_breakpoint(Breakpoint { address: 0x2000, size: 4, on: On::Write }, None).unwrap();
    assert_eq!(step(&rig, 9), at(0, 2, STEPPED | 1));
}

#[test]
fn test_step_of_an_access_ends_where_it_is_complete_though_kvm_reports_no_step() {
    let device = Recorder::default();
    let rig =
        Rig::new(vec![vec![outs(0x80, &[5]), outs(0x80, &[6]), ins(0x80, 1), Step::Part(debug(3, STEPPED), vec![])]]);
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(device.writes(), [(0, 1, 5)]);
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
    // A read is reported as a step by KVM itself: it is not counted twice.
    assert_eq!(step(&rig, 1), at(0, 3, STEPPED));
    assert_eq!(rig.log().reads, [(0, 1)]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
}

#[test]
fn test_step_of_an_access_that_nobody_claims_returns_it_and_the_next_step_completes_it() {
    let rig = Rig::new(vec![vec![ins(0x80, 1), Step::Part(debug(1, STEPPED), vec![]), to(2), ins(0x80, 2)]]);
    let read = io(Ok(step(&rig, 1)));
    rig.machine.answer(&read, 0x42, &rig).unwrap().unwrap();
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(rig.log().reads, [(0, 0x42)]);
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
    // Of two, the second is asked for by the next step.
    assert_eq!(io(Ok(step(&rig, 1))).address, 0x80);
    assert_eq!(io(Ok(step(&rig, 1))).address, 0x80);
    assert_eq!(step(&rig, 1), at(0, 3, STEPPED));
}

#[test]
fn test_registers_written_in_the_middle_of_a_step_complete_its_access() {
    let rig = Rig::new(vec![vec![ins(0x80, 1), Step::Part(debug(1, STEPPED), vec![]), to(2)]]);
    io(Ok(step(&rig, 1)));
    rig.machine.set_regs(0, &rig, |regs| regs.rax = 5).unwrap();
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_step_that_makes_a_device_stop_the_machine_returns_that() {
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), to(2)]]);
    rig.attach(Space::Pio, 0x80, 1, stopper("enough"));
    assert_eq!(step(&rig, 5), stopped(Some(0), "enough"));
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_step_of_a_string_instruction_of_a_slow_device_leaves_between_two_values() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![outs(0x80, &[1, 2, 3]), to(2)]]);
    later.set(&rig);
    let seen = Recorder::default();
    let into = seen.clone();
    let write = move |at, value| {
        if value < 3 {
            hook.control().request(crate::control::Cause::Pause, None);
        }
        crate::bus::Device::write(&into, at, value)
    };
    let device = crate::testing::Closures(|_| 0, write);
    rig.machine.attach(Space::Pio, 0x80, 1, "slow", crate::bus::Rung::Method, std::sync::Arc::new(device)).unwrap();
    assert_eq!(step(&rig, 1), stopped(None, "pause"));
    assert_eq!(seen.writes(), [(0, 1, 1)]);
    assert_eq!(step(&rig, 1), stopped(None, "pause"));
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(seen.writes(), [(0, 1, 1), (0, 1, 2), (0, 1, 3)]);
}

#[test]
fn test_step_whose_further_part_is_of_a_slow_device_leaves_between_two_values() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let values = AccelExit::Pio { port: 0x80, size: 1, count: 3, is_write: true };
    let rig = Rig::new(vec![vec![outs(0x81, &[5]), Step::Part(values, vec![1, 2, 3]), to(2)]]);
    later.set(&rig);
    let seen = Recorder::default();
    let into = seen.clone();
    let write = move |at, value| {
        if value == 1 {
            hook.control().request(crate::control::Cause::Pause, None);
        }
        crate::bus::Device::write(&into, at, value)
    };
    let device = std::sync::Arc::new(crate::testing::Closures(|_| 0, write));
    rig.machine.attach(Space::Pio, 0x80, 1, "slow", crate::bus::Rung::Method, device).unwrap();
    rig.attach(Space::Pio, 0x81, 1, Recorder::default());
    assert_eq!(step(&rig, 1), stopped(None, "pause"));
    assert_eq!(seen.writes(), [(0, 1, 1)]);
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(seen.writes(), [(0, 1, 1), (0, 1, 2), (0, 1, 3)]);
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_step_completed_by_what_a_handler_serves_is_no_halt() {
    struct Zero;
    impl crate::msr::MsrHandler for Zero {
        fn read(&self, _: u32, _: u32) -> Option<u64> {
            Some(0)
        }
        fn write(&self, _: u32, _: u32, _: u64) -> Option<crate::bus::Action> {
            None
        }
    }
    let msr = AccelExit::Msr { index: 0x10, is_write: false, value: 0 };
    let rig = Rig::new(vec![vec![outs(0x80, &[5]), Step::Part(msr, vec![]), to(2)]]);
    rig.attach(Space::Pio, 0x80, 1, Recorder::default());
    let range = crate::accel::MsrRange { first: 0x10, count: 1 };
    rig.machine.trap_msr(range, Some(std::sync::Arc::new(Zero))).unwrap();
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_step_into_a_halt_and_what_else_comes_first_is_returned() {
    let rig = Rig::new(vec![vec![Step::Exit(AccelExit::Halt, vec![]), to(2), Step::Exit(AccelExit::Shutdown, vec![])]]);
    assert_eq!(step(&rig, 3), Exit::Halt { vcpu: 0 });
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
    assert_eq!(step(&rig, 1), Exit::Shutdown { vcpu: 0 });
    let rig = Rig::new(vec![vec![Step::Fail(libc::EFAULT)]]);
    assert!(matches!(rig.machine.step(0, 1, None, &rig), Err(RunError::Accel(_))));
}

#[test]
fn test_step_that_fails_is_still_to_be_made() {
    let rig = Rig::new(vec![vec![Step::Fail(libc::ENOMEM), to(1), to(2)]]);
    assert!(matches!(rig.machine.step(0, 1, None, &rig), Err(RunError::Accel(_))));
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_step_after_a_run_that_failed_is_made() {
    let rig = Rig::new(vec![vec![Step::Fail(libc::ENOMEM), to(1), to(2)]]);
    assert!(matches!(rig.run(), Err(RunError::Accel(_))));
    assert_eq!(step(&rig, 1), at(0, 1, STEPPED));
    assert_eq!(step(&rig, 1), at(0, 2, STEPPED));
}

#[test]
fn test_run_whose_step_off_a_breakpoint_fails_makes_it_the_next_time() {
    let hit = |pc| Step::Exit(debug(pc, DR6_ONES | 1), vec![]);
    let rig = Rig::new(vec![vec![hit(1), Step::Fail(libc::ENOMEM), to(2), hit(3)]]);
    rig.machine.set_breakpoint(code(1), None).unwrap();
    rig.run().unwrap();
    assert!(matches!(rig.run(), Err(RunError::Accel(_))));
    assert_eq!(rig.run().unwrap(), at(0, 3, DR6_ONES | 1));
}

#[test]
fn test_step_is_bounded_by_time_and_by_the_host() {
    let rig = Rig::new(vec![vec![Step::Spin; 99]]);
    let short = Some(Duration::from_millis(60));
    assert_eq!(rig.machine.step(0, 1, short, &rig).unwrap(), Exit::Timeout);
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.machine.step(0, 1, None, &rig), Err(RunError::Host)));
}

#[test]
fn test_run_from_a_breakpoint_steps_off_it_first_and_meets_it_again_later() {
    let hit = |pc| Step::Exit(debug(pc, DR6_ONES | 1), vec![]);
    let rig = Rig::new(vec![vec![hit(1), to(2), hit(3), hit(4)]]);
    rig.machine.set_breakpoint(code(1), None).unwrap();
    assert_eq!(rig.run().unwrap(), at(0, 1, DR6_ONES | 1));
    assert_eq!(armed(&rig), [(false, 1)]);
    // The step is not told; where it ran to is no breakpoint, so that nothing is stepped off after it.
    assert_eq!(rig.run().unwrap(), at(0, 3, DR6_ONES | 1));
    assert_eq!(armed(&rig), [(false, 1), (true, 0), (false, 1)]);
    assert_eq!(rig.run().unwrap(), at(0, 4, DR6_ONES | 1));
    assert_eq!(armed(&rig).len(), 3);
}

#[test]
fn test_run_from_a_breakpoint_after_rip_was_written_steps_off_nothing() {
    let hit = |pc| Step::Exit(debug(pc, DR6_ONES | 1), vec![]);
    let rig = Rig::new(vec![vec![hit(1), hit(1)]]);
    rig.machine.set_breakpoint(code(1), None).unwrap();
    rig.run().unwrap();
    rig.machine.set_regs(0, &rig, |regs| regs.rip = 0).unwrap();
    assert_eq!(rig.run().unwrap(), at(0, 1, DR6_ONES | 1));
    assert_eq!(armed(&rig), [(false, 1)]);
}

#[test]
fn test_run_that_is_interrupted_while_it_steps_off_a_breakpoint_does_so_later() {
    let hit = |pc| Step::Exit(debug(pc, DR6_ONES | 1), vec![]);
    let rig = Rig::new(vec![vec![hit(1), Step::Spin, Step::Spin, Step::Spin, to(2), hit(3)]]);
    rig.machine.set_breakpoint(code(1), None).unwrap();
    rig.run().unwrap();
    assert_eq!(rig.machine.run(Some(Duration::from_millis(60)), &rig).unwrap(), Exit::Timeout);
    assert_eq!(rig.run().unwrap(), at(0, 3, DR6_ONES | 1));
}

#[test]
fn test_run_without_breakpoints_arms_nothing_and_after_their_removal_clears_them_once() {
    let rig = Rig::new(vec![
        (1..9).map(|n| Step::Exit(AccelExit::Msr { index: n, is_write: false, value: 0 }, vec![])).collect(),
    ]);
    rig.run().unwrap();
    assert_eq!(armed(&rig), []);
    let number = rig.machine.set_breakpoint(code(0x999), None).unwrap();
    rig.run().unwrap();
    rig.run().unwrap();
    assert_eq!(armed(&rig), [(false, 1)]);
    rig.machine.clear_breakpoint(number).unwrap();
    rig.run().unwrap();
    rig.run().unwrap();
    assert_eq!(armed(&rig), [(false, 1), (false, 0)]);
}

#[test]
fn test_run_until_an_address_sets_a_breakpoint_on_that_vcpu_for_as_long_as_it_takes() {
    let hit = |pc| Step::Exit(debug(pc, DR6_ONES | 1), vec![]);
    let rig = Rig::new(vec![vec![Step::Spin; 99], vec![hit(1)]]);
    let exit = rig.machine.run_until(1, 1, Some(LONG), &rig).unwrap().unwrap();
    assert_eq!(exit, at(1, 1, DR6_ONES | 1));
    assert_eq!(rig.machine.debug.of(1), [None; 4]);
    let on: Vec<_> = rig.log().debug.iter().map(|(vcpu, control)| (*vcpu, control.breakpoints[0])).collect();
    assert_eq!(on, [(1, Some(code(1)))]);
    assert!(matches!(rig.machine.run_until(2, 1, None, &rig).unwrap(), Err(RunError::NoVcpu { vcpu: 2 })));
    // All registers in use: none is free, unless one has the address already.
    for n in 0..4 {
        rig.machine.set_breakpoint(code(n), None).unwrap();
    }
    assert!(rig.machine.run_until(1, 9, None, &rig).is_err());
    assert_eq!(rig.machine.run_until(1, 3, Some(Duration::from_millis(60)), &rig).unwrap().unwrap(), Exit::Timeout);
}
