//! States on the host's KVM: taken, put back, and put back again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::accel::state::{VmState, differences};
use crate::accel::{AccelExit, Activity, Interruption, Route, Vm, VmConfig};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Wide;
use crate::debug::DebugControl;
use crate::kvm::thread::Kick;
use crate::memory::Memory;
use crate::posted::Range;
use crate::snapshot::Value;

/// Calls that a state is made of, counted and made to fail.
pub(super) mod calls {
    use std::cell::{Cell, RefCell};
    use std::io;

    thread_local! {
        static NAMES: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
        /// How many are made before one fails, and how.
        static FAIL: Cell<Option<(usize, i32)>> = const { Cell::new(None) };
    }

    pub(in crate::kvm::snapshot) fn made(name: &'static str) -> io::Result<()> {
        NAMES.with_borrow_mut(|names| names.push(name));
        match FAIL.take() {
            Some((0, errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some((left, errno)) => {
                FAIL.set(Some((left - 1, errno)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The calls that `f` makes.
    pub(super) fn of<T>(f: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
        NAMES.take();
        let result = f();
        (result, NAMES.take())
    }

    /// Lets the call after `left` ones fail once.
    pub(super) fn fail_after(left: usize, errno: i32) {
        FAIL.set(Some((left, errno)));
    }

    /// Lets none fail; whether one has.
    pub(super) fn failed() -> bool {
        FAIL.take().is_none()
    }
}

type State = (VmState, Vec<VcpuState>);

/// Where two trees of plain data differ, but for what counts by itself.
fn different(one: &Value, other: &Value, at: &str, into: &mut Vec<String>) {
    if at.ends_with("IA32_TSC") || at.ends_with("lapic.current_count") {
        return;
    }
    match (one, other) {
        (Value::Map(one), Value::Map(other)) if one.len() == other.len() => {
            for ((name, one), (_, other)) in one.iter().zip(other) {
                different(one, other, &format!("{at}.{name}"), into);
            }
        }
        (one, other) if one != other => into.push(at.to_owned()),
        _ => {}
    }
}

/// The vCPUs' states are the same.
#[track_caller]
fn assert_same(one: &[VcpuState], other: &[VcpuState]) {
    let mut found = Vec::new();
    for (id, (one, other)) in one.iter().zip(other).enumerate() {
        different(&one.value(), &other.value(), &id.to_string(), &mut found);
        assert_eq!(one.hash() == other.hash(), found.is_empty());
    }
    assert_eq!(found, [""; 0]);
}

/// A VM of KVM itself; vCPU 0 is in real mode at 0x1000, and DS reaches all of 4 GiB.
struct Guest {
    vcpus: Vec<KvmVcpu>,
    vm: Arc<dyn Vm>,
    _memory: Memory,
}

impl Guest {
    fn new(code: &[u8], vcpus: u32, irqchip: bool) -> Self {
        let memory = Memory::with_ram(1 << 20).unwrap();
        memory.write(0x1000, code).unwrap();
        memory.write(0x1100, &HANDLER).unwrap();
        // AP at 0x2000: out 0x82,al; hlt
        memory.write(0x2000, &[0xe6, 0x82, 0xf4]).unwrap();
        let fd = kvm_ioctls::Kvm::new().unwrap();
        let vm = crate::kvm::vm::KvmVm::new(&fd, VmConfig { vcpus, irqchip }, true).unwrap();
        let mut vcpus: Vec<_> = (0..vcpus).map(|id| vm.make_vcpu(id).unwrap()).collect();
        let vm: Arc<dyn Vm> = Arc::new(vm);
        memory.connect(&vm).unwrap();
        vcpus.iter_mut().for_each(|vcpu| vcpu.all_made().unwrap());
        let mut sregs = vcpus[0].sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        (sregs.ds.limit, sregs.ds.g) = (u32::MAX, true);
        vcpus[0].set_sregs(&sregs).unwrap();
        vcpus[0].set_regs(&Regs { rip: 0x1000, rsp: 0x8000, rflags: 2, ..Regs::default() }).unwrap();
        Self { vcpus, vm, _memory: memory }
    }

    /// A guest that waits for interrupts, at its first: of the PIC, those that `mask` lets through.
    fn waiting(mask: u64) -> Self {
        let mut guest = Self::new(&WAITER, 1, true);
        let regs = guest.vcpus[0].regs().unwrap();
        guest.vcpus[0].set_regs(&Regs { rcx: mask, ..regs }).unwrap();
        assert_eq!(guest.out(), (0x81, 0x10));
        guest.complete();
        guest
    }

    fn save(&mut self) -> State {
        let vm = self.vm.save().unwrap();
        (vm, self.vcpus.iter_mut().map(|vcpu| vcpu.save().unwrap()).collect())
    }

    fn load(&mut self, (vm, vcpus): &State) {
        self.vm.load(vm).unwrap();
        for (vcpu, state) in self.vcpus.iter_mut().zip(vcpus) {
            vcpu.load(state).unwrap();
        }
        self.vm.load_timers(vm).unwrap();
    }

    fn hashes(&mut self) -> Vec<u64> {
        let (vm, vcpus) = self.save();
        std::iter::once(vm.hash()).chain(vcpus.iter().map(VcpuState::hash)).collect()
    }

    /// The next port write of vCPU 0: (port, value).
    #[track_caller]
    fn out(&mut self) -> (u16, u64) {
        match self.vcpus[0].run() {
            Ok(AccelExit::Pio { port, is_write: true, .. }) => (port, self.vcpus[0].io_value(0)),
            other => panic!("not a write: {other:?}"),
        }
    }

    /// Completes what is pending, as the machine does before it takes a state.
    #[track_caller]
    fn complete(&mut self) {
        let flag = self.vcpus[0].exit_flag();
        flag.byte().store(1, Ordering::SeqCst);
        assert!(matches!(self.vcpus[0].run(), Err(Interruption::Kicked)));
        flag.byte().store(0, Ordering::SeqCst);
    }

    /// Runs until vCPU 0 sleeps in HLT.
    #[track_caller]
    fn halt(&mut self) {
        let flag = self.vcpus[0].exit_flag();
        let kick = Kick::new(&flag).unwrap();
        let sitting = kick.sit(Duration::from_millis(5)).unwrap();
        while !matches!(self.vcpus[0].activity().unwrap(), Activity::Halted { interruptible: true }) {
            assert!(matches!(self.vcpus[0].run(), Err(Interruption::Kicked)));
            kick.clear();
        }
        drop(sitting);
        kick.clear();
    }
}

/// again: inc ax; out 0x80,al; jmp again
const COUNTER: [u8; 5] = [0x40, 0xe6, 0x80, 0xeb, 0xfb];
/// Vectors 0x20, 0x25 and 0x31 lead to 0x1100; the PICs are at 0x20, with the mask in CL; the PIT's channel 0 ticks each 3.4 ms.
/// Then out 0x81,al; sti; again: hlt; jmp again.
const WAITER: [u8; 75] = [
    0xfa, 0xc7, 0x06, 0x80, 0x00, 0x00, 0x11, 0xc7, 0x06, 0x82, 0x00, 0x00, 0x00, 0xc7, 0x06, 0x94, 0x00, 0x00, 0x11,
    0xc7, 0x06, 0x96, 0x00, 0x00, 0x00, 0xc7, 0x06, 0xc4, 0x00, 0x00, 0x11, 0xc7, 0x06, 0xc6, 0x00, 0x00, 0x00, 0xb0,
    0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0x88, 0xc8, 0xe6, 0x21,
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xb0, 0x10, 0xe6, 0x40, 0xe6, 0x81, 0xfb, 0xf4, 0xeb, 0xfd,
];
/// inc bx; mov al,bl; out 0x80,al; mov al,0x20; out 0x20,al; mov dword [0xfee000b0],0; iret
const HANDLER: [u8; 22] = [
    0x43, 0x88, 0xd8, 0xe6, 0x80, 0xb0, 0x20, 0xe6, 0x20, 0x67, 0x66, 0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0,
    0xcf,
];
/// Of the first PIC: nothing, IRQ 5, IRQ 0.
const NONE: u64 = 0xff;
const IRQ_5: u64 = 0xdf;
const TIMER: u64 = 0xfe;
/// Local APIC: spurious-interrupt vector with the enable bit, LVT timer, initial count, divide (SDM vol. 3, table 11-1).
const SVR: usize = 0x0f;
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const IRR_1: usize = 0x21;
const KVM_HALTED: u32 = KVM_MP_STATE_HALTED;

#[test]
fn test_load_of_a_state_runs_on_to_the_same_end_as_often_as_it_is_put_back() {
    for irqchip in [false, true] {
        let mut guest = Guest::new(&COUNTER, 1, irqchip);
        assert_eq!(guest.out(), (0x80, 1));
        guest.complete();
        let state = guest.save();
        let begin = guest.hashes();
        let mut ends = Vec::new();
        for _ in 0..3 {
            assert_eq!((guest.out(), guest.out(), guest.out()), ((0x80, 2), (0x80, 3), (0x80, 4)));
            guest.complete();
            ends.push(guest.hashes());
            guest.load(&state);
            let regs = state.1[0].regs;
            assert_eq!((guest.vcpus[0].rip(), guest.vcpus[0].regs().unwrap()), (regs.rip, regs));
            assert_eq!(guest.hashes(), begin);
        }
        assert!(ends[0][1] != begin[1] && ends[1..] == [ends[0].clone(), ends[0].clone()]);
    }
}

#[test]
fn test_load_before_the_first_run_leaves_the_processor_as_new() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    let fresh = guest.save();
    guest.load(&fresh);
    // Registers wait in the page; others that are set meanwhile stay.
    assert!(!guest.vcpus[0].has_run());
    assert_same(&guest.save().1, &fresh.1);
    let regs = guest.vcpus[0].regs().unwrap();
    guest.vcpus[0].set_regs(&Regs { rax: 6, ..regs }).unwrap();
    assert_eq!(guest.out(), (0x80, 7));
}

#[test]
fn test_load_into_a_new_vm_goes_on_where_the_other_was() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    guest.out();
    guest.complete();
    let state = guest.save();
    let mut other = Guest::new(&COUNTER, 1, false);
    other.load(&state);
    assert_eq!(other.hashes(), guest.hashes());
    assert_eq!(other.out(), (0x80, 2));
}

#[test]
fn test_load_gives_a_new_vcpu_the_cpuid_of_the_state_and_refuses_it_to_one_that_has_run() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    let mut state = guest.save();
    let mut table = state.1[0].cpuid.to_vec();
    table.push(Leaf { leaf: 0x4fff_0000, eax: 7, ..Leaf::default() });
    state.1[0].cpuid = table.as_slice().into();
    guest.load(&state);
    assert!(guest.vcpus[0].cpuid().unwrap().contains(table.last().unwrap()));
    assert_same(&guest.save().1, &state.1);
    guest.out();
    guest.complete();
    guest.load(&state);
    let now = guest.hashes();
    table.pop();
    state.1[0].cpuid = table.into();
    let refused = guest.vcpus[0].load(&state.1[0]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the state cannot be put back or taken here: its cpuid is another one, and the vcpu has run"
    );
    assert_eq!(guest.hashes(), now);
}

#[test]
fn test_step_after_a_load_is_of_the_instruction_of_the_state() {
    let mut guest = Guest::new(&[0x43, 0x43, 0x43, 0xf4], 1, false); // inc bx, three times; hlt
    let state = guest.save();
    let step = |on| DebugControl { step: on, ..DebugControl::default() };
    for _ in 0..2 {
        guest.vcpus[0].set_debug(&step(true)).unwrap();
        assert!(matches!(guest.vcpus[0].run(), Ok(AccelExit::Debug { pc: 0x1001, .. })));
        guest.load(&state);
    }
    guest.vcpus[0].set_debug(&step(true)).unwrap();
    guest.vcpus[0].run().unwrap();
    guest.complete();
    let middle = guest.save();
    assert_eq!((middle.1[0].regs.rip, middle.1[0].regs.rbx), (0x1001, 1));
    guest.vcpus[0].set_debug(&step(false)).unwrap();
    guest.load(&middle);
    assert_eq!(guest.vcpus[0].run().unwrap(), AccelExit::Halt);
    assert_eq!(guest.vcpus[0].regs().unwrap().rbx, 3);
}

#[test]
fn test_vector_registers_and_xcr0_are_those_of_the_state() {
    let mut guest = Guest::new(&COUNTER, 1, false);
    let mut fpu = guest.vcpus[0].fpu().unwrap();
    for name in fpu.names().filter(|name| name.starts_with(['s', 'x', 'y'])) {
        assert!(fpu.set(&name, Wide { low: 0x1234_5678 << 40 | 0xfeed, high: 0xcafe << 100 }), "{name}");
    }
    guest.vcpus[0].set_fpu(&fpu).unwrap();
    let mut state = guest.save();
    let xcr0 = state.1[0].xcr0.as_mut().unwrap();
    *xcr0 = 7 & guest.vcpus[0].shape().unwrap().xcr0.unwrap();
    guest.load(&state);
    guest.vcpus[0].set_fpu(&Default::default()).unwrap();
    assert_ne!(guest.save().1[0].xsave, state.1[0].xsave);
    guest.load(&state);
    assert_eq!(guest.vcpus[0].fpu().unwrap(), fpu);
    assert_same(&guest.save().1, &state.1);
}

#[test]
fn test_model_specific_and_debug_registers_are_those_of_the_state() {
    let mut guest = Guest::new(&COUNTER, 1, true);
    let (lstar, mtrr, mc0) = (0xc000_0082, 0x2ff, 0x400);
    guest.vcpus[0].set_msrs(&[(lstar, 0xffff_8000_0000_1000), (mtrr, 0xc06), (mc0, u64::MAX)]).unwrap();
    let mut state = guest.save();
    state.1[0].debug = [0x1000, 0x2000, 0x3000, 0x4000, 0xffff_0ff0, 0x455];
    guest.load(&state);
    guest.vcpus[0].set_msrs(&[(lstar, 0), (mtrr, 0), (mc0, 0)]).unwrap();
    guest.load(&state);
    assert_eq!(guest.vcpus[0].msrs(&[lstar, mtrr, mc0]).unwrap(), [0xffff_8000_0000_1000, 0xc06, u64::MAX]);
    assert_eq!(guest.save().1[0].debug, state.1[0].debug);
}

#[test]
fn test_time_stamp_counters_keep_their_distance_and_clocks_go_back() {
    let mut guest = Guest::new(&COUNTER, 2, true);
    let (vm, vcpus) = guest.save();
    let later = guest.save();
    assert!(later.0.clock_ns > vm.clock_ns);
    let distance = |vcpus: &[VcpuState]| vcpus[1].msr(IA32_TSC).unwrap().wrapping_sub(vcpus[0].msr(IA32_TSC).unwrap());
    let apart = distance(&vcpus);
    let (first, tsc) = (vm.clock_ns.unwrap(), vcpus[0].msr(IA32_TSC).unwrap());
    let began = std::time::Instant::now();
    guest.load(&(vm, vcpus));
    let again = guest.save();
    assert!(u128::from(again.0.clock_ns.unwrap() - first) <= began.elapsed().as_nanos());
    // Where the host's counter is not stable KVM sees to it as it can, and stops it while a vCPU stands.
    if guest.vcpus[0].by_offset().unwrap() {
        assert!(later.1[0].msr(IA32_TSC).unwrap() > tsc);
        assert_eq!((distance(&later.1), distance(&again.1)), (apart, apart));
    }
    // A page-table KVM takes offsets and forgets them: there the counter is the host's.
    raw::set_tsc_offset(&guest.vcpus[0].fd, 1 << 40).unwrap();
    if raw::tsc_offset(&guest.vcpus[0].fd).unwrap() == 1 << 40 {
        let gone = u128::from(again.1[0].msr(IA32_TSC).unwrap() - tsc) * 1_000_000 / u128::from(again.1[0].tsc_khz);
        assert!(gone <= began.elapsed().as_nanos() * 11 / 10, "{gone}");
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

#[path = "refused_test.rs"]
mod refused;

#[path = "interrupts_test.rs"]
mod interrupts;

#[path = "page_test.rs"]
mod page;
