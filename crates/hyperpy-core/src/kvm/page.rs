//! The page that KVM shares with a vCPU's thread (`struct kvm_run`, api.rst section 5), by volatile access only.
//!
//! The kernel and kickers write it while we look, so no reference to it is ever formed but one: the exit flag, whose
//! byte is an [`AtomicU8`] and is only ever touched as one.

use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, addr_of, addr_of_mut, null_mut};
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_COALESCED_MMIO_PAGE_OFFSET, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_SYNC_X86_REGS,
    kvm_coalesced_mmio, kvm_coalesced_mmio_ring, kvm_regs, kvm_run, kvm_sregs, kvm_vcpu_events,
};

use crate::accel::ExitFlag;
use crate::bus::{Space, ones};
use crate::posted::Posted;

const PAGE: usize = crate::memory::PAGE_SIZE as usize;
/// Entries of the ring (kernel: KVM_COALESCED_MMIO_MAX).
const RING_LEN: usize = (PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>();

/// A mapping of a vCPU's shared pages.
#[derive(Debug)]
pub(super) struct RunPage {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain shared memory. Its fields are read and written by volatile access by the one thread that
// drives the vCPU (`KvmVcpu` is used through `&mut`); other threads reach only the atomic exit flag, and the VM's ring
// behind it, whose entries are taken out under a lock of its own.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

/// Takes a write out of the ring after its device has had it, also when that panics.
struct Served<'a>(&'a RunPage);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.posted_served();
    }
}

impl RunPage {
    pub(super) fn map(vcpu: RawFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::Error::other("KVM_GET_VCPU_MMAP_SIZE is smaller than struct kvm_run"));
        }
        // SAFETY: a fresh shared mapping of a descriptor that the caller holds open; the kernel picks the address.
        let start =
            unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, vcpu, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), len })
    }

    #[allow(clippy::cast_ptr_alignment)] // mmap returns whole pages
    pub(super) fn run(&self) -> *mut kvm_run {
        self.start.cast()
    }

    /// Asks KVM to leave the general registers in the page at every exit.
    pub(super) fn keep_regs(&self) {
        // SAFETY: the field lies inside the mapping, which is at least as long as kvm_run.
        unsafe { addr_of_mut!((*self.run()).kvm_valid_regs).write_volatile(u64::from(KVM_SYNC_X86_REGS)) }
    }

    /// General registers as KVM left them at the last exit.
    pub(super) fn regs(&self) -> kvm_regs {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid kvm_regs.
        unsafe { addr_of!((*self.run()).s.regs.regs).read_volatile() }
    }

    /// RIP as KVM left it at the last exit.
    pub(super) fn rip(&self) -> u64 {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid u64.
        unsafe { addr_of!((*self.run()).s.regs.regs.rip).read_volatile() }
    }

    /// General registers, for KVM to take over at the next entry if [`Self::set_dirty`] says so.
    pub(super) fn set_regs(&self, regs: &kvm_regs) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).s.regs.regs).write_volatile(*regs) };
    }

    /// Segment, table and control registers, as they were set: KVM leaves none here.
    pub(super) fn sregs(&self) -> kvm_sregs {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid kvm_sregs.
        unsafe { addr_of!((*self.run()).s.regs.sregs).read_volatile() }
    }

    /// The same, for KVM to take over as above.
    pub(super) fn set_sregs(&self, sregs: &kvm_sregs) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).s.regs.sregs).write_volatile(*sregs) };
    }

    /// Sets the task priority: where the local APIC is not in the kernel, KVM takes it from here at every entry.
    pub(super) fn set_cr8(&self, cr8: u64) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).cr8).write_volatile(cr8) };
    }

    /// IA32_APIC_BASE as KVM left it at the last exit.
    pub(super) fn apic_base(&self) -> u64 {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid u64.
        unsafe { addr_of!((*self.run()).apic_base).read_volatile() }
    }

    /// Events under way, as they were set: KVM leaves none here.
    pub(super) fn events(&self) -> kvm_vcpu_events {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid kvm_vcpu_events.
        unsafe { addr_of!((*self.run()).s.regs.events).read_volatile() }
    }

    /// Events, for KVM to take over as above.
    pub(super) fn set_events(&self, events: &kvm_vcpu_events) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).s.regs.events).write_volatile(*events) };
    }

    /// Which of them (`KVM_SYNC_X86_*`) KVM takes over at the next entry.
    pub(super) fn set_dirty(&self, which: u32) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).kvm_dirty_regs).write_volatile(which.into()) };
    }

    /// Why KVM_RUN returned.
    pub(super) fn exit_reason(&self) -> u32 {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid u32.
        unsafe { addr_of!((*self.run()).exit_reason).read_volatile() }
    }

    /// RFLAGS.IF as KVM left it at the last exit.
    pub(super) fn interruptible(&self) -> bool {
        // SAFETY: the field lies inside the mapping; every bit pattern is a valid u8.
        unsafe { addr_of!((*self.run()).if_flag).read_volatile() != 0 }
    }

    /// Sets that, for registers that KVM did not leave here.
    pub(super) fn set_interruptible(&self, yes: bool) {
        // SAFETY: the field lies inside the mapping.
        unsafe { addr_of_mut!((*self.run()).if_flag).write_volatile(yes.into()) };
    }

    /// Whether the RDMSR or WRMSR that KVM handed on faults when it is completed.
    pub(super) fn set_msr_fault(&self, fault: bool) {
        // SAFETY: both fields lie inside the mapping; every bit pattern is a valid u32. The union's arm is the one that the
        // exit reason names.
        unsafe {
            if matches!(addr_of!((*self.run()).exit_reason).read_volatile(), KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR) {
                addr_of_mut!((*self.run()).__bindgen_anon_1.msr.error).write_volatile(fault.into());
            }
        }
    }

    /// The words that came with a system event; none after any other exit.
    pub(super) fn event_data(&self) -> Vec<u64> {
        // SAFETY: the fields lie inside the mapping; every bit pattern is a valid integer. The union's arm is the one that
        // the exit reason names.
        let (reason, count, words) = unsafe {
            let event = addr_of!((*self.run()).__bindgen_anon_1.system_event);
            let words = addr_of!((*event).__bindgen_anon_1.data).read_volatile();
            let reason = addr_of!((*self.run()).exit_reason).read_volatile();
            (reason, addr_of!((*event).ndata).read_volatile() as usize, words)
        };
        let count = if reason == KVM_EXIT_SYSTEM_EVENT { count.min(words.len()) } else { 0 };
        words.into_iter().take(count).collect()
    }

    /// Whether writes wait in the VM's ring, which is mapped behind the page.
    pub(super) fn has_posted(&self) -> bool {
        self.ring().is_some_and(|ring| {
            // SAFETY: both fields lie inside the mapping, as `ring` has checked; every bit pattern is a valid u32.
            unsafe { addr_of!((*ring).first).read_volatile() != addr_of!((*ring).last).read_volatile() }
        })
    }

    /// The oldest write in the ring. It stays there until [`Self::posted_served`].
    fn posted(&self) -> Option<Posted> {
        let ring = self.ring()?;
        // SAFETY: both fields lie inside the mapping; every bit pattern is a valid u32.
        let (first, last) =
            unsafe { (addr_of!((*ring).first).read_volatile(), addr_of!((*ring).last).read_volatile()) };
        // The kernel writes an entry before it moves `last`.
        fence(Ordering::Acquire);
        if first == last || first as usize >= RING_LEN {
            return None;
        }
        // SAFETY: the entry lies inside the ring's page, since its index is below what a page holds; every bit pattern is a
        // valid entry.
        let entry = unsafe {
            addr_of!((*ring).coalesced_mmio).cast::<kvm_coalesced_mmio>().add(first as usize).read_volatile()
        };
        // SAFETY: both arms of the union are a u32.
        let is_pio = unsafe { entry.__bindgen_anon_1.pio } != 0;
        let size = entry.len.clamp(1, 8) as u8;
        Some(Posted {
            space: if is_pio { Space::Pio } else { Space::Mmio },
            address: entry.phys_addr,
            size,
            value: u64::from_le_bytes(entry.data) & ones(size),
        })
    }

    /// Takes what is in the ring out of it, under its lock: the order of writes is the order of their devices' calls.
    pub(super) fn take_posted(&self, lock: &Mutex<()>, serve: &mut dyn FnMut(&Posted)) {
        let _emptying = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // One ring full at most: other vCPUs may go on filling it.
        for _ in 0..RING_LEN {
            let Some(write) = self.posted() else { return };
            // Whatever becomes of it, it is served once.
            let _served = Served(self);
            serve(&write);
        }
    }

    /// Takes the oldest write out of the ring.
    fn posted_served(&self) {
        let Some(ring) = self.ring() else { return };
        fence(Ordering::Release);
        // SAFETY: the field lies inside the mapping; only the thread that holds the ring's lock writes it.
        unsafe {
            let first = addr_of!((*ring).first).read_volatile() as usize;
            addr_of_mut!((*ring).first).write_volatile(((first + 1) % RING_LEN) as u32);
        }
    }

    /// The VM's ring; none on a kernel without.
    #[allow(clippy::cast_ptr_alignment)] // whole pages
    fn ring(&self) -> Option<*mut kvm_coalesced_mmio_ring> {
        let offset = KVM_COALESCED_MMIO_PAGE_OFFSET as usize * PAGE;
        // SAFETY: the whole page at this offset was just seen to lie inside the mapping.
        self.holds(offset, PAGE).then(|| unsafe { self.start.add(offset) }.cast())
    }

    /// Copies `into.len()` bytes at `offset`, or nothing if they leave the mapping: the offset comes from KVM, but a
    /// check is cheaper than trust.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        if !self.holds(offset, into.len()) {
            return;
        }
        for (i, byte) in into.iter_mut().enumerate() {
            // SAFETY: offset + i was checked to lie inside the mapping.
            *byte = unsafe { self.start.add(offset + i).read_volatile() };
        }
    }

    /// Copies bytes to `offset`, or nothing if they leave the mapping.
    pub(super) fn write(&self, offset: usize, from: &[u8]) {
        if !self.holds(offset, from.len()) {
            return;
        }
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: offset + i was checked to lie inside the mapping.
            unsafe { self.start.add(offset + i).write_volatile(*byte) };
        }
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl ExitFlag for RunPage {
    fn byte(&self) -> &AtomicU8 {
        // SAFETY: `immediate_exit` lies inside the mapping, which lives as long as self; a byte is always aligned; our
        // side touches it only through this atomic, and the kernel only reads it.
        unsafe { AtomicU8::from_ptr(ptr::addr_of_mut!((*self.run()).immediate_exit)) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: start and len are those of the mapping made in `map`; nothing can borrow from it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
