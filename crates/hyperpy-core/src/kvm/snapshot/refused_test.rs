//! The calls of a state, counted and made to fail, and states that are refused.

use super::*;

#[test]
fn test_save_with_an_exit_that_is_not_handed_over_is_refused() {
    // out 0x40,al (posted); hlt
    let mut guest = Guest::new(&[0xe6, 0x40, 0xf4], 1, false);
    guest.vm.post(Range { space: crate::bus::Space::Pio, base: 0x40, len: 1 }, true).unwrap();
    assert_eq!(guest.vcpus[0].run().unwrap(), AccelExit::Posted);
    assert!(matches!(guest.vcpus[0].save(), Err(AccelError::State { part: "exit", .. })));
    guest.vcpus[0].take_posted(&mut |_| ());
    assert_eq!(guest.vcpus[0].run().unwrap(), AccelExit::Halt);
    guest.vcpus[0].save().unwrap();
}

#[test]
fn test_save_and_load_make_the_calls_that_the_table_tells_of() {
    for irqchip in [false, true] {
        let mut guest = Guest::new(&COUNTER, 1, irqchip);
        guest.out();
        guest.complete();
        let state = guest.save();
        let parts = |get_or_set: &str, always: &[&str], with_irqchip: &[&str]| {
            let mut all = always.to_vec();
            all.extend(if irqchip { with_irqchip } else { &[] });
            let mut all: Vec<String> = all.into_iter().map(|part| format!("KVM_{get_or_set}_{part}")).collect();
            all.sort();
            all
        };
        let sorted = |calls: Vec<&'static str>| {
            let mut calls: Vec<String> = calls.into_iter().map(str::to_owned).collect();
            calls.sort();
            calls
        };
        // Where the host's time-stamp counter is not stable, the guest's is one of the MSRs.
        let always = &["DEVICE_ATTR", "XSAVE", "XCRS", "MSRS", "DEBUGREGS", "SREGS2", "VCPU_EVENTS"]
            [usize::from(!guest.vcpus[0].by_offset().unwrap())..];
        let (first, always) = (always, &always[..always.len() - 2]);
        let (_, saved) = calls::of(|| guest.vcpus[0].save().unwrap());
        assert_eq!(sorted(saved), parts("GET", first, &["MP_STATE", "LAPIC", "REGS"]));
        for _ in 0..2 {
            let ((), loaded) = calls::of(|| guest.vcpus[0].load(&state.1[0]).unwrap());
            let mut expected = parts("SET", always, &["LAPIC", "VCPU_EVENTS"]);
            // Takes what is pending of INIT and SIPI; it runs, and is to.
            expected.splice(0..0, irqchip.then(|| "KVM_GET_MP_STATE".to_owned()));
            assert_eq!(sorted(loaded), expected);
            // Everything else waits in the page, from where KVM gets it before it is asked what was sent since.
            let (_, saved) = calls::of(|| guest.vcpus[0].save().unwrap());
            let asked = if irqchip { first } else { always };
            let mut expected = parts("GET", asked, &["MP_STATE", "LAPIC", "REGS"]);
            expected.extend(parts("SET", &[], &["REGS", "SREGS", "VCPU_EVENTS"]));
            assert_eq!(sorted(saved), expected);
        }
        guest.out();
        guest.complete();
        // Sregs that KVM has not seen yet are told of if it refuses them.
        let mut other = state.1[0].clone();
        other.sregs.cr2 = 7;
        let ((), loaded) = calls::of(|| guest.vcpus[0].load(&other).unwrap());
        assert!(loaded.contains(&"KVM_SET_SREGS2"), "{loaded:?}");
        let chips = ["GET_IRQCHIP", "GET_IRQCHIP", "GET_IRQCHIP", "GET_PIT2"].map(|name| format!("KVM_{name}"));
        let (_, saved) = calls::of(|| guest.vm.save().unwrap());
        let load = |vm: &Arc<dyn Vm>| vm.load(&state.0).and_then(|()| vm.load_timers(&state.0));
        let ((), loaded) = calls::of(|| load(&guest.vm).unwrap());
        let mut all = vec!["KVM_GET_CLOCK".to_owned()];
        all.extend(if irqchip { chips.to_vec() } else { Vec::new() });
        assert_eq!(sorted(saved), all);
        // The PIT is stopped first.
        all.extend(irqchip.then(|| "KVM_GET_PIT2".to_owned()));
        assert_eq!(sorted(loaded), all.iter().map(|name| name.replace("GET", "SET")).collect::<Vec<_>>());
    }
}

// fault row 37
#[test]
fn test_call_that_fails_once_is_told_by_name_and_a_second_try_puts_everything_right() {
    let mut guest = Guest::waiting(TIMER);
    guest.out();
    guest.complete();
    let state = guest.save();
    // The PIT goes on ticking, so that only the vCPU's stands still.
    let begin = guest.hashes().remove(1);
    let ((), vm) = calls::of(|| guest.vm.load(&state.0).unwrap());
    let ((), vcpu) = calls::of(|| guest.vcpus[0].load(&state.1[0]).unwrap());
    let ((), timers) = calls::of(|| guest.vm.load_timers(&state.0).unwrap());
    for (nth, name) in vm.iter().chain(&vcpu).chain(&timers).enumerate() {
        for errno in [libc::EINTR, libc::EAGAIN, libc::ENOMEM, libc::EINVAL, libc::EFAULT] {
            guest.out();
            guest.complete();
            calls::fail_after(nth, errno);
            let loaded = guest.vm.load(&state.0).and_then(|()| guest.vcpus[0].load(&state.1[0]));
            let loaded = loaded.and_then(|()| guest.vm.load_timers(&state.0));
            assert!(calls::failed());
            match loaded {
                Err(AccelError::Call { call, source }) => {
                    assert_eq!((call, source.raw_os_error()), (*name, Some(errno)));
                }
                other => panic!("{name}: {other:?}"),
            }
            guest.load(&state);
            assert_eq!(guest.hashes().remove(1), begin, "{name}");
            assert_eq!(guest.out(), (0x80, 2), "{name}");
            guest.complete();
        }
    }
    guest.load(&state);
    let (_, vm) = calls::of(|| guest.vm.save().unwrap());
    let (_, vcpu) = calls::of(|| guest.vcpus[0].save().unwrap());
    for (nth, name) in vm.iter().chain(&vcpu).enumerate() {
        guest.load(&state);
        calls::fail_after(nth, libc::ENOMEM);
        let saved = guest.vm.save().and_then(|_| guest.vcpus[0].save());
        assert!(calls::failed());
        assert!(matches!(saved, Err(AccelError::Call { call, .. }) if call == *name), "{name}: {saved:?}");
        assert_eq!(guest.hashes().remove(1), begin, "{name}");
    }
}

// fault row 26
#[test]
fn test_state_that_was_edited_is_refused_by_the_name_of_its_part() {
    let mut guest = Guest::new(&COUNTER, 1, true);
    guest.out();
    guest.complete();
    let (vm, vcpus) = guest.save();
    let begin = guest.hashes();
    type Edit = fn(&mut VcpuState);
    let unseen: [(&str, Edit); 7] = [
        ("xsave area", |state| state.xsave = Box::default()),
        ("local apic", |state| state.lapic = None),
        ("xcr0", |state| state.xcr0 = None),
        ("cpuid", |state| state.cpuid = [Leaf::default(); 300].as_slice().into()),
        ("cpuid", |state| state.cpuid = Arc::default()),
        ("events", |state| state.events.flags = u32::MAX),
        ("events", |state| (state.events.exception_injected, state.events.exception_nr) = (1, 2)),
    ];
    for (part, edit) in unseen {
        let mut state = vcpus[0].clone();
        edit(&mut state);
        let refused = guest.vcpus[0].load(&state).unwrap_err();
        assert!(matches!(refused, AccelError::State { part: told, .. } if told == part), "{part}: {refused:?}");
        // It was seen before anything was changed.
        assert_eq!(guest.hashes(), begin, "{part}");
    }
    let late: [(&str, Edit); 4] = [
        ("KVM_SET_SREGS2 failed", |state| state.sregs.cr0 = 1 << 31),
        ("KVM_SET_XCRS failed", |state| state.xcr0 = Some(u64::MAX)),
        ("KVM_SET_MSRS refuses msr 0xdeadbeef: 0x7", |state| state.msrs.push((0xdead_beef, 7))),
        ("KVM_SET_MP_STATE failed", |state| state.mp_state = 99),
    ];
    for (told, edit) in late {
        let mut state = vcpus[0].clone();
        edit(&mut state);
        let refused = guest.vcpus[0].load(&state).unwrap_err().to_string();
        assert!(refused.starts_with(told), "{refused}");
        guest.vcpus[0].load(&vcpus[0]).unwrap();
        assert_eq!(guest.hashes(), begin, "{told}");
    }
    let other = VmState { irqchip: None, ..vm };
    assert!(matches!(guest.vm.load(&other), Err(AccelError::State { part: "interrupt controllers", .. })));
    assert_eq!(guest.out(), (0x80, 2));
}

#[test]
fn test_state_without_controllers_takes_no_activity_but_running() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    let mut state = guest.save().1.remove(0);
    state.mp_state = KVM_HALTED;
    assert!(matches!(guest.vcpus[0].load(&state), Err(AccelError::State { part: "mp_state", .. })));
}

// fault row 26
#[test]
fn test_differences_of_the_own_machine_are_none_and_of_another_cpu_are_told() {
    let mut guest = Guest::new(&COUNTER, 2, true);
    let (vm, mut vcpus) = guest.save();
    let shapes: Vec<_> = guest.vcpus.iter_mut().map(|vcpu| vcpu.shape().unwrap()).collect();
    assert_eq!(differences(&vm, &vcpus, &shapes), [""; 0]);
    vcpus[1].msrs.push((0xdead_beef, 7));
    assert_eq!(differences(&vm, &vcpus, &shapes), ["vcpu 1: msr 0xdeadbeef: 0x7 in the snapshot, cannot be set here"]);
}
