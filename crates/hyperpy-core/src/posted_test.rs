//! Posted writes over scripted vCPUs: what they come before, what they count as, and which ranges are posted when.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use super::*;
use crate::error::RunError;
use crate::exit::Exit;
use crate::memory::Memory;
use crate::scripted::{Scripted, Step};
use crate::testing::{Closures, LONG, Recorder, Rig, ins, io, outs, stopped, stopper};
use crate::trace::Reason;

const THERE: Range = Range { space: Space::Pio, base: 0x80, len: 1 };

fn write(address: u64, value: u64) -> Posted {
    Posted { space: Space::Pio, address, size: 1, value }
}

fn ring(values: &[u64]) -> Step {
    Step::Posted(values.iter().map(|&value| write(0x80, value)).collect())
}

#[test]
fn test_posted_writes_come_before_the_exit_and_count_as_no_exit() {
    let rig = Rig::new(vec![vec![ring(&[1, 2]), outs(0x81, &[3]), ring(&[4]), ins(0x82, 1), ring(&[5])]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 4, device.clone());
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.writes(), [(0, 1, 1), (0, 1, 2), (1, 1, 3), (0, 1, 4), (0, 1, 5)]);
    let readings = rig.machine.control.vcpus()[0].readings();
    assert_eq!((readings.hits[Rung::Kernel as usize], readings.hits[Rung::Native as usize]), (4, 2));
    assert_eq!(readings.exits, 3, "a write, a read and the halt");
}

#[test]
fn test_posted_writes_are_served_when_a_vcpu_is_kicked_and_before_an_exit_for_the_caller() {
    let rig = Rig::new(vec![vec![ring(&[1]), Step::Spin, ring(&[2]), ins(0x99, 1)]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    // The time may be over before the vCPU is first entered.
    while device.writes().is_empty() {
        assert_eq!(rig.machine.run(Some(Duration::from_millis(1)), &rig).unwrap(), Exit::Timeout);
    }
    assert_eq!(device.writes(), [(0, 1, 1)]);
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(device.writes(), [(0, 1, 1), (0, 1, 2)]);
}

#[test]
fn test_posted_write_of_a_device_that_is_gone_is_dropped() {
    let rig = Rig::new(vec![vec![ring(&[1]), outs(0x81, &[2])]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x81, 1, device.clone());
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.writes(), [(0, 1, 2)]);
    assert_eq!(rig.machine.control.vcpus()[0].readings().hits[Rung::Unclaimed as usize], 1);
}

#[test]
fn test_posted_write_may_stop_the_machine_and_the_exit_with_it_is_served_first() {
    let rig = Rig::new(vec![vec![ring(&[1]), outs(0x81, &[2]), outs(0x81, &[3])]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, stopper("enough"));
    rig.attach(Space::Pio, 0x81, 1, device.clone());
    assert_eq!(rig.run().unwrap(), stopped(Some(0), "enough"));
    assert_eq!(device.writes(), [(0, 1, 2)], "and the next one waits");
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.writes(), [(0, 1, 2), (0, 1, 3)]);
}

#[test]
fn test_posted_writes_are_served_by_a_step_and_by_a_completion() {
    let rig = Rig::new(vec![vec![ins(0x99, 1), ring(&[1]), Step::Fail(libc::EINTR), ring(&[2])]]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    assert_eq!(io(rig.run()).address, 0x99);
    rig.machine.set_regs(0, &rig, |regs| regs.rbx = 1).unwrap();
    assert_eq!(device.writes(), [(0, 1, 1)]);
    assert_eq!(rig.machine.step(0, 1, Some(LONG), &rig).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.writes(), [(0, 1, 1), (0, 1, 2)]);
}

#[test]
fn test_device_that_panics_in_a_posted_write_ends_the_run_with_an_error() {
    let rig = Rig::new(vec![vec![ring(&[1]), outs(0x81, &[2])]]);
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, |_, _| panic!("no more paper")));
    let Err(RunError::Panic { device, message }) = rig.run() else { panic!() };
    assert_eq!((device.as_str(), message.as_str()), ("ring of posted writes", "no more paper"));
}

#[test]
fn test_posted_writes_are_in_the_trace() {
    let script = Scripted::new(vec![vec![ring(&[7]), outs(0x80, &[8])]]);
    let memory = Memory::with_ram(1 << 20).unwrap();
    let machine = Machine::new(Arc::new(script), memory, crate::accel::VmConfig { vcpus: 1, irqchip: false });
    let rig = Rig::of(Arc::new(machine.traced(8)));
    rig.attach(Space::Pio, 0x80, 1, Recorder::default());
    rig.run().unwrap();
    let entries = rig.machine.control.vcpus()[0].trace().unwrap().entries();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.reason, entry.address, entry.value)).collect();
    assert_eq!(seen, [(Reason::Pio, 0x80, 7), (Reason::Pio, 0x80, 8), (Reason::Halt, 0, 0)]);
}

#[test]
fn test_ranges_reach_the_vm_whenever_it_is_made() {
    let rig = Rig::new(vec![vec![]]);
    let mmio = Range { space: Space::Mmio, base: 0xfe00_0000, len: 8 };
    rig.machine.posts.set(THERE, true);
    assert_eq!(rig.log().posts, []);
    rig.run().unwrap();
    rig.machine.posts.set(mmio, true);
    rig.machine.posts.set(mmio, true);
    assert_eq!(rig.log().posts, [THERE, mmio]);
    rig.machine.posts.set(mmio, false);
    assert_eq!(rig.log().posts, [THERE]);
    rig.machine.reset(&rig, || Ok(())).unwrap();
    rig.machine.posts.set(mmio, true);
    assert_eq!(rig.log().posts, [THERE], "there is no VM to tell");
    rig.run().unwrap();
    assert_eq!(rig.log().posts, [THERE, mmio]);
}

#[test]
fn test_detached_device_posts_no_longer() {
    let rig = Rig::new(vec![vec![]]);
    let low = rig.attach(Space::Pio, 0x7f, 1, Recorder::default());
    let here = rig.attach(Space::Pio, 0x80, 2, Recorder::default());
    let place = rig.attach(Space::Mmio, 0xfe00_0000, 0x100, Recorder::default());
    rig.machine.posts.set(THERE, true);
    rig.machine.detach(low).unwrap();
    rig.machine.detach(place).unwrap();
    assert_eq!(rig.machine.posts.ranges(), [THERE]);
    rig.machine.detach(here).unwrap();
    assert_eq!(rig.machine.posts.ranges(), []);
}
