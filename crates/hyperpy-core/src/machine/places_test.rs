//! Devices, memory and firmware in places that something else has: each is refused by name, whichever came first.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use crate::arch::x86_64::layout::{KERNELS, KernelRange};
use crate::bus::{Map, Placement, Rung, Space};
use crate::error::{AttachError, BootError, MemoryError, RunError};
use crate::memory::{Kind, Pages};
use crate::testing::{Recorder, Rig};

// fault row 40
#[test]
fn test_attach_where_the_kernel_answers_is_refused_with_controllers_and_stops_their_coming() {
    let device = || Arc::new(Recorder::default());
    for own in KERNELS {
        let KernelRange { space, base, len, name, with_irqchip } = own;
        for (irqchip, at, size) in [(true, base, 1), (true, base + len - 1, 1), (true, base - 1, 2), (false, base, 1)] {
            let rig = Rig::with_irqchip(vec![vec![]], irqchip);
            let attached = rig.machine.attach(space, at, size, "over", Rung::Native, device());
            if irqchip || !with_irqchip {
                assert!(matches!(attached, Err(AttachError::Kernel { other, .. }) if other == base), "{own:?}");
                continue;
            }
            attached.unwrap();
            let refused = rig.machine.want_irqchip().unwrap_err();
            let told = format!("cannot add an interrupt controller: over at {base:#x} lies over {name}");
            assert_eq!(refused.to_string(), told);
            assert!(!rig.machine.config().irqchip && rig.machine.line(5).is_err());
        }
        let rig = Rig::with_irqchip(vec![vec![]], true);
        rig.machine.attach(space, base - 1, 1, "below", Rung::Native, device()).unwrap();
        rig.machine.attach(space, base + len, 1, "above", Rung::Native, device()).unwrap();
    }
}

// fault row 40
#[test]
fn test_memory_where_the_kernel_has_its_own_is_refused() {
    let add = |rig: &Rig, gpa, kind| rig.machine.add_memory(gpa, 0x1000, kind, "over", Pages::Small);
    for (irqchip, gpa) in [(false, 0xfeff_c000), (false, 0xfeff_f000), (true, 0xfec0_0000), (true, 0xfee0_0000)] {
        let rig = Rig::with_irqchip(vec![vec![]], irqchip);
        for kind in [Kind::Ram, Kind::Rom] {
            let refused = add(&rig, gpa, kind);
            assert!(matches!(refused, Err(RunError::Memory(MemoryError::Kernel { .. }))), "{gpa:#x}: {refused:?}");
        }
        let refused = rig.machine.alias_memory(gpa, 0, 0x1000, "again");
        assert!(matches!(refused, Err(RunError::Memory(MemoryError::Kernel { .. }))), "{gpa:#x}: {refused:?}");
        // Set aside for devices it may be.
        add(&rig, gpa, Kind::Mmio).unwrap();
    }
    let rig = Rig::new(vec![vec![]]);
    add(&rig, 0xfec0_0000, Kind::Ram).unwrap();
    assert!(matches!(rig.machine.want_irqchip(), Err(RunError::ControllersPlace { base: 0xfec0_0000, .. })));
}

// fault row 40
#[test]
fn test_firmware_over_a_device_is_refused_and_changes_nothing() {
    let rig = Rig::new(vec![vec![]]);
    let mut image = vec![0; 0x4_0000];
    image[0x3_fff0] = 0xf4;
    let device = rig.attach(Space::Mmio, 0xfffd_0000, 0x1000, Recorder::default());
    let refused = rig.machine.load_firmware(&image);
    assert!(matches!(refused, Err(BootError::Memory(MemoryError::Device { other: 0xfffd_0000, .. }))), "{refused:?}");
    assert_eq!((rig.machine.memory.committed(), rig.machine.memory.regions().len()), (0, 1));
    rig.machine.detach(device).unwrap();
    rig.machine.load_firmware(&image).unwrap();
    // Loaded again, it lies where it lay.
    rig.machine.load_firmware(&image).unwrap();
    assert!(matches!(rig.machine.load_firmware(&vec![1; (16 << 20) + 0x1000]), Err(BootError::FirmwareSize { .. })));
}

// fault row 40
#[test]
fn test_change_of_both_buses_that_one_refuses_changes_neither() {
    let rig = Rig::new(vec![]);
    let attachment = rig.attach(Space::Pio, 0x80, 1, Recorder::default());
    rig.attach(Space::Mmio, 0xfe00_0000, 4, Recorder::default());
    let placed = |space, base| {
        let (name, device) = ("window".into(), Arc::new(Recorder::default()));
        (space, Placement { base, len: 4, name, rung: Rung::Native, device })
    };
    for (space, base) in [(Space::Mmio, 0xfe00_0002), (Space::Mmio, 0), (Space::Pio, 0xffff)] {
        let refused = rig.machine.rearrange(&[attachment], &[placed(Space::Pio, 0x90), placed(space, base)]);
        assert!(refused.is_err(), "{space:?} {base:#x}");
        let bases = |map: Arc<Map>| map.regions().iter().map(|region| region.base).collect::<Vec<_>>();
        assert_eq!((bases(rig.machine.pio.map()), bases(rig.machine.mmio.map())), (vec![0x80], vec![0xfe00_0000]));
    }
    let on = [placed(Space::Mmio, 0xfe00_1000), placed(Space::Pio, 0x80), placed(Space::Mmio, 0xfe00_2000)];
    let (removed, added) = rig.machine.rearrange(&[attachment], &on).unwrap();
    assert_eq!(
        (removed.regions.len(), added.iter().map(|it| it.space).collect::<Vec<_>>()),
        (1, vec![Space::Mmio, Space::Pio, Space::Mmio])
    );
    for (attachment, (_, placement)) in added.into_iter().zip(on) {
        assert_eq!(rig.machine.detach(attachment).unwrap().base, placement.base);
    }
}
