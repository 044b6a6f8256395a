//! The loop of one vCPU: decoding, string instructions, accesses in parts, exits for the caller, errors. Completion has a file of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::bus::{Action, Rung, ones};
use crate::control::Phase;
use crate::exit::{Exit, SystemEvent};
use crate::machine::Unclaimed;
use crate::scripted::Step;
use crate::testing::{Closures, Recorder, Rig, before, ins, io, mmio_read, mmio_write, outs, stopped};

#[test]
fn test_run_access_of_each_width_is_cut_to_it() {
    for size in 1..=8 {
        let script = vec![
            Step::Exit(mmio_write(0xfe00_0000, size), vec![u64::MAX]),
            Step::Exit(mmio_read(0xfe00_0010, size), vec![]),
        ];
        let rig = Rig::new(vec![script]);
        let written = Arc::new(Mutex::new(0));
        let into = written.clone();
        let device = Closures(
            |_| u64::MAX,
            move |_, value| {
                *into.lock().unwrap() = value;
                Action::Continue
            },
        );
        rig.attach(Space::Mmio, 0xfe00_0000, 0x100, device);
        assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
        assert_eq!(*written.lock().unwrap(), ones(size));
        assert_eq!(rig.log().reads, [(0, ones(size))]);
    }
}

#[test]
fn test_run_port_and_memory_at_one_address_are_two_places() {
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), Step::Exit(mmio_write(0x80, 4), vec![2])]]);
    // RAM is there, so the machine would refuse it; the bus takes it.
    let (port, place) = (Recorder::default(), Recorder::default());
    rig.attach(Space::Pio, 0x80, 1, port.clone());
    rig.machine.mmio.attach(0x80, 4, "place".into(), Rung::Native, Arc::new(place.clone())).unwrap();
    rig.run().unwrap();
    assert_eq!((port.writes(), place.writes()), (vec![(0, 1, 1)], vec![(0, 4, 2)]));
}

#[test]
fn test_run_string_instruction_serves_every_value_in_order() {
    let values: Vec<u64> = (1..=64).collect();
    let rig = Rig::new(vec![vec![outs(0x81, &values), ins(0x82, 64)]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 4, device.clone());
    rig.run().unwrap();
    assert_eq!(device.writes(), values.iter().map(|&value| (1, 1, value)).collect::<Vec<_>>());
    assert_eq!(rig.log().reads, values.iter().map(|&value| (0, value)).collect::<Vec<_>>());
    let readings = rig.machine.control.vcpus()[0].readings();
    assert_eq!((readings.hits[Rung::Native as usize], readings.exits), (128, 3));
}

#[test]
fn test_run_unclaimed_string_instruction_returns_each_value_and_serves_the_rest() {
    let rig = Rig::new(vec![vec![outs(0x99, &[7, 8, 9]), outs(0x80, &[1])]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    let first = io(rig.run());
    assert_eq!((first.address, first.size, first.is_write, first.value), (0x99, 1, true, 7));
    assert_eq!(io(rig.run()).value, 8);
    // What is left of the batch finds the device that is there now.
    let late = Recorder::default();
    rig.attach(Space::Pio, 0x99, 1, late.clone());
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!((late.writes(), device.writes()), (vec![(0, 1, 9)], vec![(0, 1, 1)]));
}

#[test]
fn test_run_access_in_parts_is_served_part_by_part() {
    let script = vec![
        Step::Exit(mmio_write(0xfe00_0ffd, 3), vec![0x11_2233]),
        Step::Part(mmio_write(0xfe00_1000, 5), vec![0x44_5566_7788]),
        Step::Exit(mmio_read(0xfe00_0fff, 1), vec![]),
        Step::Part(mmio_read(0xfe00_1000, 3), vec![]),
    ];
    let rig = Rig::new(vec![script]);
    let device = Recorder::default();
    rig.attach(Space::Mmio, 0xfe00_0000, 0x2000, device.clone());
    rig.run().unwrap();
    assert_eq!(device.writes(), [(0xffd, 3, 0x11_2233), (0x1000, 5, 0x44_5566_7788)]);
    assert_eq!(device.reads(), [(0xfff, 1), (0x1000, 3)]);
}

// fault row 13
#[test]
fn test_run_access_that_leaves_its_region_belongs_to_nobody() {
    let rig = Rig::new(vec![vec![Step::Exit(mmio_read(0xfe00_0ffe, 4), vec![])]]);
    rig.attach(Space::Mmio, 0xfe00_0000, 0x1000, Recorder::default());
    rig.attach(Space::Mmio, 0xfe00_1000, 0x1000, Recorder::default());
    let exit = io(rig.run());
    assert_eq!((exit.address, exit.size), (0xfe00_0ffe, 4));
}

// fault row 24
#[test]
fn test_run_other_exits_reach_the_caller_as_they_are() {
    let bytes = [0x0f, 0xae, 0xe8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let arguments = [1, 2, 3, 4, 5, 6];
    let error = |suberror, reason, bytes: &[u8]| Exit::InternalError {
        vcpu: 0,
        suberror,
        reason,
        bytes: bytes.into(),
        bits: if reason == 0 { 16 } else { 64 },
    };
    let event = |kind| (AccelExit::SystemEvent(kind), Exit::SystemEvent { vcpu: 0, kind, data: vec![] });
    let table = [
        (AccelExit::Hypercall { number: 9, arguments }, Exit::Hypercall { vcpu: 0, number: 9, arguments, ticket: 1 }),
        (
            AccelExit::Msr { index: 0x10, is_write: true, value: 7 },
            Exit::Msr { vcpu: 0, index: 0x10, is_write: true, value: 7, ticket: 1 },
        ),
        // A hit of a register that holds nothing of ours is not told.
        (AccelExit::Debug { pc: 0x1000, dr6: 0x4001 }, Exit::Debug { vcpu: 0, pc: 0x1000, dr6: 0x4000 }),
        (AccelExit::Shutdown, Exit::Shutdown { vcpu: 0 }),
        event(SystemEvent::PowerOff),
        event(SystemEvent::Reset),
        event(SystemEvent::Crash),
        event(SystemEvent::Other(77)),
        (AccelExit::FailEntry { reason: 0x21 }, Exit::FailEntry { vcpu: 0, reason: 0x21 }),
        (AccelExit::InternalError { suberror: 1, bytes, len: 3 }, error(1, 0, &[0x0f, 0xae, 0xe8])),
        (AccelExit::InternalError { suberror: 1, bytes, len: 200 }, error(1, 0, &[])),
        (AccelExit::Unknown { reason: 99 }, error(0, 99, &[])),
    ];
    for (from, to) in table {
        let rig = Rig::new(vec![vec![Step::Exit(AccelExit::Nothing, vec![]), Step::Exit(from, vec![])]]);
        let mut exit = rig.run().unwrap();
        if let Exit::Hypercall { ticket, .. } | Exit::Msr { ticket, .. } = &mut exit {
            *ticket = 1; // one count for the whole process
        }
        assert_eq!(exit, to);
        let phase = if to.is_final() { Phase::Stopped } else { Phase::Paused };
        assert_eq!(rig.machine.control.phase(), phase, "{to:?}");
    }
}

// fault row 37
#[test]
fn test_run_call_that_says_again_is_repeated() {
    let rig = Rig::new(vec![vec![Step::Fail(libc::EAGAIN), Step::Fail(libc::EAGAIN), outs(0x99, &[1])]]);
    assert_eq!(io(rig.run()).value, 1);
}

// fault row 37
#[test]
fn test_run_call_that_was_interrupted_for_nothing_goes_on() {
    let rig = Rig::new(vec![vec![Step::Fail(libc::EINTR), outs(0x99, &[1])]]);
    assert_eq!(io(rig.run()).value, 1);
}

// fault row 37
#[test]
fn test_run_call_that_fails_is_an_error_with_its_errno() {
    for errno in [libc::EFAULT, libc::ENOMEM, libc::EINVAL, libc::EBADF] {
        let rig = Rig::new(vec![vec![Step::Fail(errno), outs(0x99, &[1])]]);
        let Err(RunError::Accel(AccelError::Call { call: "KVM_RUN", source })) = rig.run() else { panic!() };
        assert_eq!(source.raw_os_error(), Some(errno));
        // The machine can run on.
        assert_eq!(io(rig.run()).value, 1);
    }
}

// fault row 14
#[test]
fn test_run_unclaimed_policy_ones_reads_as_ones_and_drops_writes() {
    let rig = Rig::new(vec![vec![ins(0x99, 2), outs(0x99, &[1]), Step::Exit(mmio_read(0xfe00_0000, 8), vec![])]]);
    rig.machine.set_unclaimed(Unclaimed::Ones);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(rig.log().reads, [(0, 0xff), (0, 0xff), (0, u64::MAX)]);
    assert_eq!(rig.machine.control.vcpus()[0].readings().hits[Rung::Unclaimed as usize], 4);
}

#[test]
fn test_run_spinning_guest_and_host_that_wants_its_thread_ends() {
    let rig = Rig::new(vec![vec![Step::Spin, outs(0x99, &[1])]]);
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.run(), Err(RunError::Host)));
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    rig.wanted.store(false, Ordering::SeqCst);
    assert_eq!(io(rig.run()).value, 1);
}

#[test]
fn test_run_whose_time_is_over_does_not_ask_the_host() {
    let rig = Rig::new(vec![vec![Step::Spin, Step::Spin]]);
    rig.wanted.store(true, Ordering::SeqCst);
    assert_eq!(rig.machine.run(Some(Duration::ZERO), &rig).unwrap(), Exit::Timeout);
    assert!(matches!(rig.run(), Err(RunError::Host)));
}

#[test]
fn test_run_tick_makes_the_loop_ask_the_host_without_any_kick() {
    let polls = Arc::new(AtomicUsize::new(0));
    struct Third(Arc<AtomicUsize>);
    impl Host for Third {
        fn poll(&self) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst) == 2
        }
        fn spawn(&self, _: u32) -> Result<(), RunError> {
            Ok(())
        }
    }
    let rig = Rig::new(vec![vec![Step::Spin, Step::Spin, Step::Spin, Step::Spin]]);
    let began = Instant::now();
    assert!(matches!(rig.machine.run(None, &Third(polls.clone())), Err(RunError::Host)));
    assert_eq!(polls.load(Ordering::SeqCst), 3);
    assert!(began.elapsed() >= TICK, "{:?}", began.elapsed());
}

#[test]
fn test_run_string_instruction_finishes_before_a_stop_is_honoured() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![outs(0x80, &[1, 2, 3]), before(|| ()), outs(0x80, &[4])]]);
    later.set(&rig);
    let seen = Recorder::default();
    let into = seen.clone();
    let device = Closures(
        |_| 0,
        move |at, value| {
            if value == 1 {
                hook.control().stop(crate::exit::StopReason::Text("asked".into()));
            }
            crate::bus::Device::write(&into, at, value)
        },
    );
    rig.attach(Space::Pio, 0x80, 1, device);
    assert_eq!(rig.run().unwrap(), stopped(None, "asked"));
    assert_eq!(seen.writes(), [(0, 1, 1), (0, 1, 2), (0, 1, 3)]);
}

#[test]
fn test_run_string_instruction_of_a_slow_device_leaves_between_two_values_and_goes_on_there() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![outs(0x80, &[1, 2, 3, 4, 5, 6]), ins(0x80, 3), outs(0x99, &[7])]]);
    later.set(&rig);
    let seen = Recorder::default();
    let into = seen.clone();
    let pause = move |at, value| {
        if value % 2 == 0 {
            hook.control().request(Cause::Pause, None);
        }
        crate::bus::Device::write(&into, at, value)
    };
    let reads = AtomicUsize::new(0);
    rig.attach_slow(0x80, Closures(move |_| reads.fetch_add(1, Ordering::SeqCst) as u64 + 40, pause));
    let writes = || seen.writes().iter().map(|write| write.2).collect::<Vec<_>>();
    assert_eq!(rig.run().unwrap(), stopped(None, "pause"));
    assert_eq!(writes(), [1, 2]);
    assert_eq!(rig.run().unwrap(), stopped(None, "pause"));
    assert_eq!(writes(), [1, 2, 3, 4]);
    // A write of registers completes the rest.
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    assert_eq!(writes(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(rig.log().reads, [(0, 40), (0, 41), (0, 42)]);
}

#[test]
fn test_run_string_instruction_of_a_slow_device_goes_on_when_nobody_wanted_anything() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![ins(0x80, 64), outs(0x99, &[7])]]);
    later.set(&rig);
    let reads = Arc::new(AtomicUsize::new(0));
    let count = reads.clone();
    let read = move |_| {
        hook.control().look(); // as a tick does
        count.fetch_add(1, Ordering::SeqCst) as u64
    };
    rig.attach_slow(0x80, Closures(read, |_, _| Action::Continue));
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(rig.log().reads, (0..64).map(|value| (0, value)).collect::<Vec<_>>());
}

// fault row 31
#[test]
fn test_run_string_instruction_of_a_device_that_fails_calls_it_once_for_each_run() {
    let later = crate::testing::Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![ins(0x80, 3), outs(0x99, &[7])]]);
    later.set(&rig);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let read = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        hook.control().device_failed();
        5
    };
    rig.attach_slow(0x80, Closures(read, |_, _| Action::Continue));
    for run in 1..=3 {
        assert!(matches!(rig.run(), Err(RunError::Device)));
        assert_eq!(calls.load(Ordering::SeqCst), run);
    }
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(rig.log().reads, [(0, 5); 3]);
}
