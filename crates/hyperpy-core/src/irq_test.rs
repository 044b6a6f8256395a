//! Lines before and after there are controllers, and routes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::accel::{AccelError, Accelerator, VmConfig};
use crate::error::RunError;
use crate::scripted::Scripted;
use crate::testing::Rig;

fn vm(script: &Scripted, irqchip: bool) -> Arc<dyn Vm> {
    script.create_vm(VmConfig { vcpus: 1, irqchip }).unwrap()
}

// fault row 46
#[test]
fn test_line_driven_before_connect_hands_its_level_over() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    hub.line(4).set(true);
    hub.line(9).pulse();
    let vm = vm(&script, true);
    hub.connect(&vm);
    assert_eq!(script.log().lines, [(4, true), (9, false)]);
    hub.line(4).set(false);
    assert_eq!(script.log().lines, [(4, true), (9, false), (4, false)]);
}

#[test]
fn test_line_of_a_machine_that_is_gone_leads_nowhere() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, true);
    hub.connect(&vm);
    drop(vm);
    hub.line(4).pulse();
    assert_eq!(script.log().lines, []);
}

// fault row 46
#[test]
fn test_line_without_controllers_is_the_guests_to_miss() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, false);
    hub.connect(&vm);
    hub.line(4).pulse();
    assert_eq!(script.log().lines, []);
    assert!(matches!(vm.set_line(4, true), Err(AccelError::NoIrqchip { gsi: 4 })));
}

#[test]
fn test_unconnected_line_remembers_level_and_edges() {
    let line = Unconnected::new();
    line.set(true);
    line.set(true);
    line.pulse();
    line.set(true);
    assert_eq!((line.is_high(), line.edges()), (true, 2));
}

#[test]
fn test_set_routes_reaches_the_vm() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    let mut routes = default_routes();
    routes.push(Route::Msi { gsi: 24, address: 0xfee0_0000, data: 0x30 });
    rig.machine.set_routes(&routes).unwrap();
    assert_eq!(rig.log().routes, routes);
}

#[test]
fn test_default_routes_lead_to_24_pins_and_16_inputs() {
    let routes = default_routes();
    let pins = routes.iter().filter(|route| matches!(route, Route::IoApic { gsi, pin } if gsi == pin)).count();
    let inputs = routes.iter().filter(|route| matches!(route, Route::Pic { gsi, input } if gsi == input)).count();
    assert_eq!((pins, inputs, routes.len()), (24, 16, 40));
}

#[test]
fn test_line_wanted_after_the_vcpus_were_made_without_controllers_is_too_late() {
    let rig = Rig::new(vec![vec![]]);
    rig.run().unwrap();
    assert!(matches!(rig.machine.line(4).map(drop), Err(RunError::TooLate { .. })));
    let rig = Rig::new(vec![vec![]]);
    rig.machine.line(4).unwrap().set(true);
    rig.machine.regs(0).unwrap();
    assert_eq!(rig.log().lines, [(4, true)]);
}
