//! Memory slots of a VM, and the log of pages that its guest has written.
//!
//! KVM keeps the host-virtual addresses of its slots and writes there whenever a vCPU runs. So this table holds each
//! slot's mapping, and the VM and every vCPU hold the table: a mapping goes when its slot has been deleted, or after the
//! last descriptor by which the VM could run (docs/unsafe.md, "memory outlives the VM"). Kernel api.rst 4.35
//! (KVM_SET_USER_MEMORY_REGION), 4.8 (KVM_GET_DIRTY_LOG), 4.117 (KVM_CLEAR_DIRTY_LOG), 8.29 (rings). There is no KVM for this
//! processor without a log, so that nothing here compares pages.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;

use super::ring::{BYTES, ENTRIES, Ring};
use super::{call, failed, has};
use crate::accel::{AccelError, Slot};
use crate::memory::PAGE_SIZE;

/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`: kvm-ioctls' own allocates the result without a way to refuse.
const KVM_GET_DIRTY_LOG: libc::c_ulong = 0x4010_ae42;
/// `_IO(KVMIO, 0xc7)`.
const KVM_RESET_DIRTY_RINGS: libc::c_ulong = 0xaec7;
/// `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`, which kvm-ioctls lacks.
const KVM_CLEAR_DIRTY_LOG: libc::c_ulong = 0xc018_aec0;
/// KVM_CLEAR_DIRTY_LOG takes ranges of so many pages, or up to the end of the slot.
const BITS: usize = u64::BITS as usize;
#[allow(clippy::cast_possible_truncation)] // 4096
const PAGE: usize = PAGE_SIZE as usize;

#[derive(Debug)]
pub(super) struct Slots {
    /// Before what it maps, so that it is closed earlier.
    fd: Arc<VmFd>,
    told: Told,
    table: Mutex<Table>,
}

/// How KVM tells what a guest has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// By a ring for each vCPU.
    Rings,
    /// By a bit for each page, where KVM_GET_DIRTY_LOG only reads: pages are made clean, and write-protected, by
    /// KVM_CLEAR_DIRTY_LOG. KVM's lock on the guest's page tables is then held for the pages that were written and not for a
    /// pass over the whole slot.
    Cleared,
    /// By a bit for each page, and KVM_GET_DIRTY_LOG makes all clean.
    Read,
}

#[derive(Debug, Default)]
struct Table {
    /// Before what they tell of.
    rings: Vec<Ring>,
    /// Entries were taken that KVM has not had back.
    owed: bool,
    kept: BTreeMap<u32, Kept>,
}

/// A slot that KVM has.
#[derive(Debug)]
struct Kept {
    slot: Slot,
    /// What the log is read into, with a word for every 64 pages begun; empty where there is none.
    log: Box<[u64]>,
}

impl Kept {
    fn pages(&self) -> usize {
        usize::try_from(self.slot.len / PAGE_SIZE).unwrap_or(usize::MAX)
    }
}

impl Slots {
    /// Before the first vCPU of the VM.
    pub(super) fn new(fd: Arc<VmFd>, rings: bool) -> Result<Self, AccelError> {
        let told = choose(&fd, rings)?;
        Ok(Self { fd, told, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps the ring of a new vCPU, where there are rings.
    pub(super) fn add_vcpu(&self, vcpu: RawFd) -> Result<(), AccelError> {
        if self.told == Told::Rings {
            let ring = Ring::map(vcpu).map_err(|source| refused("mmap of the dirty ring", source))?;
            self.table().rings.push(ring);
        }
        Ok(())
    }

    pub(super) fn map(&self, slot: &Slot) -> Result<(), AccelError> {
        let mut table = self.table();
        let mut entry = Kept { slot: slot.clone(), log: Box::default() };
        if slot.logged && self.told != Told::Rings {
            let words = entry.pages().div_ceil(BITS);
            let mut log = Vec::new();
            let none = |_| refused("KVM_SET_USER_MEMORY_REGION", io::Error::from_raw_os_error(libc::ENOMEM));
            log.try_reserve_exact(words).map_err(none)?;
            log.resize(words, 0);
            entry.log = log.into();
        }
        let flags = [(slot.logged, KVM_MEM_LOG_DIRTY_PAGES), (!slot.writable, KVM_MEM_READONLY)];
        let region = kvm_userspace_memory_region {
            slot: slot.id,
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum(),
            guest_phys_addr: slot.gpa,
            memory_size: slot.len,
            userspace_addr: slot.mapping.hva() + slot.at as u64,
        };
        if (slot.at as u64).checked_add(slot.len).is_none_or(|end| end > slot.mapping.len()) {
            return Err(refused("KVM_SET_USER_MEMORY_REGION", io::Error::from_raw_os_error(libc::EFAULT)));
        }
        // SAFETY: the whole range is mapped while `slot.mapping` lives, and the table keeps that until the slot is deleted
        // or the VM and its vCPUs, which hold the table, are gone. What the table held under this number it keeps too if
        // KVM refuses; if it takes the slot, the number was free or this is the same mapping with other flags.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        table.kept.insert(slot.id, entry);
        Ok(())
    }

    pub(super) fn unmap(&self, id: u32) -> Result<(), AccelError> {
        let mut table = self.table();
        if !table.kept.contains_key(&id) {
            return Ok(());
        }
        // A length of 0 deletes the slot; every vCPU has left its pages when the call returns.
        let region = kvm_userspace_memory_region { slot: id, ..Default::default() };
        // SAFETY: a slot of no bytes maps nothing.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        // What rings have of it must not be taken for a later slot's of this number. What fails of that is done the next time.
        let _ = self.empty_rings(&mut table);
        let gone = table.kept.remove(&id);
        drop(table);
        drop(gone);
        Ok(())
    }

    /// Marks what the guest has written in logged slots since the last call. vCPUs may run.
    pub(super) fn mark_written(&self) -> Result<(), AccelError> {
        let mut table = self.table();
        if self.told == Told::Rings {
            return self.empty_rings(&mut table);
        }
        table.kept.values_mut().filter(|kept| kept.slot.logged).try_for_each(|kept| self.read_log(kept))
    }

    fn empty_rings(&self, table: &mut Table) -> Result<(), AccelError> {
        let Table { rings, owed, kept } = table;
        let mut lost = false;
        for ring in rings {
            let taken = ring.take(|id, page| {
                // The address space above: there is one alone. A slot that is gone is nobody's.
                let Some(kept) = kept.get(&(id & 0xffff)) else { return };
                let page = usize::try_from(page).unwrap_or(usize::MAX);
                if page < kept.pages() {
                    kept.slot.mapping.mark(kept.slot.at / PAGE + page, 1);
                }
            });
            *owed |= taken > 0;
            lost |= taken == ENTRIES;
        }
        while *owed {
            // SAFETY: the call takes no argument.
            if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0) } >= 0 {
                *owed = false;
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return Err(failed("KVM_RESET_DIRTY_RINGS"));
            }
        }
        if lost {
            // KVM keeps some entries free for what it writes after it has seen that a ring is full: it has not looked.
            for kept in kept.values().filter(|kept| kept.slot.logged) {
                kept.slot.mapping.mark(kept.slot.at / PAGE, kept.pages());
            }
            return Err(AccelError::Missing { capability: "dirty rings that are not filled beyond their end" });
        }
        Ok(())
    }

    fn read_log(&self, kept: &mut Kept) -> Result<(), AccelError> {
        let (id, pages) = (kept.slot.id, kept.pages());
        let log = kvm_dirty_log {
            slot: id,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: kept.log.as_mut_ptr().cast() },
        };
        // SAFETY: KVM writes one bit for each page of the slot, rounded up to whole words, and `log` is as long: it was made
        // for the slot, which cannot change its size, and the table is locked.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_GET_DIRTY_LOG, &raw const log) } != 0 {
            return Err(failed("KVM_GET_DIRTY_LOG"));
        }
        let (first, mapping) = (kept.slot.at / PAGE, kept.slot.mapping.clone());
        let mut at = 0;
        while let Some(begin) = next(&kept.log, at, |word| word != 0) {
            let end = next(&kept.log, begin, |word| word == 0).unwrap_or(kept.log.len());
            let Some(run) = kept.log.get_mut(begin..end) else { break };
            // Up to the end of the slot when the last word is among them.
            let most = pages.saturating_sub(begin * BITS).min(run.len() * BITS);
            // Before KVM forgets them; what it does not forget it tells again.
            mapping.mark_words(first + begin * BITS, most, run);
            if self.told == Told::Cleared {
                self.clear(id, begin, most, run)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Makes pages of a run of words clean.
    fn clear(&self, id: u32, begin: usize, pages: usize, run: &mut [u64]) -> Result<(), AccelError> {
        let clear = kvm_clear_dirty_log {
            slot: id,
            num_pages: u32::try_from(pages).unwrap_or(u32::MAX),
            first_page: (begin * BITS) as u64,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: run.as_mut_ptr().cast() },
        };
        // SAFETY: KVM reads a bit for each of `pages`, which `run` holds; it writes nothing there.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &raw const clear) } != 0 {
            return Err(failed("KVM_CLEAR_DIRTY_LOG"));
        }
        Ok(())
    }
}

/// The first word from `at` on that is wanted. Long runs of zeros are passed over in steps.
fn next(words: &[u64], mut at: usize, wanted: impl Fn(u64) -> bool) -> Option<usize> {
    const STEP: usize = 16;
    if !wanted(0) {
        while let Some(step) = words.get(at..at + STEP)
            && step.iter().fold(0, |all, word| all | word) == 0
        {
            at += STEP;
        }
    }
    words.get(at..)?.iter().position(|word| wanted(*word)).map(|skip| at + skip)
}

/// Rings, if they are wanted and KVM has them and takes ours: there must be no vCPU yet.
fn choose(fd: &VmFd, rings: bool) -> Result<Told, AccelError> {
    for cap in [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING].into_iter().filter(|_| rings) {
        let most = fd.check_extension_raw(cap.into());
        if has(most)? && usize::try_from(most).is_ok_and(|most| most >= BYTES) && enable(fd, cap, BYTES as u64).is_ok()
        {
            return Ok(Told::Rings);
        }
    }
    let offered = fd.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if has(offered)? && offered.unsigned_abs() & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0 {
        enable(fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into())?;
        return Ok(Told::Cleared);
    }
    Ok(Told::Read)
}

fn enable(fd: &VmFd, cap: u32, argument: u64) -> Result<(), AccelError> {
    let cap = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() };
    fd.enable_cap(&cap).map_err(call("KVM_ENABLE_CAP"))
}

fn refused(call: &'static str, source: io::Error) -> AccelError {
    AccelError::Call { call, source }
}
