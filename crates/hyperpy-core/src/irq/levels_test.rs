//! Levels put back, here and in KVM.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::accel::{Accelerator, VmConfig};
use crate::irq::Line;
use crate::scripted::Scripted;

struct Rig {
    hub: Arc<LineHub>,
    script: Scripted,
    _vm: Arc<dyn Vm>,
}

impl Rig {
    fn new() -> Self {
        let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
        let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
        hub.connect(&vm).unwrap();
        Self { hub, script, _vm: vm }
    }

    /// What KVM is told meanwhile.
    fn told(&self, f: impl FnOnce()) -> Vec<(u32, bool)> {
        let before = self.script.log().lines.len();
        f();
        self.script.log().lines.split_off(before)
    }
}

fn levels(lines: &[&Arc<dyn Line>]) -> Vec<bool> {
    lines.iter().map(|line| line.is_high()).collect()
}

#[test]
fn test_lines_put_back_are_told_to_kvm_where_a_gsi_has_changed() {
    let rig = Rig::new();
    let (one, other, third) = (rig.hub.line(5), rig.hub.line(5), rig.hub.line(9));
    one.set(true);
    third.set(true);
    let kept = rig.hub.save();
    one.set(false);
    other.set(true);
    third.set(false);
    let later = rig.hub.line(10);
    later.set(true);
    assert_eq!(rig.told(|| rig.hub.load(&kept).unwrap()), [(9, true), (10, false)]);
    assert_eq!(levels(&[&one, &other, &third, &later]), [true, false, true, false]);
    assert_eq!(rig.told(|| rig.hub.load(&kept).unwrap()), []);
    assert_eq!(rig.told(|| one.set(false)), [(5, false)], "the one that was high is");
}

#[test]
fn test_snapshot_beside_pulses_has_the_line_low_and_every_pulse_whole() {
    let rig = Rig::new();
    let line = rig.hub.line(5);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..20_000).for_each(|_| line.pulse()));
        loop {
            // What KVM has been told when the levels are taken belongs to them.
            let (kept, told) = rig.hub.save_with(|| rig.script.log().lines.len());
            assert!(kept.lines.iter().all(|(_, level)| !level.high));
            assert_eq!(told % 2, 0);
            if told == 40_000 {
                break;
            }
        }
    });
}

#[test]
fn test_lines_of_a_copy_are_taken_by_gsi_and_order() {
    let (parent, child) = (Rig::new(), Rig::new());
    let gone = parent.hub.line(5);
    let mine = (parent.hub.line(5), parent.hub.line(9), parent.hub.line(5));
    drop(gone);
    mine.2.set(true);
    let kept = parent.hub.save();
    for state in [&kept as &dyn Saved, &Saved::value(&kept)] {
        let theirs = (child.hub.line(9), child.hub.line(5), child.hub.line(5));
        theirs.1.set(true);
        child.hub.load(state).unwrap();
        assert_eq!(levels(&[&theirs.0, &theirs.1, &theirs.2]), [false, false, true]);
        assert_eq!(child.script.log().lines.last(), Some(&(5, true)));
    }
    assert!(mine.2.is_high() && !mine.0.is_high());
}

#[test]
fn test_state_with_a_line_that_is_not_there_is_refused_and_changes_nothing() {
    let (rig, other) = (Rig::new(), Rig::new());
    let line = rig.hub.line(5);
    line.set(true);
    let kept = rig.hub.save();
    let low = other.hub.line(6);
    for hub in [&other.hub, &rig.hub] {
        let gone = rig.hub.line(7);
        gone.set(true);
        let with_gone = rig.hub.save();
        drop(gone);
        assert!(matches!(hub.load(&with_gone), Err(StateFault::Misfit(_))));
    }
    assert!(other.hub.load(&kept).is_err() && !low.is_high() && line.is_high());
    for wrong in [
        Value::Nothing,
        Value::map([("lines", Value::Nothing), ("routes", Value::Nothing)]),
        Value::map([
            ("lines", Value::List(Vec::new())),
            ("routes", Value::List(vec![Value::map([("gsi", 1_u8.into())])])),
        ]),
        Value::map([
            ("lines", Value::List(Vec::new())),
            ("routes", Value::List(vec![Value::map([("gsi", 9999_u32.into()), ("pic", 1_u8.into())])])),
        ]),
    ] {
        assert!(matches!(rig.hub.load(&wrong), Err(StateFault::Misfit(_))), "{wrong:?}");
        assert!(line.is_high());
    }
}

#[test]
fn test_routes_put_back_lead_where_they_led_with_the_levels_of_then() {
    let rig = Rig::new();
    let line = rig.hub.line(5);
    line.set(true);
    let first = rig.hub.save();
    let message = Route::Msi { gsi: 24, address: 0xfee0_0000, data: 0x30 };
    rig.hub.change_routes(|routes| routes.push(message)).unwrap();
    let second = rig.hub.save();
    line.set(false);
    assert_eq!(rig.told(|| rig.hub.load(&first).unwrap()), [(5, true)]);
    assert_eq!((rig.hub.routes(), rig.script.log().routes), (default_routes(), default_routes()));
    rig.hub.load(&Saved::value(&second)).unwrap();
    assert_eq!(rig.hub.routes().last(), Some(&message));
    assert_eq!(rig.script.log().routes, rig.hub.routes());
}

#[test]
fn test_line_that_sends_a_message_has_its_level_again_and_sends_nothing() {
    let rig = Rig::new();
    let line = rig.hub.message_line(0xfee0_0000, 0x41);
    line.set(true);
    let kept = rig.hub.save();
    line.set(false);
    let sent = rig.script.log().messages.len();
    assert_eq!(rig.told(|| rig.hub.load(&kept).unwrap()), []);
    assert_eq!((line.is_high(), rig.script.log().messages.len()), (true, sent));
}

#[test]
fn test_levels_kept_before_there_are_controllers_are_handed_over() {
    let parent = Rig::new();
    parent.hub.line(4).set(true); // gone, and low
    let line = parent.hub.line(4);
    line.set(true);
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let theirs = hub.line(4);
    hub.load(&parent.hub.save()).unwrap();
    assert!(theirs.is_high());
    let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
    hub.connect(&vm).unwrap();
    assert_eq!(script.log().lines, [(4, true)]);
}
