//! States on the host's KVM: taken, put back, and put back again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use crate::accel::state::{VcpuState, VmState};
use crate::accel::{AccelError, AccelExit, Interruption, Vcpu, Vm, VmConfig};
use crate::arch::x86_64::Regs;
use crate::kvm::vcpu::KvmVcpu;
use crate::memory::Memory;

/// A VM of KVM itself; vCPU 0 is in real mode at 0x1000.
pub(super) struct Guest {
    pub(super) vcpus: Vec<KvmVcpu>,
    pub(super) vm: Arc<dyn Vm>,
    pub(super) memory: Memory,
}

impl Guest {
    pub(super) fn new(code: &[u8], vcpus: u32, irqchip: bool) -> Self {
        let memory = Memory::with_ram(1 << 20).unwrap();
        memory.write(0x1000, code).unwrap();
        let fd = kvm_ioctls::Kvm::new().unwrap();
        let vm = crate::kvm::vm::KvmVm::new(&fd, VmConfig { vcpus, irqchip }).unwrap();
        let mut vcpus: Vec<_> = (0..vcpus).map(|id| vm.make_vcpu(id).unwrap()).collect();
        let vm: Arc<dyn Vm> = Arc::new(vm);
        memory.connect(&vm).unwrap();
        vcpus.iter_mut().for_each(|vcpu| vcpu.all_made().unwrap());
        let mut sregs = vcpus[0].sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpus[0].set_sregs(&sregs).unwrap();
        vcpus[0].set_regs(&Regs { rip: 0x1000, rsp: 0x8000, rflags: 2, ..Regs::default() }).unwrap();
        Self { vcpus, vm, memory }
    }

    pub(super) fn save(&mut self) -> (VmState, Vec<VcpuState>) {
        let vm = self.vm.save().unwrap();
        (vm, self.vcpus.iter_mut().map(|vcpu| vcpu.save().unwrap()).collect())
    }

    pub(super) fn load(&mut self, (vm, vcpus): &(VmState, Vec<VcpuState>)) {
        self.vm.load(vm).unwrap();
        for (vcpu, state) in self.vcpus.iter_mut().zip(vcpus) {
            vcpu.load(state).unwrap();
        }
    }

    /// The next port write: (port, value). The access is completed on the way into the next exit.
    #[track_caller]
    pub(super) fn out(&mut self) -> (u16, u64) {
        match self.vcpus[0].run() {
            Ok(AccelExit::Pio { port, is_write: true, .. }) => (port, self.vcpus[0].io_value(0)),
            other => panic!("not a write: {other:?}"),
        }
    }

    /// Completes what is pending, as the machine does before it takes a state.
    #[track_caller]
    pub(super) fn complete(&mut self) {
        let flag = self.vcpus[0].exit_flag();
        flag.byte().store(1, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(self.vcpus[0].run(), Err(Interruption::Kicked)));
        flag.byte().store(0, std::sync::atomic::Ordering::SeqCst);
    }
}

/// again: inc ax; out 0x80,al; jmp again
const COUNTER: [u8; 5] = [0x40, 0xe6, 0x80, 0xeb, 0xfb];

#[test]
fn test_load_of_a_state_runs_on_from_there_as_often_as_it_is_put_back() {
    for irqchip in [false, true] {
        let mut guest = Guest::new(&COUNTER, 1, irqchip);
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        let state = guest.save();
        for _ in 0..3 {
            assert_eq!((guest.out(), guest.out(), guest.out()), ((0x80, 2), (0x80, 3), (0x80, 4)));
            guest.complete();
            let end = guest.save();
            guest.load(&state);
            assert_eq!(guest.vcpus[0].rip(), state.1[0].regs.rip);
            let again = guest.save();
            assert_eq!(again.1[0].hash(), state.1[0].hash());
            assert_eq!(again.0.hash(), state.0.hash());
            assert_ne!(again.1[0].hash(), end.1[0].hash());
        }
    }
}

#[test]
fn test_state_goes_to_plain_data_and_back_without_a_change() {
    let mut guest = Guest::new(&COUNTER, 2, true);
    guest.out();
    guest.complete();
    let (vm, vcpus) = guest.save();
    assert_eq!(VmState::from_value(&vm.value()).unwrap(), vm);
    for state in vcpus {
        assert_eq!(VcpuState::from_value(&state.value()).unwrap(), state);
    }
}

#[test]
fn test_load_into_a_new_vm_goes_on_where_the_other_was() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    guest.out();
    guest.complete();
    let state = guest.save();
    let mut other = Guest::new(&COUNTER, 1, false);
    other.load(&state);
    assert_eq!(other.out(), (0x80, 2));
    assert!(matches!(other.vcpus[0].load(&VcpuState::default()), Err(AccelError::State { .. })));
}
