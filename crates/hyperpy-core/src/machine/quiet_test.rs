//! What guests did and devices do not know yet, before a machine is saved or put back.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use crate::bus::{Access, Action, BellAt, Device, Rung, Shortcuts, Space, Spot};
use crate::scripted::Step;
use crate::testing::Rig;

const PORT: u64 = 0x80;

/// Keeps writes until it is told to serve them; a doorbell of 2 bytes at 1.
#[derive(Default)]
struct Keeps {
    kept: Mutex<Vec<u64>>,
    served: Mutex<Vec<u64>>,
    stuck: bool,
}

impl Device for Keeps {
    fn read(&self, _: Access) -> u64 {
        0
    }
    fn write(&self, _: Access, value: u64) -> Action {
        self.served.lock().unwrap().push(value);
        Action::Continue
    }
    fn shortcuts(&self) -> Shortcuts {
        let bells = vec![BellAt { offset: 1, size: 2, value: Some(7) }];
        Shortcuts { late: true, bells, ..Shortcuts::default() }
    }
    fn has_late(&self) -> bool {
        !self.kept.lock().unwrap().is_empty()
    }
    fn flush(&self, _: usize, _: &dyn Fn(u64) -> Spot, _: &dyn Fn(u32, Action)) {
        if !self.stuck {
            let kept = std::mem::take(&mut *self.kept.lock().unwrap());
            self.served.lock().unwrap().extend(kept);
        }
    }
}

fn rig(stuck: bool) -> (Rig, Arc<Keeps>) {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 2]], true);
    let device = Arc::new(Keeps { stuck, ..Keeps::default() });
    rig.machine.attach(Space::Pio, PORT, 4, "keeps", Rung::Method, device.clone()).unwrap();
    (rig, device)
}

#[test]
fn test_quiesce_serves_what_is_kept_and_what_has_rung() {
    let (rig, device) = rig(false);
    assert!(rig.machine.quiesce(&rig).unwrap(), "nothing is made yet");
    rig.machine.regs(0, &rig).unwrap();
    device.kept.lock().unwrap().extend([1, 2]);
    assert!(rig.script.ring(PORT + 1, Some(7)));
    assert!(rig.machine.quiesce(&rig).unwrap());
    assert_eq!(*device.served.lock().unwrap(), [1, 2, 7]);
    assert!(rig.machine.quiesce(&rig).unwrap());
    assert_eq!(device.served.lock().unwrap().len(), 3);
}

#[test]
fn test_quiesce_tells_of_a_device_that_is_not_done() {
    let (rig, device) = rig(true);
    rig.machine.regs(0, &rig).unwrap();
    device.kept.lock().unwrap().push(1);
    assert!(!rig.machine.quiesce(&rig).unwrap());
}

#[test]
fn test_forgotten_ring_is_told_to_nobody() {
    let (rig, device) = rig(false);
    rig.machine.regs(0, &rig).unwrap();
    assert!(rig.script.ring(PORT + 1, Some(7)));
    rig.machine.forget_rings();
    assert!(rig.machine.quiesce(&rig).unwrap());
    assert!(device.served.lock().unwrap().is_empty());
}
