//! Lines before and after there are controllers, and routes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::accel::{AccelError, Accelerator, VmConfig};
use crate::error::{RouteError, RunError};
use crate::scripted::Scripted;
use crate::testing::Rig;

fn vm(script: &Scripted, irqchip: bool) -> Arc<dyn Vm> {
    script.create_vm(VmConfig { vcpus: 1, irqchip }).unwrap()
}

// fault row 46
#[test]
fn test_line_driven_before_connect_hands_its_level_over() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let line = hub.line(4);
    line.set(true);
    hub.line(9).pulse();
    let vm = vm(&script, true);
    hub.connect(&vm).unwrap();
    assert_eq!(script.log().lines, [(4, true)]);
    line.set(false);
    assert_eq!(script.log().lines, [(4, true), (4, false)]);
}

#[test]
fn test_lines_of_one_gsi_are_high_as_long_as_one_of_them_is() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, true);
    let (one, other) = (hub.line(5), hub.line(5));
    let level = || script.log().lines.last().copied();
    for connected in [false, true] {
        if connected {
            hub.connect(&vm).unwrap();
            assert_eq!(level(), Some((5, true)), "what was driven before");
        }
        one.set(true);
        other.pulse();
        assert_eq!(level(), connected.then_some((5, true)));
    }
    one.set(false);
    assert_eq!(level(), Some((5, false)));
    // A line that is gone drives nothing.
    one.set(true);
    other.set(true);
    drop(one);
    assert_eq!(level(), Some((5, true)));
    drop(other);
    assert_eq!(level(), Some((5, false)));
}

#[test]
fn test_lines_of_one_gsi_driven_by_many_at_once_end_low() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, true);
    hub.connect(&vm).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let line = hub.line(5);
            scope.spawn(move || (0..500).for_each(|_| line.pulse()));
        }
    });
    assert_eq!(script.log().lines.last(), Some(&(5, false)));
}

#[test]
fn test_line_of_a_machine_that_is_gone_leads_nowhere() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, true);
    hub.connect(&vm).unwrap();
    drop(vm);
    hub.line(4).pulse();
    assert_eq!(script.log().lines, []);
}

// fault row 46
#[test]
fn test_line_without_controllers_is_the_guests_to_miss() {
    let (hub, script) = (Arc::new(LineHub::default()), Scripted::default());
    let vm = vm(&script, false);
    hub.connect(&vm).unwrap();
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
    assert_eq!(rig.log().routes, [], "there are no controllers yet");
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().routes, routes);
    routes.truncate(3);
    rig.machine.set_routes(&routes).unwrap();
    assert_eq!(rig.log().routes, routes);
}

#[test]
fn test_route_of_one_gsi_replaces_its_own_and_no_others() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    rig.machine.route(5, &[Route::IoApic { gsi: 5, pin: 11 }]).unwrap();
    let routes = rig.machine.lines.routes();
    assert_eq!(routes.len(), 39);
    let of_5: Vec<_> = routes.iter().filter(|route| route.gsi() == 5).collect();
    assert_eq!(of_5, [&Route::IoApic { gsi: 5, pin: 11 }]);
    rig.machine.route(5, &[]).unwrap();
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().routes, rig.machine.lines.routes());
    assert_eq!(rig.log().routes.len(), 38);
}

// fault row 46
#[test]
fn test_route_that_cannot_be_is_refused_and_changes_nothing() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    let message = |address, data| vec![Route::Msi { gsi: 24, address, data }];
    let io_apic = |pin| Route::IoApic { gsi: 24, pin };
    let pic = |input| Route::Pic { gsi: 24, input };
    let both = [message(0xfee0_0000, 0x30), vec![io_apic(1)]].concat();
    for (gsi, targets, message) in [
        (4096, vec![], "no such gsi: 4096"),
        (u32::MAX, vec![], "no such gsi: 4294967295"),
        (24, vec![io_apic(24)], "no such pin of the I/O APIC: 24"),
        (24, vec![pic(16)], "no such input of the 8259s: 16"),
        (24, message(0xfed0_0000, 0x30), "message reaches no local APIC: 0xfed00000"),
        (24, message(0x1_fee0_0000, 0x30), "message reaches no local APIC: 0x1fee00000"),
        (24, message(0xfee0_0000, 0x1_0030), "message data has reserved bits: 0x10030"),
        (24, message(0xfee0_0000, 0xf), "message has a vector below 0x10: 0xf"),
        (24, both, "gsi 24 cannot lead to both: message 0x30 to 0xfee00000, I/O APIC pin 1"),
        (24, vec![io_apic(1), io_apic(2)], "gsi 24 cannot lead to both: I/O APIC pin 1, I/O APIC pin 2"),
        (24, vec![pic(1), pic(7)], "gsi 24 cannot lead to both: 8259 input 1, 8259 input 7"),
    ] {
        let refused = rig.machine.route(gsi, &targets).unwrap_err();
        assert_eq!(refused.to_string(), message);
        assert!(!refused.hint().is_empty());
    }
    rig.machine.route(24, &[io_apic(1), pic(1), pic(8)]).unwrap();
    rig.machine.route(24, &message(0xfeef_f000, 0x4400)).unwrap(); // NMI: it carries no vector
    assert_eq!(rig.machine.lines.routes().len(), 41);
}

#[test]
fn test_route_of_a_closed_machine_is_refused() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    rig.machine.close(None).unwrap();
    assert!(matches!(rig.machine.route(5, &[]), Err(RouteError::Run(RunError::State(_)))));
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
    let line = rig.machine.line(4).unwrap();
    line.set(true);
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().lines, [(4, true)]);
}
