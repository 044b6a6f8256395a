//! Interrupts that are under way: at the PICs, the I/O APIC, the local APIC, and in a vCPU that sleeps or waits to be started.

use super::*;

#[test]
fn test_interrupt_that_waits_at_the_pic_comes_after_each_load() {
    let mut guest = Guest::waiting(IRQ_5);
    guest.vm.set_line(5, true).unwrap();
    let state = guest.save();
    assert_eq!(state.0.irqchip.as_ref().unwrap().pics[0].irr & 1 << 5, 1 << 5);
    for _ in 0..2 {
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        guest.vm.set_line(5, false).unwrap();
        guest.load(&state);
    }
    // Without the interrupt there is none.
    let mut none = state.clone();
    none.0.irqchip.as_mut().unwrap().pics[0].irr = 0;
    guest.load(&none);
    guest.halt();
}

#[test]
fn test_vcpu_in_hlt_is_in_hlt_after_each_load_and_wakes_from_it() {
    let mut guest = Guest::waiting(IRQ_5);
    guest.halt();
    let state = guest.save();
    assert_eq!(state.1[0].mp_state, KVM_HALTED);
    for _ in 0..2 {
        guest.vm.set_line(5, true).unwrap();
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        assert_eq!(guest.vcpus[0].activity().unwrap(), Activity::Running);
        guest.load(&state);
        assert_eq!(guest.vcpus[0].activity().unwrap(), Activity::Halted { interruptible: true });
    }
}

#[test]
fn test_timer_of_the_pit_ticks_on_after_each_load() {
    let mut guest = Guest::waiting(TIMER);
    assert_eq!((guest.out(), guest.out()), ((0x80, 1), (0x80, 2)));
    guest.complete();
    let state = guest.save();
    let chips = state.0.irqchip.clone().unwrap();
    // Mode 2 (rate generator), 0x1000; the interrupt is in service, EOI comes next (8254 and 8259A data sheets).
    assert_eq!((chips.pit.channels[0].mode, chips.pit.channels[0].count), (2, 0x1000));
    assert_eq!((chips.pics[0].isr, chips.pics[0].imr), (1, 0xfe));
    for _ in 0..2 {
        assert_eq!((guest.out(), guest.out()), ((0x80, 3), (0x80, 4)));
        guest.complete();
        guest.load(&state);
        assert_eq!(guest.vm.save().unwrap().irqchip.unwrap().pit, chips.pit);
    }
}

#[test]
fn test_state_that_is_taken_within_a_tick_of_the_pit_has_its_end() {
    let mut guest = Guest::waiting(TIMER);
    assert_eq!(guest.out(), (0x80, 1));
    guest.complete();
    let mut state = guest.save();
    // Between the two edges KVM has the inputs high.
    let chips = state.0.irqchip.as_mut().unwrap();
    (chips.pics[0].last_irr, chips.ioapic.irr) = (1, 1);
    for _ in 0..2 {
        guest.load(&state);
        let within = guest.save();
        let chips = within.0.irqchip.as_ref().unwrap();
        assert_eq!((chips.pics[0].last_irr & 1, chips.ioapic.irr & 1), (0, 0));
        guest.load(&within);
        awake(&mut guest, |guest| assert_eq!((guest.out(), guest.out()), ((0x80, 2), (0x80, 3))));
        guest.complete();
    }
    // Where the PIT's gsi leads, and nowhere else.
    guest.vm.set_routes(&[Route::Pic { gsi: 0, input: 9 }, Route::IoApic { gsi: 0, pin: 23 }]).unwrap();
    let chips = state.0.irqchip.as_mut().unwrap();
    (chips.pics[0].last_irr, chips.pics[1].last_irr, chips.ioapic.irr) = (0xff, 0xff, 0xff_ffff);
    guest.load(&state);
    let chips = guest.save().0.irqchip.unwrap();
    assert_eq!((chips.pics[0].last_irr, chips.pics[1].last_irr, chips.ioapic.irr), (0xff, 0xfd, 0x7f_ffff));
    // Before anybody has programmed the PIT, they are what others drive.
    let mut fresh = Guest::new(&COUNTER, 1, true);
    fresh.vm.set_line(0, true).unwrap();
    assert_eq!(fresh.save().0.irqchip.unwrap().pics[0].last_irr, 1);
}

/// The local APIC switched on, everything else as it was.
fn lapic(state: &mut State) -> &mut [u32; 64] {
    let lapic = state.1[0].lapic.as_mut().unwrap();
    lapic[SVR] = 0x1ff;
    lapic
}

#[test]
fn test_interrupt_by_the_ioapic_waits_in_the_local_apic_and_comes_after_each_load() {
    let mut guest = Guest::waiting(NONE);
    let mut state = guest.save();
    lapic(&mut state);
    // Edge, fixed, to APIC id 0, not masked (82093AA, 3.2.4).
    state.0.irqchip.as_mut().unwrap().ioapic.redirtbl[5] = 0x31;
    guest.load(&state);
    guest.vm.set_line(5, true).unwrap();
    guest.vm.set_line(5, false).unwrap();
    let state = guest.save();
    assert_eq!(state.0.irqchip.as_ref().unwrap().ioapic.redirtbl[5], 0x31);
    assert_eq!(state.1[0].lapic.as_ref().unwrap()[IRR_1], 1 << 0x11);
    for _ in 0..2 {
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        assert_eq!(guest.save().1[0].lapic.as_ref().unwrap()[IRR_1], 0);
        guest.load(&state);
        assert_same(&guest.save().1, &state.1);
    }
}

#[test]
fn test_timer_of_the_local_apic_fires_after_each_load() {
    let mut guest = Guest::waiting(NONE);
    let mut state = guest.save();
    let registers = lapic(&mut state);
    (registers[LVT_TIMER], registers[INITIAL_COUNT]) = (0x2_0031, 0x10_0000); // periodic
    for _ in 0..2 {
        guest.load(&state);
        assert_eq!((guest.out(), guest.out()), ((0x80, 1), (0x80, 2)));
        guest.complete();
    }
    // By the time-stamp counter: 1 has long passed.
    lapic(&mut state)[LVT_TIMER] = 0x4_0031;
    state.1[0].msrs.iter_mut().filter(|(index, _)| *index == IA32_TSC_DEADLINE).for_each(|(_, value)| *value = 1);
    for _ in 0..2 {
        guest.load(&state);
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        assert_eq!(guest.save().1[0].tsc_deadline(), 0);
    }
    // Not armed: nothing comes, whatever the deadline was before.
    guest.load(&state);
    state.1[0].msrs.iter_mut().filter(|(index, _)| *index == IA32_TSC_DEADLINE).for_each(|(_, value)| *value = 0);
    guest.load(&state);
    guest.halt();
}

#[test]
fn test_processor_priority_of_the_local_apic_follows_from_what_is_in_service() {
    let mut guest = Guest::waiting(NONE);
    let mut state = guest.save();
    for (tpr, isr, ppr) in [(0, 0, 0), (0x25, 0, 0x25), (0x25, 0x31, 0x30), (0x3f, 0x31, 0x3f), (0x40, 0xfe, 0xf0)] {
        let registers = lapic(&mut state);
        registers[0x08] = tpr;
        registers[0x10..0x18].fill(0);
        registers[0x10 + isr / 32] = if isr == 0 { 0 } else { 1 << (isr % 32) };
        state.1[0].sregs.cr8 = u64::from(tpr >> 4);
        guest.load(&state);
        assert_eq!(guest.save().1[0].lapic.as_ref().unwrap()[0x0a], ppr, "{tpr:#x} {isr:#x}");
    }
}

#[test]
fn test_pit_does_not_tick_while_vcpus_are_put_back_and_does_after_that() {
    let mut guest = Guest::waiting(NONE);
    let mut state = guest.save();
    lapic(&mut state);
    state.0.irqchip.as_mut().unwrap().ioapic.redirtbl[0] = 0x31;
    guest.load(&state);
    assert_eq!((guest.out(), guest.out()), ((0x80, 1), (0x80, 2)));
    guest.complete();
    // A tick that is in the local APIC when it is overwritten would be the last one: KVM's PIT waits for its end. One at an 8259
    // that is put back already would be one too many.
    guest.vm.load(&state.0).unwrap();
    guest.vcpus[0].load(&state.1[0]).unwrap();
    let period = Duration::from_micros(0x1000 * 1_000_000 / 1_193_182);
    let began = std::time::Instant::now();
    while began.elapsed() < 4 * period {
        assert_eq!(guest.vm.save().unwrap().irqchip.unwrap().pics, state.0.irqchip.as_ref().unwrap().pics);
        assert_eq!(raw::lapic(&guest.vcpus[0].fd).unwrap()[IRR_1], state.1[0].lapic.as_ref().unwrap()[IRR_1]);
    }
    guest.vm.load_timers(&state.0).unwrap();
    awake(&mut guest, |guest| assert_eq!((guest.out(), guest.out()), ((0x80, 1), (0x80, 2))));
}

/// Calls `f`, in which no vCPU sleeps for ever: KVM_RUN is interrupted once.
fn awake(guest: &mut Guest, f: impl FnOnce(&mut Guest)) {
    let kick = Kick::new(&guest.vcpus[0].exit_flag()).unwrap();
    let _sitting = kick.sit(Duration::from_secs(10)).unwrap();
    f(guest);
}

#[test]
fn test_deadline_is_kept_by_a_load_after_the_local_apic_was_switched_off() {
    let mut guest = Guest::waiting(NONE);
    let mut state = guest.save();
    lapic(&mut state)[LVT_TIMER] = 0x4_0031;
    state.1[0].msrs.iter_mut().filter(|(index, _)| *index == IA32_TSC_DEADLINE).for_each(|(_, value)| *value = 1);
    guest.load(&state);
    awake(&mut guest, |guest| assert_eq!(guest.out(), (0x80, 1)));
    guest.complete();
    let mut sregs = guest.vcpus[0].sregs().unwrap();
    sregs.apic_base &= !(1 << 11);
    guest.vcpus[0].set_sregs(&sregs).unwrap();
    guest.load(&state);
    awake(&mut guest, |guest| assert_eq!(guest.out(), (0x80, 1)));
}

#[test]
fn test_task_priority_without_a_local_apic_is_that_of_the_state_and_of_what_is_set() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    let mut state = guest.save();
    state.1[0].sregs.cr8 = 5;
    for _ in 0..2 {
        guest.load(&state);
        guest.out();
        guest.complete();
        assert_eq!(guest.vcpus[0].sregs().unwrap().cr8, 5);
        let mut sregs = guest.vcpus[0].sregs().unwrap();
        sregs.cr8 = 3;
        guest.vcpus[0].set_sregs(&sregs).unwrap();
        guest.out();
        guest.complete();
        assert_eq!(guest.save().1[0].sregs.cr8, 3);
    }
    state.1[0].sregs.cr8 = 16;
    let refused = guest.vcpus[0].load(&state.1[0]).unwrap_err();
    assert!(matches!(refused, AccelError::State { part: "cr8", .. }), "{refused}");
}

#[test]
fn test_vcpu_that_waits_for_sipi_waits_again_after_each_load_and_can_be_started() {
    // out 0x81,al; INIT and SIPI (0x2000) to APIC id 1 by ICR; out 0x83,al; hlt
    let code = [
        0xe6, 0x81, 0x67, 0x66, 0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0, 0, 0, 1, 0x67, 0x66, 0xc7, 0x05, 0x00, 0x03,
        0xe0, 0xfe, 0x00, 0x45, 0, 0, 0x67, 0x66, 0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x02, 0x46, 0, 0, 0xe6, 0x83,
        0xf4,
    ];
    let mut guest = Guest::new(&code, 2, true);
    assert_eq!(guest.out().0, 0x81);
    guest.complete();
    let waiting = guest.save();
    let mut started = None;
    for _ in 0..2 {
        assert_eq!(guest.vcpus[1].activity().unwrap(), Activity::NotStarted);
        assert_eq!(guest.out().0, 0x83);
        guest.complete();
        // The SIPI is under way: taking the state takes it.
        let state = guest.save();
        assert_eq!((state.1[1].sregs.cs.base, state.1[1].regs.rip), (0x2000, 0));
        started = Some(state);
        let exit = loop {
            match guest.vcpus[1].run() {
                Err(Interruption::Again) => {}
                exit => break exit.unwrap(),
            }
        };
        assert_eq!(exit, AccelExit::Pio { port: 0x82, size: 1, count: 1, is_write: true });
        guest.vcpus.swap(0, 1);
        guest.complete();
        guest.vcpus.swap(0, 1);
        guest.load(&waiting);
    }
    guest.load(&started.unwrap());
    assert_eq!(guest.vcpus[1].run().unwrap(), AccelExit::Pio { port: 0x82, size: 1, count: 1, is_write: true });
}

#[test]
fn test_init_and_sipi_that_are_pending_at_a_load_start_nobody_after_it() {
    // again: out 0x81,al; ICR: ECX to APIC id 1; jmp again
    let code = [
        0xe6, 0x81, 0x67, 0x66, 0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0, 0, 0, 1, 0x67, 0x66, 0x89, 0x0d, 0x00, 0x03,
        0xe0, 0xfe, 0xeb, 0xe8,
    ];
    let (init, sipi) = (0x4500, 0x4602); // SIPI: 0x2000
    let mut guest = Guest::new(&code, 2, true);
    let send = |guest: &mut Guest, what: u64| {
        let regs = guest.vcpus[0].regs().unwrap();
        guest.vcpus[0].set_regs(&Regs { rcx: what, ..regs }).unwrap();
        assert_eq!(guest.out().0, 0x81);
        guest.complete();
    };
    assert_eq!(guest.out().0, 0x81);
    guest.complete();
    let fresh = guest.save();
    send(&mut guest, init);
    let waiting = guest.save();
    assert_eq!(waiting.1[1].mp_state, kvm_bindings::KVM_MP_STATE_INIT_RECEIVED);
    send(&mut guest, sipi);
    let started = guest.save();
    assert_eq!(started.1[1].mp_state, KVM_MP_STATE_RUNNABLE);
    for (from, sent) in
        [(&fresh, &[init, sipi][..]), (&waiting, &[sipi]), (&started, &[init]), (&started, &[init, sipi])]
    {
        guest.load(from);
        // Which the other vCPU does not take, since nobody enters it.
        sent.iter().for_each(|&what| send(&mut guest, what));
        for state in [&fresh, &waiting, &started] {
            guest.load(state);
            assert_same(&guest.save().1, &state.1);
            sent.iter().for_each(|&what| send(&mut guest, what));
        }
    }
    // What is sent after a load is taken, whether the other vCPU has been entered since or not.
    for is_entered in [false, true] {
        guest.load(&started);
        send(&mut guest, init);
        guest.vcpus.swap(0, 1);
        if is_entered {
            guest.complete();
        }
        let taken = guest.save().1.remove(0);
        guest.vcpus.swap(0, 1);
        assert_eq!((taken.mp_state, taken.regs.rip), (kvm_bindings::KVM_MP_STATE_INIT_RECEIVED, 0xfff0));
    }
    guest.load(&waiting);
    send(&mut guest, sipi);
    assert_same(&guest.save().1[1..], &started.1[1..]);
}
