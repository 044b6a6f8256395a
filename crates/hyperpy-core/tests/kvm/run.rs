//! The run loop: port and memory accesses, string instructions, accesses across a page, halts, stops and several vCPUs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::bus::{Access, Action, Device, Rung, Space};
use hyperpy_core::control::Phase;
use hyperpy_core::error::RunError;
use hyperpy_core::exit::{Exit, StopReason};
use hyperpy_core::memory::Memory;

use crate::{SECOND, attach, bare, machine};

#[test]
fn test_run_port_writes_reach_the_device_and_hlt_ends() {
    // mov al,0x5a; out 0x80,al; mov ax,0x1234; out 0x80,ax; in al,0x81; out 0x82,al; hlt
    let code = [0xb0, 0x5a, 0xe6, 0x80, 0xb8, 0x34, 0x12, 0xe7, 0x80, 0xe4, 0x81, 0xe6, 0x82, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    let device = attach(&machine, Space::Pio, 0x80, 8);
    device.next.store(0x77, Ordering::SeqCst);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(*device.writes.lock().unwrap(), [(0, 1, 0x5a), (0, 2, 0x1234), (2, 1, 0x77)]);
    assert_eq!(*device.reads.lock().unwrap(), [(1, 1)]);
    assert_eq!(machine.regs(0, &host).unwrap().rip, 0x100e);
    let readings = machine.control.vcpus()[0].readings();
    assert_eq!(readings.hits[Rung::Native as usize], 4);
    // Four accesses and the halt.
    assert_eq!(readings.exits, 5);
}

#[test]
fn test_run_string_output_serves_every_value_in_order() {
    // mov si,0x2000; mov dx,0x80; mov cx,5; cld; rep outsb; hlt
    let code = [0xbe, 0x00, 0x20, 0xba, 0x80, 0x00, 0xb9, 0x05, 0x00, 0xfc, 0xf3, 0x6e, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    machine.memory.write(0x2000, b"hello").unwrap();
    let device = attach(&machine, Space::Pio, 0x80, 1);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let text: Vec<u8> = device.writes.lock().unwrap().iter().map(|w| w.2 as u8).collect();
    assert_eq!(text, b"hello");
}

#[test]
fn test_run_string_input_fills_memory() {
    // mov di,0x3000; mov dx,0x80; mov cx,6; cld; rep insb; hlt
    let code = [0xbf, 0x00, 0x30, 0xba, 0x80, 0x00, 0xb9, 0x06, 0x00, 0xfc, 0xf3, 0x6c, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    attach(&machine, Space::Pio, 0x80, 1).next.store(0x41, Ordering::SeqCst);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut filled = [0; 6];
    machine.memory.read(0x3000, &mut filled).unwrap();
    assert_eq!(&filled, b"ABCDEF");
}

#[test]
fn test_run_access_across_a_page_comes_in_parts() {
    // mov ax,0xffff; mov ds,ax; mov eax,[0x100e]; mov [0x100e],eax; hlt
    let code = [0xb8, 0xff, 0xff, 0x8e, 0xd8, 0x66, 0xa1, 0x0e, 0x10, 0x66, 0xa3, 0x0e, 0x10, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    // RAM ends at 0x100000; the access is at 0x100ffe for 4 bytes: two on each page.
    let device = attach(&machine, Space::Mmio, 0x10_0000, 0x2000);
    device.next.store(0x1122, Ordering::SeqCst);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(*device.reads.lock().unwrap(), [(0xffe, 2), (0x1000, 2)]);
    assert_eq!(*device.writes.lock().unwrap(), [(0xffe, 2, 0x1122), (0x1000, 2, 0x1123)]);
}

#[test]
fn test_answer_unclaimed_read_reaches_the_guest_and_registers_wait_for_it() {
    // in al,0x99; mov [0x2000],al; hlt
    let code = [0xe4, 0x99, 0xa2, 0x00, 0x20, 0xf4];
    let (machine, host) = machine(&code, 1, false);
    let Exit::Pio(io) = machine.run(SECOND, &host).unwrap() else { panic!() };
    assert_eq!((io.address, io.size, io.is_write), (0x99, 1, false));
    machine.answer(&io, 0x42, &host).unwrap().unwrap();
    // A register write completes the read first, so that neither is lost.
    machine.set_regs(0, &host, |regs| regs.rbx = 7).unwrap();
    assert!(machine.answer(&io, 0x43, &host).unwrap().is_err());
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut byte = [0];
    machine.memory.read(0x2000, &mut byte).unwrap();
    assert_eq!(byte, [0x42]);
    assert_eq!(machine.regs(0, &host).unwrap().rbx, 7);
}

// fault row 14
#[test]
fn test_run_unanswered_read_is_all_ones() {
    // in ax,0x99; mov [0x2000],ax; hlt
    let (machine, host) = machine(&[0xe5, 0x99, 0xa3, 0x00, 0x20, 0xf4], 1, false);
    assert!(matches!(machine.run(SECOND, &host).unwrap(), Exit::Pio(_)));
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    let mut word = [0; 2];
    machine.memory.read(0x2000, &mut word).unwrap();
    assert_eq!(word, [0xff, 0xff]);
}

#[test]
fn test_run_device_asks_to_stop_completes_the_write() {
    // mov ax,0xdead; out 0x80,ax; inc bx; hlt
    let (machine, host) = machine(&[0xb8, 0xad, 0xde, 0xe7, 0x80, 0x43, 0xf4], 1, false);
    attach(&machine, Space::Pio, 0x80, 1 + 1);
    let exit = machine.run(SECOND, &host).unwrap();
    assert_eq!(exit, Exit::Stopped { vcpu: Some(0), reason: StopReason::Text("asked".into()) });
    assert_eq!((machine.control.phase(), machine.regs(0, &host).unwrap().rbx & 0xffff), (Phase::Paused, 0));
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(machine.regs(0, &host).unwrap().rbx & 0xffff, 1);
}

#[test]
fn test_run_tight_loop_times_out_and_can_run_on() {
    let (machine, host) = machine(&[0xeb, 0xfe], 1, false);
    let began = Instant::now();
    assert_eq!(machine.run(Some(Duration::from_millis(120)), &host).unwrap(), Exit::Timeout);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(120) && took < Duration::from_millis(220), "{took:?}");
    assert_eq!(machine.run(Some(Duration::from_millis(1)), &host).unwrap(), Exit::Timeout);
}

// fault row 23
#[test]
fn test_stop_from_another_thread_ends_a_tight_loop_and_an_exit_storm() {
    // jmp $ ; and: out 0x80,al; jmp back
    for code in [&[0xeb, 0xfe][..], &[0xe6, 0x80, 0xeb, 0xfc]] {
        let (machine, host) = machine(code, 1, false);
        attach(&machine, Space::Pio, 0x80, 1);
        machine.start(&host).unwrap();
        while machine.control.vcpus()[0].readings().cpu_ns == 0 {
            std::hint::spin_loop();
        }
        let began = Instant::now();
        machine.control.stop(StopReason::Text("enough".into()));
        let exit = machine.wait(SECOND, &host).unwrap();
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
        assert_eq!(exit, Exit::Stopped { vcpu: None, reason: StopReason::Text("enough".into()) });
        assert_eq!(machine.control.phase(), Phase::Stopped);
        machine.close(None).unwrap();
    }
}

// fault row 23
#[test]
fn test_run_halt_with_irqchip_and_interrupts_off_is_found() {
    // cli; hlt
    let (machine, host) = machine(&[0xfa, 0xf4], 1, true);
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    machine.close(None).unwrap();
}

#[test]
fn test_run_halt_with_irqchip_and_interrupts_on_is_idle() {
    // sti; hlt; jmp back
    let (machine, host) = machine(&[0xfb, 0xf4, 0xeb, 0xfc], 1, true);
    assert_eq!(machine.run(Some(Duration::from_millis(300)), &host).unwrap(), Exit::Timeout);
    machine.close(None).unwrap();
}

// fault row 46
#[test]
fn test_run_irq_line_raised_before_the_run_reaches_the_8259() {
    // Master 8259 at vectors 8..15, only IRQ 5 unmasked; handler at 0x1100: out 0x80,al; hlt
    // mov al,0x11; out 0x20,al; mov al,8; out 0x21,al; mov al,4; out 0x21,al; mov al,1; out 0x21,al;
    // mov al,0xdf; out 0x21,al; sti; jmp $
    let code = [
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf,
        0xe6, 0x21, 0xfb, 0xeb, 0xfe,
    ];
    let (machine, host) = machine(&code, 1, true);
    machine.memory.write(0x1100, &[0xe6, 0x80, 0xf4]).unwrap();
    machine.memory.write(4 * 13, &[0x00, 0x11, 0x00, 0x00]).unwrap();
    let device = attach(&machine, Space::Pio, 0x80, 1);
    let line = machine.line(5).unwrap();
    machine.start(&host).unwrap();
    // An edge before the guest is ready would be lost: keep making edges until it was served.
    while device.writes.lock().unwrap().is_empty() {
        line.pulse();
        std::thread::yield_now();
    }
    assert_eq!(machine.wait(SECOND, &host).unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.writes.lock().unwrap().len(), 1);
    machine.close(None).unwrap();
}

#[test]
fn test_run_two_vcpus_hand_over_through_memory_and_halt_together() {
    // vCPU 0 starts vCPU 1 by INIT and SIPI through its local APIC, waits for its byte, then halts.
    // The APIC is at 0xfee00000, out of real mode's reach: enter big real mode by ds.base set from outside.
    // mov dword [0x300],0x000c4500 (INIT, all others); mov dword [0x300],0x000c4602 (SIPI, page 2)
    // wait: cmp byte es:[0x4000],1; jne wait; mov byte es:[0x4001],2; cli; hlt
    let code = [
        0x66, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x0c, 0x00, 0x66, 0xc7, 0x06, 0x00, 0x03, 0x02, 0x46, 0x0c, 0x00,
        0x26, 0x80, 0x3e, 0x00, 0x40, 0x01, 0x75, 0xf8, 0x26, 0xc6, 0x06, 0x01, 0x40, 0x02, 0xfa, 0xf4,
    ];
    // vCPU 1 at 0x2000: mov byte cs:... ; xor ax,ax; mov ds,ax; mov byte [0x4000],1; out 0x80,al;
    // wait: cmp byte [0x4001],2; jne wait; cli; hlt
    let second = [
        0x31, 0xc0, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x40, 0x01, 0xe6, 0x80, 0x80, 0x3e, 0x01, 0x40, 0x02, 0x75, 0xf9,
        0xfa, 0xf4,
    ];
    let (machine, host) = machine(&code, 2, true);
    machine.memory.write(0x2000, &second).unwrap();
    let device = attach(&machine, Space::Pio, 0x80, 1);
    machine
        .set_sregs(0, &host, |sregs| {
            sregs.ds.base = 0xfee0_0000;
            // Software-enabled APIC is not needed to send IPIs in xAPIC mode; the page must be there.
            sregs.es.base = 0;
        })
        .unwrap();
    assert!(matches!(machine.run(SECOND, &host).unwrap(), Exit::Halt { .. }));
    assert_eq!(device.writes.lock().unwrap().len(), 1);
    assert!(machine.control.vcpus()[1].readings().exits > 0);
    machine.close(None).unwrap();
}

// fault row 23
#[test]
fn test_run_triple_fault_is_a_shutdown() {
    // Long mode with an empty descriptor table: ud2 finds no handler, nor does the fault of that.
    let memory = Memory::with_ram(1 << 20).unwrap();
    let entry = flat(&memory, &[0x0f, 0x0b], 0x10000, Mode::Long).unwrap();
    let (machine, host) = bare(memory, 1, false);
    machine.set_entry(entry, &host).unwrap();
    assert_eq!(machine.run(SECOND, &host).unwrap(), Exit::Shutdown { vcpu: 0 });
    assert_eq!(machine.control.phase(), Phase::Stopped);
    assert!(matches!(machine.run(SECOND, &host), Err(RunError::State(_))));
}

// fault row 50
#[test]
fn test_run_panic_in_a_device_names_it_and_closes_the_machine() {
    struct Broken;
    impl Device for Broken {
        fn read(&self, _: Access) -> u64 {
            panic!("register 7 of {}", 3)
        }
        fn write(&self, _: Access, _: u64) -> Action {
            Action::Continue
        }
    }
    let (machine, host) = machine(&[0xe4, 0x80, 0xf4], 1, false);
    machine.attach(Space::Pio, 0x80, 1, "broken", Rung::Native, Arc::new(Broken)).unwrap();
    let Err(RunError::Panic { device, message }) = machine.run(SECOND, &host) else { panic!() };
    assert_eq!((device.as_str(), message.as_str()), ("broken", "register 7 of 3"));
    assert_eq!(machine.control.phase(), Phase::Closed);
}
