//! vCPUs that are kept out of the guest for a moment, and what still reaches them there.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::bus::{Action, Space};
use crate::control::Phase;
use crate::error::{MemoryError, RunError};
use crate::exit::Exit;
use crate::scripted::Step;
use crate::testing::{Closures, Event, Rig, outs, stopped};

#[test]
fn test_hold_finds_every_vcpu_outside_and_lets_them_go_on() {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin, Step::Spin, Step::Spin]; 2], true);
    rig.start();
    for _ in 0..3 {
        let held = rig.machine.control.hold().unwrap();
        std::thread::sleep(Duration::from_millis(60)); // longer than one rest
        assert_eq!(rig.machine.control.lock().resting, 2);
        drop(held);
    }
    assert_eq!(rig.machine.control.phase(), Phase::Running);
    rig.machine.control.stop(crate::exit::StopReason::Text("enough".into()));
    assert_eq!(rig.wait().unwrap(), stopped(None, "enough"));
}

#[test]
fn test_hold_of_a_machine_that_stands_still_keeps_the_next_run_out() {
    let rig = Rig::new(vec![vec![]]);
    let entered = Arc::new(AtomicBool::new(false));
    let held = rig.machine.control.hold().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let outcome = rig.run();
            entered.store(true, Ordering::SeqCst);
            outcome
        });
        while rig.machine.control.lock().resting == 0 {
            std::thread::yield_now();
        }
        assert!(!entered.load(Ordering::SeqCst));
        drop(held);
        assert_eq!(running.join().unwrap().unwrap(), Exit::Halt { vcpu: 0 });
    });
}

#[test]
fn test_stop_reaches_a_vcpu_that_is_held() {
    let rig = Rig::new(vec![vec![Step::Spin]]);
    rig.start();
    let held = rig.machine.control.hold().unwrap();
    rig.machine.control.stop(crate::exit::StopReason::Text("now".into()));
    assert_eq!(rig.wait().unwrap(), stopped(None, "now"));
    drop(held);
}

#[test]
fn test_protect_while_a_device_does_not_return_is_an_error_and_the_machine_goes_on() {
    let (inside, leave) = (Event::new(), Event::new());
    let rig = Rig::new(vec![vec![outs(0x10, &[1]), outs(0x11, &[1])]]);
    let (there, back) = (inside.clone(), leave.clone());
    let writes = Arc::new(AtomicU32::new(0));
    let count = writes.clone();
    let stuck = Closures(
        |_| 0,
        move |_, _| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                there.set();
                back.wait();
            }
            Action::Continue
        },
    );
    rig.attach(Space::Pio, 0x10, 2, stuck);
    rig.start();
    inside.wait();
    let refused = rig.machine.protect_memory(0, false);
    assert!(matches!(refused, Err(RunError::Memory(MemoryError::Busy { .. }))), "{refused:?}");
    leave.set();
    assert_eq!(rig.wait().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(writes.load(Ordering::SeqCst), 2);
    rig.machine.protect_memory(0, false).unwrap();
}
