//! A whole machine over the scripted accelerator: any exits, which reach the devices as they were made; and any state, which is put
//! back whole or not at all.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::panic)]

use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Result, Unstructured};

use super::*;
use crate::accel::AccelExit;
use crate::bus::{Access, Action, Device, Rung, ones};
use crate::exit::{Exit, SystemEvent};
use crate::scripted::Step;
use crate::snapshot::{Parts, Saved, Snapshot, State, StateFault, Value};
use crate::targets::{any_of, changed, near, with};
use crate::testing::{Recorder, Rig};

/// Keeps a number below 1,000.
struct Number(AtomicU64);

impl Device for Number {
    fn read(&self, _: Access) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn write(&self, _: Access, value: u64) -> Action {
        self.0.store(value % 1_000, Ordering::SeqCst);
        Action::Continue
    }
    fn save(&self) -> core::result::Result<State, StateFault> {
        Ok(Arc::new(Value::from(self.0.load(Ordering::SeqCst))))
    }
    fn check(&self, state: &dyn Saved) -> core::result::Result<(), StateFault> {
        let number = state.value().int::<u64>();
        crate::snapshot::require(number.is_some_and(|it| it < 1_000), "no such number")
    }
    fn load(&self, state: &dyn Saved) -> core::result::Result<(), StateFault> {
        self.check(state)?;
        self.0.store(state.value().int().unwrap_or_default(), Ordering::SeqCst);
        Ok(())
    }
}

/// Any state of a machine, as a file would have it.
pub fn machine_state(data: &[u8]) {
    with(data, |u| {
        let rig = Rig::with_irqchip(vec![Vec::new(); u.int_in_range(1..=2)?], u.arbitrary()?);
        rig.machine.attach(Space::Pio, 0x80, 1, "number", Rung::Native, Arc::new(Number(AtomicU64::new(5)))).unwrap();
        let line = rig.machine.line(4).unwrap_or_else(|_| crate::irq::Unconnected::new());
        let base = rig.machine.snapshot(&rig).unwrap();
        for _ in 0..3 {
            line.set(u.arbitrary()?);
            let before = rig.machine.snapshot(&rig).unwrap();
            let mut value = base.value();
            for _ in 0..u.int_in_range(0..=3)? {
                changed(u, &mut value)?;
            }
            let Ok(parts) = Parts::of(&value) else { continue };
            // What was read is what is written, and that is read as itself.
            let again = parts.value();
            assert_eq!(Parts::of(&again).map(|parts| parts.value()).ok(), Some(again));
            let snapshot = Snapshot { parts, memory: base.memory.clone() };
            match rig.machine.restore(&snapshot, &[], &rig) {
                Ok(_) => {
                    let now = rig.machine.snapshot(&rig).unwrap();
                    let other = crate::snapshot::file::changes(&snapshot.value(), &now.value());
                    // There is no console here that could be given its part.
                    let is_same = snapshot.parts.console.is_some() || now.hash() == snapshot.hash();
                    assert!(is_same, "{other:?}");
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty() && !error.hint().is_empty());
                    if rig.machine.check("look").is_ok() {
                        assert_eq!(rig.machine.snapshot(&rig).unwrap().value(), before.value(), "{error}");
                    }
                }
            }
        }
        Ok(())
    });
}

/// An exit and the values that the guest writes.
fn exit(u: &mut Unstructured<'_>) -> Result<(AccelExit, Vec<u64>)> {
    let values = |u: &mut Unstructured<'_>, count: u32| (0..count).map(|_| u.arbitrary()).collect::<Result<Vec<u64>>>();
    Ok(match u.int_in_range(0..=15)? {
        0..=5 => {
            let (port, size, count) =
                (near(u, &[0x80, 0xffff])? as u16, any_of(u, &[1, 2, 4])?, u.int_in_range(1..=8)?);
            let is_write = u.arbitrary()?;
            (AccelExit::Pio { port, size, count, is_write }, if is_write { values(u, count)? } else { Vec::new() })
        }
        6..=10 => {
            let (gpa, size, is_write) = (near(u, &[0xfe00_0000, 0, u64::MAX])?, u.int_in_range(1..=8)?, u.arbitrary()?);
            (AccelExit::Mmio { gpa, size, is_write }, if is_write { values(u, 1)? } else { Vec::new() })
        }
        11 => (AccelExit::Debug { pc: u.arbitrary()?, dr6: u.arbitrary()? }, Vec::new()),
        12 => (AccelExit::FailEntry { reason: u.arbitrary()? }, Vec::new()),
        13 => {
            let (suberror, len) = (u.int_in_range(0..=3)?, u.arbitrary()?);
            (AccelExit::InternalError { suberror, bytes: u.arbitrary()?, len }, Vec::new())
        }
        14 => (AccelExit::Unknown { reason: u.arbitrary()? }, Vec::new()),
        _ => (AccelExit::SystemEvent(SystemEvent::Other(u.arbitrary()?)), Vec::new()),
    })
}

/// Any exits: each access that lies in a device reaches it as it was made, in order, and each other one is returned once.
pub fn run_loop(data: &[u8]) {
    const RANGES: [(Space, u64, u64); 3] =
        [(Space::Pio, 0x80, 4), (Space::Pio, 0xfffc, 4), (Space::Mmio, 0xfe00_0000, 0x40)];
    with(data, |u| {
        let mut exits = Vec::new();
        for _ in 0..u.int_in_range(1..=20)? {
            exits.push(exit(u)?);
        }
        let script = exits.iter().map(|(exit, values)| Step::Exit(*exit, values.clone())).collect();
        let rig = Rig::new(vec![script]);
        let devices = RANGES.map(|(space, base, len)| {
            let device = Recorder::default();
            rig.attach(space, base, len, device.clone());
            device
        });
        let mut told: [(Vec<_>, Vec<_>); 3] = Default::default();
        for (exit, values) in &exits {
            let (space, address, size, count, is_write) = match *exit {
                AccelExit::Pio { port, size, count, is_write } => (Space::Pio, port.into(), size, count, is_write),
                AccelExit::Mmio { gpa, size, is_write } => (Space::Mmio, gpa, size, 1, is_write),
                _ => {
                    // Told once, with no more bytes than there are.
                    if let Exit::InternalError { bytes, .. } = rig.run().unwrap() {
                        assert!(bytes.len() <= 15);
                    }
                    continue;
                }
            };
            let holds = |&(its, base, len): &(Space, u64, u64)| {
                its == space
                    && address >= base
                    && u128::from(address) + u128::from(size) <= u128::from(base) + u128::from(len)
            };
            let value = |at: u32| values.get(at as usize).copied().unwrap_or(0) & ones(size);
            match RANGES.iter().position(holds) {
                Some(at) if is_write => {
                    told[at].1.extend((0..count).map(|number| (address - RANGES[at].1, size, value(number))));
                }
                Some(at) => told[at].0.extend((0..count).map(|_| (address - RANGES[at].1, size))),
                None => (0..count).for_each(|number| match rig.run().unwrap() {
                    Exit::Pio(io) | Exit::Mmio(io) => {
                        assert_eq!((io.address, io.size, io.is_write), (address, size, is_write));
                        assert_eq!(io.value, if is_write { value(number) } else { 0 });
                    }
                    other => panic!("not an unclaimed access: {other:?}"),
                }),
            }
        }
        assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
        for (device, (reads, writes)) in devices.iter().zip(told) {
            assert_eq!((device.reads(), device.writes()), (reads, writes));
        }
        Ok(())
    });
}
