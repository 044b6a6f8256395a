//! KVM: the only module that knows it. Kernel api.rst is the specification of every call here.
//!
//! kvm-ioctls carries the plain calls. KVM_RUN and the page that it shares with us are our own (`page`), because
//! that page is written by other threads and the kernel while a vCPU runs, and must never be behind a `&mut`.
//! [`thread`] holds what a vCPU's thread needs of the host: the kick, the tick and the signal masks.

mod page;
mod probe;
mod setup;
pub mod thread;
mod vcpu;
mod vm;

pub use probe::{Capabilities, capabilities};

use std::io;
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm as KvmFd};

use crate::accel::{AccelError, Accelerator, Vm, VmConfig};

/// KVM_API_VERSION, unchanged since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// The host's KVM.
#[derive(Debug)]
pub struct Kvm {
    fd: KvmFd,
}

impl Kvm {
    /// Opens /dev/kvm.
    ///
    /// # Errors
    /// It is absent, not permitted, or of another version.
    pub fn open() -> Result<Self, AccelError> {
        let fd = KvmFd::new().map_err(|error| unavailable(error.errno()))?;
        match fd.get_api_version() {
            API_VERSION => Ok(Self { fd }),
            version => Err(AccelError::Version { version }),
        }
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
            if !self.fd.check_extension(cap) {
                return Err(AccelError::Missing { capability: name });
            }
        }
        Ok(Arc::new(vm::KvmVm::new(&self.fd, config)?))
    }

    fn max_vcpus(&self) -> u32 {
        u32::try_from(self.fd.get_max_vcpus()).unwrap_or(u32::MAX)
    }
}

fn unavailable(errno: i32) -> AccelError {
    let hint = match errno {
        libc::ENOENT => {
            "this host has no /dev/kvm: load the module kvm-intel or kvm-amd, switch virtualization on in the firmware, \
             or run the command in the lab: `hyperpy lab -- COMMAND`"
        }
        libc::EACCES | libc::EPERM => {
            "you may not open /dev/kvm: join its group (`sudo usermod -aG kvm $USER`, then log in again), \
             or run the command in the lab: `hyperpy lab -- COMMAND`"
        }
        libc::EMFILE | libc::ENFILE => "too many open files: raise the limit (`ulimit -n`) or close machines",
        _ => "run `hyperpy doctor` to see what is wrong with it",
    };
    AccelError::Unavailable { source: io::Error::from_raw_os_error(errno), hint }
}

/// Turns the error of a kvm-ioctls call into ours.
fn call(name: &'static str) -> impl Fn(kvm_ioctls::Error) -> AccelError {
    move |error| AccelError::Call { call: name, source: io::Error::from_raw_os_error(error.errno()) }
}
