//! Memory and interrupts as the guest meets them, and what becomes of an access that `run()` returned: its parts, its
//! answer, and registers that are written before it is complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyperpy_core::accel::{AccelError, Route};
use hyperpy_core::bus::{Access, Action, Device, Rung, Space};
use hyperpy_core::error::{AttachError, RunError};
use hyperpy_core::exit::{Exit, IoExit};
use hyperpy_core::irq::{Line, default_routes};
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::{Kind, Memory};

use crate::{SECOND, Threads, attach, bare, machine};

#[track_caller]
fn io(machine: &Arc<Machine>, host: &Threads) -> IoExit {
    match machine.run(SECOND, host).unwrap() {
        Exit::Pio(io) | Exit::Mmio(io) => io,
        other => panic!("not an unclaimed access: {other:?}"),
    }
}

fn place(exit: &IoExit) -> (u64, u8, bool, u64) {
    (exit.address, exit.size, exit.is_write, exit.value)
}

/// mov ax,0xffff; mov ds,ax: what follows reaches 0x100000 at ds:0x10.
const ABOVE_1_MIB: [u8; 5] = [0xb8, 0xff, 0xff, 0x8e, 0xd8];

#[test]
fn test_answer_of_each_part_of_an_access_across_a_page_reaches_the_guest() {
    // mov eax,[0x100e]; mov [0x100e],eax; hlt: at 0x100ffe, two bytes on each page.
    let code = [&ABOVE_1_MIB[..], &[0x66, 0xa1, 0x0e, 0x10, 0x66, 0xa3, 0x0e, 0x10, 0xf4]].concat();
    let (machine, host) = machine(&code, 1, false);
    for (gpa, value) in [(0x10_0ffe, 0x1122), (0x10_1000, 0x3344)] {
        let exit = io(&machine, &host);
        assert_eq!(place(&exit), (gpa, 2, false, 0));
        machine.answer(&exit, value, &host).unwrap().unwrap();
    }
    assert_eq!(place(&io(&machine, &host)), (0x10_0ffe, 2, true, 0x1122));
    assert_eq!(place(&io(&machine, &host)), (0x10_1000, 2, true, 0x3344));
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(machine.regs(0, &host).unwrap().rax, 0x3344_1122);
}

#[test]
fn test_set_rip_during_a_pending_read_loses_neither() {
    // in al,0x99; hlt; and at 0x1100: mov [0x2000],al; hlt
    let (machine, host) = machine(&[0xe4, 0x99, 0xf4], 1, false);
    machine.memory.write(0x1100, &[0xa2, 0x00, 0x20, 0xf4]).unwrap();
    let exit = io(&machine, &host);
    machine.answer(&exit, 0x42, &host).unwrap().unwrap();
    assert_eq!(machine.regs(0, &host).unwrap().rip, 0x1000);
    machine.set_regs(0, &host, |regs| regs.rip = 0x1100).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut byte = [0];
    machine.memory.read(0x2000, &mut byte).unwrap();
    assert_eq!((byte, machine.regs(0, &host).unwrap().rip), ([0x42], 0x1104));
}

#[test]
fn test_set_rip_during_a_pending_write_is_kept() {
    // out 0x99,al; inc bx; hlt; and at 0x1100: hlt
    let (machine, host) = machine(&[0xe6, 0x99, 0x43, 0xf4], 1, false);
    machine.memory.write(0x1100, &[0xf4]).unwrap();
    assert!(io(&machine, &host).is_write);
    assert_eq!(machine.regs(0, &host).unwrap().rip, 0x1002);
    machine.set_regs(0, &host, |regs| regs.rip = 0x1100).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let regs = machine.regs(0, &host).unwrap();
    assert_eq!((regs.rip, regs.rbx), (0x1101, 0));
}

#[test]
fn test_set_regs_between_two_parts_completes_the_second_with_ones() {
    let code = [&ABOVE_1_MIB[..], &[0x66, 0xa1, 0x0e, 0x10, 0xf4]].concat();
    let (machine, host) = machine(&code, 1, false);
    let first = io(&machine, &host);
    machine.answer(&first, 0x1122, &host).unwrap().unwrap();
    let mut seen = 0;
    machine
        .set_regs(0, &host, |regs| {
            seen = regs.rax;
            regs.rbx = 9;
        })
        .unwrap();
    assert_eq!(seen, 0xffff_1122);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(machine.regs(0, &host).unwrap().rbx, 9);
}

#[test]
fn test_run_unclaimed_string_output_returns_each_value_and_a_late_device_gets_the_rest() {
    // mov si,0x2000; mov dx,0x99; mov cx,5; cld; rep outsb; hlt
    let code = [0xbe, 0x00, 0x20, 0xba, 0x99, 0x00, 0xb9, 0x05, 0x00, 0xfc, 0xf3, 0x6e, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    machine.memory.write(0x2000, b"hello").unwrap();
    for byte in *b"he" {
        assert_eq!(place(&io(&machine, &host)), (0x99, 1, true, byte.into()));
    }
    let device = attach(&machine, Space::Pio, 0x99, 1);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let rest: Vec<u64> = device.writes.lock().unwrap().iter().map(|write| write.2).collect();
    assert_eq!(rest, b"llo".map(u64::from));
    assert_eq!(machine.regs(0, &host).unwrap().rcx & 0xffff, 0);
}

#[test]
fn test_set_regs_within_string_input_finishes_it_first() {
    // mov di,0x3000; mov dx,0x99; mov cx,4; cld; rep insb; hlt
    let code = [0xbf, 0x00, 0x30, 0xba, 0x99, 0x00, 0xb9, 0x04, 0x00, 0xfc, 0xf3, 0x6c, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    let exit = io(&machine, &host);
    machine.answer(&exit, 0x41, &host).unwrap().unwrap();
    machine.set_regs(0, &host, |regs| regs.rbx = 9).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut filled = [0; 5];
    machine.memory.read(0x3000, &mut filled).unwrap();
    assert_eq!(filled, [0x41, 0xff, 0xff, 0xff, 0]);
    assert_eq!((machine.regs(0, &host).unwrap().rbx, machine.regs(0, &host).unwrap().rcx & 0xffff), (9, 0));
}

#[test]
fn test_rom_is_read_without_an_exit_and_a_write_to_it_is_one() {
    // mov al,[0x10]; mov bl,al; not al; mov [0x10],al; hlt: at 0x100000
    let code = [&ABOVE_1_MIB[..], &[0xa0, 0x10, 0x00, 0x88, 0xc3, 0xf6, 0xd0, 0xa2, 0x10, 0x00, 0xf4]].concat();
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.add(0x10_0000, 0x1000, Kind::Rom, "rom").unwrap();
    memory.write(0x1000, &code).unwrap();
    memory.write(0x10_0000, &[0x5a]).unwrap();
    let (machine, host) = bare(memory, 1, false);
    machine.set_sregs(0, &host, |sregs| (sregs.cs.base, sregs.cs.selector) = (0, 0)).unwrap();
    machine.set_regs(0, &host, |regs| (regs.rip, regs.rflags) = (0x1000, 2)).unwrap();
    assert_eq!(place(&io(&machine, &host)), (0x10_0000, 1, true, 0xa5));
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(machine.regs(0, &host).unwrap().rbx & 0xff, 0x5a);
    let mut byte = [0];
    machine.memory.read(0x10_0000, &mut byte).unwrap();
    assert_eq!(byte, [0x5a]);
}

#[test]
fn test_attach_over_rom_is_refused() {
    struct Nothing;
    impl Device for Nothing {
        fn read(&self, at: Access) -> u64 {
            at.ones()
        }
        fn write(&self, _: Access, _: u64) -> Action {
            Action::Continue
        }
    }
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.add(0x10_0000, 0x1000, Kind::Rom, "rom").unwrap();
    let (machine, _host) = bare(memory, 1, false);
    let refused = machine.attach(Space::Mmio, 0x10_0fff, 1, "over", Rung::Native, Arc::new(Nothing));
    assert!(matches!(refused, Err(AttachError::Memory { other: 0x10_0000, .. })));
}

#[test]
fn test_machine_of_64_gib_runs_with_little_committed() {
    let memory = Memory::with_ram(64 << 30).unwrap();
    // mov byte [0x2000],1; hlt
    memory.write(0x1000, &[0xc6, 0x06, 0x00, 0x20, 0x01, 0xf4]).unwrap();
    let (machine, host) = bare(memory, 1, false);
    machine.set_sregs(0, &host, |sregs| (sregs.cs.base, sregs.cs.selector) = (0, 0)).unwrap();
    machine.set_regs(0, &host, |regs| (regs.rip, regs.rflags) = (0x1000, 2)).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut byte = [0];
    machine.memory.read(0x2000, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    assert!(machine.memory.committed() <= 8 << 20, "{}", machine.memory.committed());
}

#[test]
fn test_set_routes_with_messages_is_taken_and_a_wrong_pin_refused() {
    let (machine, _host) = machine(&[0xf4], 1, true);
    let mut routes = default_routes();
    routes.push(Route::Msi { gsi: 24, address: 0xfee0_0000, data: 0x30 });
    machine.set_routes(&routes).unwrap();
    routes.push(Route::IoApic { gsi: 25, pin: 99 });
    let refused = machine.set_routes(&routes);
    assert!(matches!(refused, Err(RunError::Accel(AccelError::Call { call: "KVM_SET_GSI_ROUTING", .. }))));
    let (bare, _host) = crate::machine(&[0xf4], 1, false);
    assert!(matches!(bare.set_routes(&routes), Err(RunError::TooLate { .. })));
}

#[test]
fn test_level_line_interrupts_until_its_device_lowers_it() {
    /// Raises its line at the first write and holds it high until it was served three times.
    struct Level(Arc<dyn Line>, AtomicU64);
    impl Device for Level {
        fn read(&self, _: Access) -> u64 {
            0
        }
        fn write(&self, _: Access, _: u64) -> Action {
            match self.1.fetch_add(1, Ordering::SeqCst) {
                0 => self.0.set(true),
                3 => self.0.set(false),
                _ => {}
            }
            Action::Continue
        }
    }
    // The 8259 as in the edge test, with ELCR (port 0x4d0) making input 5 level-triggered:
    // mov dx,0x4d0; mov al,0x20; out dx,al; out 0x80,al; sti; wait: cmp byte [0x2000],3; jb wait; cli; hlt
    let code = [
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf,
        0xe6, 0x21, 0xba, 0xd0, 0x04, 0xb0, 0x20, 0xee, 0xe6, 0x80, 0xfb, 0x80, 0x3e, 0x00, 0x20, 0x03, 0x72, 0xf9,
        0xfa, 0xf4,
    ];
    let (machine, host) = machine(&code, 1, true);
    // inc byte [0x2000]; out 0x80,al; mov al,0x20; out 0x20,al (end of interrupt); iret
    let handler = [0xfe, 0x06, 0x00, 0x20, 0xe6, 0x80, 0xb0, 0x20, 0xe6, 0x20, 0xcf];
    machine.memory.write(0x1100, &handler).unwrap();
    machine.memory.write(4 * 13, &[0x00, 0x11, 0x00, 0x00]).unwrap();
    let line = machine.line(5).unwrap();
    let device = Arc::new(Level(line, AtomicU64::new(0)));
    machine.attach(Space::Pio, 0x80, 1, "level", Rung::Native, device.clone()).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.1.load(Ordering::SeqCst), 4);
    machine.close(None).unwrap();
}
