//! Messages that reach the VM and those that nobody gets, and lines that are pulsed by an eventfd.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::accel::{Accelerator, VmConfig};
use crate::error::RouteError;
use crate::scripted::Scripted;
use crate::testing::Rig;

const ADDRESS: u64 = 0xfee0_0000;

fn connected(script: &Scripted, routes: Vec<Route>) -> (Arc<LineHub>, Arc<dyn Vm>) {
    let hub = Arc::new(LineHub::default());
    let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
    hub.change_routes(|all| *all = routes).unwrap();
    hub.connect(&vm).unwrap();
    (hub, vm)
}

#[test]
fn test_message_is_sent_when_there_are_controllers_and_is_lost_before() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    assert!(!hub.send(ADDRESS, 0x41));
    let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
    hub.connect(&vm).unwrap();
    assert!(hub.send(ADDRESS, 0x42));
    drop(vm);
    assert!(!hub.send(ADDRESS, 0x43));
    assert_eq!(script.log().messages, [(ADDRESS, 0x42)]);
}

// fault row 46
#[test]
fn test_message_of_a_guest_that_reaches_no_local_apic_is_not_sent() {
    let script = Scripted::default();
    let (hub, _vm) = connected(&script, vec![]);
    for (address, data) in [(0, 0x41), (u64::MAX, 0x41), (ADDRESS, 0xf), (ADDRESS, u32::MAX), (ADDRESS, 0x105)] {
        assert!(!hub.send(address, data), "{address:#x} {data:#x}");
    }
    assert_eq!(script.log().messages, []);
}

#[test]
fn test_line_of_a_message_sends_it_whenever_it_is_driven_high() {
    let script = Scripted::default();
    let (hub, _vm) = connected(&script, vec![]);
    let line = hub.message_line(ADDRESS, 0x41);
    line.set(true);
    assert!(line.is_high());
    line.set(false);
    line.pulse();
    assert!(!line.is_high());
    assert_eq!(script.log().messages, [(ADDRESS, 0x41); 2]);
    assert_eq!(script.log().lines, []);
    line.set(true);
    hub.reset();
    assert!(!line.is_high(), "as every line");
}

#[test]
fn test_message_line_to_no_local_apic_is_refused() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    assert!(matches!(rig.machine.message_line(0x1000, 0x41).map(drop), Err(RouteError::Address { address: 0x1000 })));
    assert!(matches!(rig.machine.message_line(ADDRESS, 1).map(drop), Err(RouteError::Vector { vector: 1 })));
}

#[test]
fn test_line_whose_gsi_leads_to_a_message_is_pulsed_by_an_eventfd() {
    let script = Scripted::default();
    let (hub, _vm) = connected(&script, vec![Route::Msi { gsi: 24, address: ADDRESS, data: 0x41 }]);
    let (line, other) = (hub.line(24), hub.line(5));
    line.pulse();
    line.pulse();
    other.pulse();
    assert_eq!((script.take_pulses(24), script.take_pulses(5)), (2, 0));
    assert_eq!(script.log().lines, [(5, true), (5, false)]);
    // Its level is told as ever; and led elsewhere it has one again.
    line.set(true);
    line.set(false);
    hub.change_routes(|all| *all = vec![Route::IoApic { gsi: 24, pin: 3 }]).unwrap();
    line.pulse();
    assert_eq!(script.take_pulses(24), 0);
    assert_eq!(script.log().lines.get(2..).unwrap(), [(24, true), (24, false), (24, true), (24, false)]);
}

// fault row 46
#[test]
fn test_eventfd_that_is_closed_early_or_refused_leaves_a_line_that_works() {
    let script = Scripted::default();
    let routes = vec![Route::Msi { gsi: 24, address: ADDRESS, data: 0x41 }];
    let (hub, vm) = connected(&script, routes.clone());
    let line = hub.line(24);
    line.pulse();
    // A reset closes it, and the next VM has its own.
    hub.reset();
    drop(vm);
    line.pulse();
    assert_eq!(script.take_pulses(24), 1);
    let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: true }).unwrap();
    hub.connect(&vm).unwrap();
    line.pulse();
    assert_eq!(script.take_pulses(24), 1);
    // Without controllers there is none to be had, and the level is the guest's to miss.
    hub.reset();
    let vm = script.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    hub.state.lock().unwrap().vm = Some(Arc::downgrade(&vm));
    hub.state.lock().unwrap().pulses.follow(&routes);
    line.pulse();
    assert_eq!(script.take_pulses(24), 0);
    assert!(!line.is_high());
}
