//! What KVM_RUN returned with: the page that KVM shares, read by the arm that its exit reason names.
//!
//! Whatever the page says, an access is of a width that there is and of no more values than the page has room for. Nothing is
//! called here.

use std::ptr::addr_of;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_HYPERCALL, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};

use super::page::RunPage;
use super::vcpu::KvmVcpu;
use crate::accel::AccelExit;
use crate::exit::SystemEvent;

/// KVM_INTERNAL_ERROR_EMULATION: KVM's instruction emulator met something that it cannot carry out.
const ERROR_EMULATION: u32 = 1;
/// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const WITH_INSTRUCTION_BYTES: u64 = 1;

/// Most values of one string instruction: those of a byte in the page that KVM keeps for them.
const MOST_VALUES: u32 = crate::memory::PAGE_SIZE as u32;

/// Where in the page the values of an access are, and how wide each is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) offset: usize,
    pub(super) size: usize,
}

impl Data {
    /// The value of a number; 0 where the page has none.
    pub(super) fn value(self, page: &RunPage, index: u32) -> u64 {
        let mut bytes = [0; 8];
        if let Some(bytes) = bytes.get_mut(..self.size) {
            page.read(self.at(index), bytes);
        }
        u64::from_le_bytes(bytes)
    }

    /// Sets it, where the page has one.
    pub(super) fn set_value(self, page: &RunPage, index: u32, value: u64) {
        if let Some(bytes) = value.to_le_bytes().get(..self.size) {
            page.write(self.at(index), bytes);
        }
    }

    fn at(self, index: u32) -> usize {
        self.offset.saturating_add(self.size.saturating_mul(index as usize))
    }
}

impl KvmVcpu {
    /// Reads the page after KVM_RUN returned 0.
    pub(super) fn decode(&mut self) -> AccelExit {
        let (exit, data) = decode(&self.page);
        self.data = data;
        exit
    }
}

/// Reads the page after KVM_RUN returned 0. The union's arm is the one that the exit reason names.
pub(super) fn decode(page: &RunPage) -> (AccelExit, Data) {
    let run: *mut kvm_run = page.run();
    let mut data = Data::default();
    let base = run as usize;
    // SAFETY: every field read here lies inside the mapping, which is as long as kvm_run; each is an integer or an
    // array of integers, for which every bit pattern is valid; reads are volatile, so nothing is assumed stable.
    let exit = unsafe {
        let arms = addr_of!((*run).__bindgen_anon_1);
        match addr_of!((*run).exit_reason).read_volatile() {
            KVM_EXIT_IO => {
                let io = addr_of!((*arms).io).read_volatile();
                let (size, count) = (io.size.clamp(1, 8), io.count.min(MOST_VALUES));
                data = Data { offset: usize::try_from(io.data_offset).unwrap_or(usize::MAX), size: size.into() };
                let is_write = u32::from(io.direction) == KVM_EXIT_IO_OUT;
                AccelExit::Pio { port: io.port, size, count, is_write }
            }
            KVM_EXIT_MMIO => {
                let mmio = addr_of!((*arms).mmio);
                let len = addr_of!((*mmio).len).read_volatile().clamp(1, 8);
                data = Data { offset: addr_of!((*mmio).data) as usize - base, size: len as usize };
                AccelExit::Mmio {
                    gpa: addr_of!((*mmio).phys_addr).read_volatile(),
                    #[allow(clippy::cast_possible_truncation)] // 1 to 8
                    size: len as u8,
                    is_write: addr_of!((*mmio).is_write).read_volatile() != 0,
                }
            }
            KVM_EXIT_HLT => AccelExit::Halt,
            KVM_EXIT_INTR | KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR | KVM_EXIT_IOAPIC_EOI => AccelExit::Nothing,
            KVM_EXIT_SHUTDOWN => AccelExit::Shutdown,
            KVM_EXIT_DEBUG => {
                let arch = addr_of!((*arms).debug.arch).read_volatile();
                AccelExit::Debug { pc: arch.pc, dr6: arch.dr6 }
            }
            KVM_EXIT_HYPERCALL => {
                let hypercall = addr_of!((*arms).hypercall).read_volatile();
                data = Data { offset: addr_of!((*arms).hypercall.ret) as usize - base, size: 8 };
                AccelExit::Hypercall { number: hypercall.nr, arguments: hypercall.args }
            }
            reason @ (KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR) => {
                let msr = addr_of!((*arms).msr).read_volatile();
                data = Data { offset: addr_of!((*arms).msr.data) as usize - base, size: 8 };
                let is_write = reason == KVM_EXIT_X86_WRMSR;
                AccelExit::Msr { index: msr.index, is_write, value: if is_write { msr.data } else { 0 } }
            }
            KVM_EXIT_SYSTEM_EVENT => {
                let kind = addr_of!((*arms).system_event.type_).read_volatile();
                AccelExit::SystemEvent(match kind {
                    KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::PowerOff,
                    KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
                    KVM_SYSTEM_EVENT_CRASH => SystemEvent::Crash,
                    other => SystemEvent::Other(other),
                })
            }
            KVM_EXIT_FAIL_ENTRY => {
                let reason = addr_of!((*arms).fail_entry.hardware_entry_failure_reason).read_volatile();
                AccelExit::FailEntry { reason }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                let suberror = addr_of!((*arms).internal.suberror).read_volatile();
                let ndata = addr_of!((*arms).internal.ndata).read_volatile();
                let words = addr_of!((*arms).internal.data).read_volatile();
                let (bytes, len) = instruction_bytes(suberror, ndata, &words);
                AccelExit::InternalError { suberror, bytes, len }
            }
            reason => AccelExit::Unknown { reason },
        }
    };
    (exit, data)
}

/// The instruction of an emulation failure: `struct kvm_run.emulation_failure` laid over the words of `internal.data`:
/// flags, then one byte of length and 15 bytes of code.
fn instruction_bytes(suberror: u32, ndata: u32, words: &[u64]) -> ([u8; 15], u8) {
    let mut bytes = [0; 15];
    let (Some(&flags), Some(&low), Some(&high)) = (words.first(), words.get(1), words.get(2)) else {
        return (bytes, 0);
    };
    if suberror != ERROR_EMULATION || ndata < 3 || flags & WITH_INSTRUCTION_BYTES == 0 {
        return (bytes, 0);
    }
    let [len, first @ ..] = low.to_le_bytes();
    for (byte, source) in bytes.iter_mut().zip(first.into_iter().chain(high.to_le_bytes())) {
        *byte = source;
    }
    (bytes, len.min(15))
}

#[cfg(any(test, fuzzing))]
#[path = "exits_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "exits_test.rs"]
mod tests;
