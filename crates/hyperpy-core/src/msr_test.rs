//! Trapped registers on scripted machines: handlers, answers, faults, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Mutex;

use super::*;
use crate::accel::AccelExit;
use crate::bus::Rung;
use crate::error::StateError;
use crate::exit::{Exit, IoExit, StopReason};
use crate::scripted::{REFUSED_MSR, Step};
use crate::testing::{Rig, stopped};
use crate::vcpu::{Refused, current};

const CLOCK: u32 = 0x4b56_4d00;

fn rdmsr(index: u32) -> Step {
    Step::Exit(AccelExit::Msr { index, is_write: false, value: 0 }, Vec::new())
}

fn wrmsr(index: u32, value: u64) -> Step {
    Step::Exit(AccelExit::Msr { index, is_write: true, value }, Vec::new())
}

fn range(first: u32, count: u32) -> MsrRange {
    MsrRange { first, count }
}

/// Remembers what was written; refuses odd values, and reads of other registers than the clock.
#[derive(Default)]
struct Handler(Mutex<Vec<(u32, u32, u64)>>);

impl MsrHandler for Handler {
    fn read(&self, index: u32, vcpu: u32) -> Option<u64> {
        assert_eq!(
            current().map(|access| (access.space, access.address, access.vcpu)),
            Some((None, index.into(), vcpu))
        );
        (index == CLOCK).then_some(u64::MAX)
    }
    fn write(&self, index: u32, vcpu: u32, value: u64) -> Option<Action> {
        self.0.lock().unwrap().push((index, vcpu, value));
        match value {
            7 => panic!("seven"),
            8 => Some(Action::Stop(StopReason::Text("eight".into()))),
            value => (value % 2 == 0).then_some(Action::Continue),
        }
    }
}

/// The exit as `answer` takes it.
fn fields(exit: &Exit) -> IoExit {
    let (vcpu, address, is_write, ticket) = match *exit {
        Exit::Msr { vcpu, index, is_write, ticket, .. } => (vcpu, index.into(), is_write, ticket),
        Exit::Hypercall { vcpu, ticket, .. } => (vcpu, 0, false, ticket),
        _ => panic!("not to be answered: {exit:?}"),
    };
    IoExit { vcpu, address, size: 8, is_write, value: 0, ticket }
}

#[test]
fn test_handler_answers_reads_takes_writes_and_refuses_both() {
    let rig =
        Rig::new(vec![vec![rdmsr(CLOCK), wrmsr(CLOCK + 1, 4), wrmsr(CLOCK + 1, 5), rdmsr(CLOCK + 1), wrmsr(CLOCK, 8)]]);
    let handler = Arc::new(Handler::default());
    rig.machine.trap_msr(range(CLOCK, 2), Some(handler.clone())).unwrap();
    assert_eq!(rig.run().unwrap(), stopped(Some(0), "eight"));
    assert!(matches!(rig.run().unwrap(), Exit::Halt { .. }));
    assert_eq!(*handler.0.lock().unwrap(), [(CLOCK + 1, 0, 4), (CLOCK + 1, 0, 5), (CLOCK, 0, 8)]);
    let log = rig.log();
    assert_eq!((log.reads, log.faults), (vec![(0, u64::MAX)], vec![0, 0]));
    assert_eq!(log.traps, [range(CLOCK, 2)]);
    assert_eq!(rig.machine.control.vcpus().first().unwrap().readings().hits[Rung::Method as usize], 5);
}

#[test]
fn test_trapped_read_is_answered_or_faults_and_a_write_is_dropped() {
    let rig = Rig::new(vec![vec![rdmsr(CLOCK), rdmsr(CLOCK), wrmsr(CLOCK, 3)]]);
    rig.machine.trap_msr(range(CLOCK, 1), None).unwrap();
    let first = rig.run().unwrap();
    assert_eq!(rig.machine.answer(&fields(&first), 0x1234, &rig).unwrap(), Ok(()));
    let second = rig.run().unwrap();
    assert!(matches!(second, Exit::Msr { vcpu: 0, index: CLOCK, is_write: false, value: 0, .. }));
    assert_eq!(rig.machine.answer(&fields(&first), 1, &rig).unwrap(), Err(Refused::Stale));
    let third = rig.run().unwrap();
    assert!(matches!(third, Exit::Msr { is_write: true, value: 3, .. }));
    assert_eq!(rig.machine.answer(&fields(&third), 1, &rig).unwrap(), Err(Refused::NotRead));
    rig.run().unwrap();
    assert_eq!((rig.log().reads, rig.log().faults), (vec![(0, 0x1234)], vec![0]));
}

#[test]
fn test_pending_msr_is_completed_before_registers_are_written() {
    let rig = Rig::new(vec![vec![rdmsr(CLOCK), Step::Spin]]);
    rig.machine.trap_msr(range(CLOCK, 1), None).unwrap();
    let exit = rig.run().unwrap();
    rig.machine.answer(&fields(&exit), 9, &rig).unwrap().unwrap();
    assert_eq!(rig.log().reads, []);
    rig.machine.set_regs(0, &rig, |regs| regs.rbx = 1).unwrap();
    assert_eq!(rig.log().reads, [(0, 9)]);
    assert_eq!(rig.machine.answer(&fields(&exit), 9, &rig).unwrap(), Err(Refused::Stale));
}

#[test]
fn test_hypercall_is_answered_or_unknown() {
    let hypercall = Step::Exit(AccelExit::Hypercall { number: 12, arguments: [1, 2, 3, 0, 0, 0] }, Vec::new());
    let rig = Rig::new(vec![vec![hypercall.clone(), hypercall]]);
    let exit = rig.run().unwrap();
    assert!(matches!(exit, Exit::Hypercall { vcpu: 0, number: 12, arguments: [1, 2, 3, 0, 0, 0], .. }));
    rig.machine.answer(&fields(&exit), 0, &rig).unwrap().unwrap();
    rig.run().unwrap();
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 0), (0, 1000_u64.wrapping_neg())]);
}

#[test]
fn test_handler_that_panics_is_named_and_closes_the_machine() {
    let rig = Rig::new(vec![vec![wrmsr(CLOCK, 7)]]);
    rig.machine.trap_msr(range(CLOCK, 1), Some(Arc::new(Handler::default()))).unwrap();
    let error = rig.run().unwrap_err();
    assert_eq!(error.to_string(), "device handler of msr 0x4b564d00 panicked: seven");
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

#[test]
#[rustfmt::skip] // one refusal a line
fn test_ranges_that_cannot_be_trapped_are_refused() {
    let rig = Rig::new(vec![vec![]]);
    let trap = |first, count| rig.machine.trap_msr(range(first, count), None);
    trap(0x10, 4).unwrap();
    for (first, count, said) in [
        (0x20, 0, "no such range of msrs: 0x20 + 0x0"),
        (0x20, 0x3001, "no such range of msrs: 0x20 + 0x3001"),
        (u32::MAX, 2, "no such range of msrs: 0xffffffff + 0x2"),
        (0x700, 0x101, "msrs of the x2APIC cannot be trapped: 0x700 + 0x101"),
        (0x8ff, 1, "msrs of the x2APIC cannot be trapped: 0x8ff + 0x1"),
        (0x13, 1, "msrs are trapped already by 0x10 + 0x4: 0x13 + 0x1"),
        (0xf, 2, "msrs are trapped already by 0x10 + 0x4: 0xf + 0x2"),
    ] {
        let error = trap(first, count).unwrap_err();
        assert_eq!(error.to_string(), said);
        assert!(!error.hint().is_empty());
    }
    for first in 1..16 {
        trap(u32::MAX - first, 1).unwrap();
    }
    assert!(matches!(trap(0x900, 1), Err(TrapError::TooMany { .. })));
}

#[test]
fn test_trap_that_the_host_lacks_is_an_error_and_forgotten() {
    let rig = Rig::new(vec![vec![Step::Spin]]);
    rig.machine.regs(0, &rig).unwrap();
    let refused = rig.machine.trap_msr(range(REFUSED_MSR, 1), None).unwrap_err();
    assert_eq!(refused.to_string(), "/dev/kvm lacks KVM_CAP_X86_MSR_FILTER");
    assert!(rig.machine.trap_hypercalls().is_err());
    // After the vCPUs were made, those that it has are told at once.
    rig.machine.trap_msr(range(CLOCK, 1), None).unwrap();
    assert_eq!(rig.log().traps, [range(CLOCK, 1)]);
}

#[test]
fn test_trap_wanted_while_the_machine_runs_or_is_closed_is_refused() {
    let rig = Rig::new(vec![vec![Step::Spin]]);
    rig.start();
    let state = |error: TrapError| match error {
        TrapError::Run(RunError::State(StateError { phase, .. })) => phase,
        other => panic!("{other}"),
    };
    assert_eq!(state(rig.machine.trap_msr(range(CLOCK, 1), None).unwrap_err()), Phase::Running);
    rig.machine.close(None).unwrap();
    assert_eq!(state(rig.machine.trap_msr(range(CLOCK, 1), None).unwrap_err()), Phase::Closed);
    assert!(rig.machine.trap_hypercalls().is_err());
}
