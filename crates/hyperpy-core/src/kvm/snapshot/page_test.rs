//! What of a state waits in the page that a vCPU shares with KVM.

use super::*;

#[test]
fn test_exception_in_flight_is_delivered_after_each_load() {
    for (injected, pending) in [(1, 0), (0, 1)] {
        let mut guest = Guest::new(&COUNTER, 1, false);
        guest._memory.write(4 * 6, &[0x00, 0x11, 0, 0]).unwrap(); // #UD: the handler
        let mut state = guest.save();
        let events = &mut state.1[0].events;
        (events.exception_nr, events.exception_injected, events.exception_pending) = (6, injected, pending);
        guest.load(&state);
        // It is there while it waits in the page, and when a debugger has sent it on to KVM.
        assert_same(&guest.save().1, &state.1);
        for (nth, name) in ["KVM_SET_REGS", "KVM_SET_SREGS", "KVM_SET_VCPU_EVENTS"].into_iter().enumerate() {
            calls::fail_after(nth, libc::ENOMEM);
            let refused = guest.vcpus[0].set_debug(&DebugControl::default());
            assert!(matches!(refused, Err(AccelError::Call { call, .. }) if call == name), "{refused:?}");
            assert_same(&guest.save().1, &state.1);
        }
        guest.vcpus[0].set_debug(&DebugControl::default()).unwrap();
        let held = guest.save().1[0].events;
        assert_eq!((held.exception_nr, held.exception_injected, held.exception_pending), (6, injected, pending));
        for _ in 0..2 {
            guest.load(&state);
            assert_eq!(guest.out(), (0x80, 1));
            assert_eq!(guest.vcpus[0].regs().unwrap().rbx & 0xff, 1); // the handler's count, not AX
            guest.complete();
        }
    }
}

#[test]
fn test_sregs_that_wait_in_the_page_are_seen_and_changed_as_if_kvm_had_them() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    guest.out();
    guest.complete();
    let (efer, fs_base) = (0xc000_0080, 0xc000_0100);
    let mut sregs = guest.vcpus[0].sregs().unwrap();
    let before = sregs;
    (sregs.cr2, sregs.efer, sregs.fs.base) = (0x1234, 1, 0x5000);
    guest.vcpus[0].set_sregs(&sregs).unwrap();
    let state = guest.save();
    guest.vcpus[0].set_sregs(&before).unwrap();
    guest.load(&state);
    assert_eq!(guest.vcpus[0].in_page & KVM_SYNC_X86_SREGS, KVM_SYNC_X86_SREGS);
    assert_eq!(guest.vcpus[0].sregs().unwrap(), sregs);
    assert_eq!(guest.vcpus[0].msrs(&[efer, fs_base]).unwrap(), [1, 0x5000]);
    assert_eq!((guest.vcpus[0].in_page & KVM_SYNC_X86_SREGS, guest.hashes()[1]), (0, state.1[0].hash()));
    guest.load(&state);
    guest.vcpus[0].set_msrs(&[(fs_base, 0x6000)]).unwrap();
    assert_eq!(guest.vcpus[0].sregs().unwrap().fs.base, 0x6000);
    guest.load(&state);
    guest.vcpus[0].set_sregs(&before).unwrap();
    assert_eq!(guest.vcpus[0].sregs().unwrap(), before);
    guest.load(&state);
    assert_eq!(guest.out(), (0x80, 2));
    assert_eq!(guest.vcpus[0].sregs().unwrap(), sregs);
}
