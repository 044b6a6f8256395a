//! The completion of an access before registers are written: its parts, what a device asks for meanwhile, and who hears whom.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::bus::{Action, Rung};
use crate::control::{Control, Phase};
use crate::exit::{Exit, SystemEvent};
use crate::scripted::Step;
use crate::testing::{Closures, Event, Recorder, Rig, ins, io, mmio_read, mmio_write, outs, stopped, stopper};

/// Wants its thread back as long as the flag is set.
struct Wants(Arc<AtomicBool>);

impl Host for Wants {
    fn poll(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn spawn(&self, _: u32) -> Result<(), RunError> {
        Err(RunError::Host)
    }
}

#[test]
fn test_set_regs_completes_an_access_with_all_its_parts_first() {
    let script = vec![
        Step::Exit(mmio_read(0xfe00_0ffe, 2), vec![]),
        Step::Part(mmio_read(0xfe00_1000, 2), vec![]),
        Step::Part(mmio_write(0xfe00_1002, 2), vec![5]),
        outs(0x99, &[1]),
    ];
    let rig = Rig::new(vec![script]);
    let device = Recorder::default();
    rig.attach(Space::Mmio, 0xfe00_1002, 0x10, device.clone());
    let exit = io(rig.run());
    rig.machine.answer(&exit, 0x1234, &rig).unwrap().unwrap();
    // Reading registers completes nothing.
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().reads, []);
    rig.machine.set_regs(0, &rig, |regs| regs.rax = 7).unwrap();
    // The part that nobody claims reads as ones: there is no caller to ask.
    assert_eq!(rig.log().reads, [(0, 0x1234), (0, 0xffff)]);
    assert_eq!(device.writes(), [(0, 2, 5)]);
    // No instruction ran: the next one is still to come.
    assert_eq!(io(rig.run()).value, 1);
    assert_eq!(rig.machine.regs(0, &rig).unwrap().rax, 7);
}

#[test]
fn test_set_regs_completes_the_rest_of_a_string_instruction_first() {
    let rig = Rig::new(vec![vec![ins(0x99, 3), outs(0x98, &[1])]]);
    let exit = io(rig.run());
    rig.machine.answer(&exit, 0x42, &rig).unwrap().unwrap();
    rig.machine.set_sregs(0, &rig, |sregs| sregs.cr2 = 1).unwrap();
    assert_eq!(rig.log().reads, [(0, 0x42), (0, 0xff), (0, 0xff)]);
    assert_eq!(io(rig.run()).value, 1);
}

#[test]
fn test_set_regs_with_nothing_pending_enters_nothing() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1])]]);
    rig.machine.set_regs(0, &rig, |regs| regs.rbx = 1).unwrap();
    assert_eq!(rig.machine.control.vcpus()[0].readings().exits, 0);
    rig.run().unwrap();
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    assert_eq!(rig.machine.control.vcpus()[0].readings().exits, 2);
}

#[test]
fn test_completion_that_ends_otherwise_says_how() {
    let rig = Rig::new(vec![vec![ins(0x99, 1), Step::Part(AccelExit::Shutdown, vec![])]]);
    rig.run().unwrap();
    let Err(RunError::Completion { exit }) = rig.machine.set_regs(0, &rig, |_| ()) else { panic!() };
    assert!(exit.contains("Shutdown"), "{exit}");
    // What ended the guest is not lost with it.
    assert_eq!(rig.machine.control.phase(), Phase::Stopped);
    assert_eq!(rig.run().unwrap(), Exit::Shutdown { vcpu: 0 });
}

#[test]
fn test_completion_in_which_a_device_asks_to_stop_is_told_by_the_next_run() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1, 2, 3]), outs(0x98, &[1])]]);
    io(rig.run());
    rig.attach(Space::Pio, 0x99, 1, stopper("enough"));
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    // Twice asked by one instruction, told once.
    assert_eq!(rig.run().unwrap(), stopped(Some(0), "enough"));
    assert_eq!(io(rig.run()).address, 0x98);
}

#[test]
fn test_completion_in_which_a_device_switches_off_stops_the_machine() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1, 2])]]);
    io(rig.run());
    let off = Closures(|_| 0, |_, _| Action::Stop(crate::exit::StopReason::PowerOff));
    rig.attach(Space::Pio, 0x99, 1, off);
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    assert_eq!(rig.machine.control.phase(), Phase::Stopped);
    assert_eq!(rig.run().unwrap(), Exit::SystemEvent { vcpu: 0, kind: SystemEvent::PowerOff, data: vec![] });
}

// fault row 50
#[test]
fn test_completion_in_which_a_device_panics_closes_the_machine() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1, 2])]]);
    io(rig.run());
    rig.attach(Space::Pio, 0x99, 1, Closures(|_| 0, |_, _| panic!("second value")));
    let Err(RunError::Panic { device, message }) = rig.machine.set_regs(0, &rig, |_| ()) else { panic!() };
    assert_eq!((device.as_str(), message.as_str()), ("test device", "second value"));
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

#[test]
fn test_completion_of_a_slow_device_leaves_between_two_values_when_asked_and_goes_on_there() {
    type Ask = fn(&Control, &AtomicBool);
    let table: [(&str, Ask); 5] = [
        ("interrupted", |_, wanted| wanted.store(true, Ordering::SeqCst)),
        ("cannot write registers: the machine was asked to stop while an access was completed", |control, _| {
            control.stop(crate::exit::StopReason::Text("asked".into()));
        }),
        ("cannot write registers: the machine was asked to stop while an access was completed", |control, _| {
            control.device_failed();
        }),
        ("cannot write registers: the machine was asked to stop while an access was completed", |control, _| {
            control.device_asks(0, Action::Reset);
        }),
        ("cannot write registers: the machine is closed", |control, _| control.begin_close()),
    ];
    for (said, ask) in table {
        let rig = Rig::new(vec![vec![outs(0x80, &[1, 2, 3, 4]), outs(0x99, &[7])]]);
        io(rig.run());
        let (seen, wanted) = (Recorder::default(), Arc::new(AtomicBool::new(false)));
        let (into, control, flag) = (seen.clone(), rig.machine.control.clone(), wanted.clone());
        let write = move |at, value| {
            if value == 2 {
                ask(&control, &flag);
            }
            crate::bus::Device::write(&into, at, value)
        };
        rig.attach_slow(0x80, Closures(|_| 0, write));
        let host = Wants(wanted.clone());
        let refused = rig.machine.set_regs(0, &host, |regs| regs.rax = 7).unwrap_err();
        assert_eq!((refused.to_string().as_str(), seen.writes().len()), (said, 1));
        wanted.store(false, Ordering::SeqCst);
        if rig.machine.control.phase() == Phase::Closed {
            continue;
        }
        // Nothing was written, and nothing is lost.
        assert_eq!(rig.machine.regs(0, &host).unwrap().rax, 0);
        rig.machine.set_regs(0, &host, |regs| regs.rax = 7).unwrap();
        assert_eq!(seen.writes().iter().map(|write| write.2).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(rig.machine.regs(0, &host).unwrap().rax, 7);
    }
}

#[test]
fn test_registers_of_a_vcpu_in_other_hands_and_a_run_hear_their_host() {
    let rig = Rig::new(vec![vec![outs(0x99, &[7])]]);
    rig.machine.regs(0, &rig).unwrap();
    rig.holding(|release| {
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(rig.machine.regs(0, &rig), Err(RunError::Host)));
        assert!(matches!(rig.machine.set_regs(0, &rig, |_| ()), Err(RunError::Host)));
        assert!(matches!(rig.run(), Err(RunError::Host)));
        assert_eq!(rig.machine.control.phase(), Phase::Paused);
        rig.wanted.store(false, Ordering::SeqCst);
        release.set();
    });
    assert_eq!(io(rig.run()).value, 7);
}

// fault row 50
#[test]
fn test_completion_in_which_a_device_panics_hears_its_host_while_another_vcpu_is_in_a_device() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1, 2])], vec![outs(0x80, &[1])]]);
    io(rig.machine.run_one(0, None, &rig));
    let [inside, go, busy, release] = [(); 4].map(|()| Event::new());
    let (tell, wait) = (inside.clone(), go.clone());
    let panicking = move |_, _| {
        tell.set();
        wait.wait();
        panic!("second value")
    };
    rig.attach(Space::Pio, 0x99, 1, Closures(|_| 0, panicking));
    let (tell, wait) = (busy.clone(), release.clone());
    let slow = move |_, _| {
        tell.set();
        wait.wait();
        Action::Continue
    };
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, slow));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| rig.machine.set_regs(0, &rig, |_| ()));
        inside.wait();
        let runner = scope.spawn(|| rig.run());
        busy.wait();
        go.set();
        while rig.machine.control.phase() != Phase::Closed {
            std::thread::yield_now();
        }
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(writer.join().unwrap(), Err(RunError::Host)));
        assert!(runner.join().unwrap().is_err());
        assert!(!rig.machine.memory.is_closed());
        release.set();
    });
    rig.wanted.store(false, Ordering::SeqCst);
    rig.machine.close(None).unwrap();
    assert!(rig.machine.memory.is_closed());
}

#[test]
fn test_completion_keeps_no_device_that_is_detached_afterwards() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1, 2]), outs(0x98, &[1])]]);
    io(rig.run());
    let device = Arc::new(Recorder::default());
    let attachment = rig.machine.attach(Space::Pio, 0x99, 1, "late", Rung::Native, device.clone()).unwrap();
    rig.machine.set_regs(0, &rig, |_| ()).unwrap();
    assert_eq!(device.writes(), [(0, 1, 2)]);
    drop(rig.machine.detach(attachment).unwrap());
    assert_eq!(Arc::strong_count(&device), 1);
}
