//! KVM: the only module that knows it. Kernel api.rst is the specification of every call here.
//!
//! kvm-ioctls carries the plain calls. KVM_RUN and the page that it shares with us are our own (`page`), because
//! that page is written by other threads and the kernel while a vCPU runs, and must never be behind a `&mut`.
//! [`thread`] holds what a vCPU's thread needs of the host: the kick, the tick and the signal masks.

pub mod affinity;
mod convert;
mod exits;
mod page;
mod probe;
mod ring;
mod setup;
mod slots;
mod snapshot;
mod state;
pub mod thread;
mod vcpu;
mod vm;

#[cfg(any(test, fuzzing))]
pub use self::exits::fuzz;
pub use probe::{Capabilities, capabilities};

use std::io;
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm as KvmFd};

use self::setup::Features;
use crate::accel::{AccelError, Accelerator, Vm, VmConfig, hint_for_exhausted};
use crate::arch::x86_64::cpuid::Leaf;

/// KVM_API_VERSION, unchanged since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Slots of a KVM that does not tell how many it has (KVM_CAP_NR_MEMSLOTS).
const LEAST_SLOTS: u32 = 32;

/// A KVM that interprets guests by thousands of instructions and looks only then whether a ring is full: pages are lost.
const LATE_RINGS: &str = "/sys/module/kvm_pvm";

/// The host's KVM.
#[derive(Debug)]
pub struct Kvm {
    fd: KvmFd,
    most_slots: u32,
    rings: bool,
}

impl Kvm {
    /// Opens /dev/kvm.
    ///
    /// # Errors
    /// It is absent, not permitted, or of another version.
    pub fn open() -> Result<Self, AccelError> {
        let fd = KvmFd::new().map_err(|error| unavailable(error.errno()))?;
        match fd.get_api_version() {
            API_VERSION => {
                let slots = fd.check_extension_int(Cap::NrMemslots);
                has(slots)?;
                let most_slots = slots.unsigned_abs().max(LEAST_SLOTS);
                Ok(Self { fd, most_slots, rings: !std::path::Path::new(LATE_RINGS).exists() })
            }
            ..0 => Err(failed("KVM_GET_API_VERSION")),
            version => Err(AccelError::Version { version }),
        }
    }
}

impl Kvm {
    /// Has written pages told by rings, where KVM has them, or by bits: for comparisons. Otherwise it is decided here.
    #[must_use]
    pub fn with_rings(mut self, on: bool) -> Self {
        self.rings = on;
        self
    }
}

impl Accelerator for Kvm {
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, AccelError> {
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
        ] {
            if !has(self.fd.check_extension_int(cap))? {
                return Err(AccelError::Missing { capability: name });
            }
        }
        Ok(Arc::new(vm::KvmVm::new(&self.fd, config, self.rings)?))
    }

    fn most_slots(&self) -> u32 {
        self.most_slots
    }

    fn max_vcpus(&self) -> Result<u32, AccelError> {
        // kvm-ioctls takes an error for a capability that is not there.
        let most = self.fd.check_extension_int(Cap::MaxVcpus);
        u32::try_from(most).map_err(|_| failed("KVM_CHECK_EXTENSION"))
    }

    fn msr_indices(&self) -> Result<Vec<u32>, AccelError> {
        let list = self.fd.get_msr_index_list().map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    fn cpuid(&self, config: VmConfig, vcpu: u32) -> Result<Vec<Leaf>, AccelError> {
        let offered = setup::offered(&self.fd)?;
        let tsc_deadline = config.irqchip && has(self.fd.check_extension_int(Cap::TscDeadlineTimer))?;
        let features = Features { tsc_deadline };
        Ok(state::leaves(&setup::table(vcpu, config, &offered, features)))
    }
}

fn unavailable(errno: i32) -> AccelError {
    let source = io::Error::from_raw_os_error(errno);
    let hint = match errno {
        libc::ENOENT => {
            "this host has no /dev/kvm: load the module kvm-intel or kvm-amd, switch virtualization on in the firmware, \
             or run the command in the lab: `hyperpy lab -- COMMAND`"
        }
        libc::EACCES | libc::EPERM => {
            "you may not open /dev/kvm: join its group (`sudo usermod -aG kvm $USER`, then log in again), \
             or run the command in the lab: `hyperpy lab -- COMMAND`"
        }
        _ => hint_for_exhausted(&source).unwrap_or("run `hyperpy doctor` to see what is wrong with it"),
    };
    AccelError::Unavailable { source, hint }
}

/// Whether KVM has a capability, by its answer to KVM_CHECK_EXTENSION. kvm-ioctls' own takes an error for a no.
fn has(answer: i32) -> Result<bool, AccelError> {
    if answer < 0 { Err(failed("KVM_CHECK_EXTENSION")) } else { Ok(answer > 0) }
}

/// The error of the system call that was made last on this thread.
fn failed(name: &'static str) -> AccelError {
    AccelError::Call { call: name, source: io::Error::last_os_error() }
}

/// Turns the error of a kvm-ioctls call into ours.
fn call(name: &'static str) -> impl Fn(kvm_ioctls::Error) -> AccelError {
    move |error| AccelError::Call { call: name, source: io::Error::from_raw_os_error(error.errno()) }
}
