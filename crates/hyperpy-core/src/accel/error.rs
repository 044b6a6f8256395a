//! What an accelerator could not do, and what to do about it.

use std::io;

use thiserror::Error;

/// What an accelerator could not do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AccelError {
    /// There is no usable /dev/kvm.
    #[error("/dev/kvm cannot be used: {source}")]
    Unavailable {
        /// What opening it said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Its version is not the one API that there has ever been.
    #[error("/dev/kvm speaks version {version} of its interface, not 12")]
    Version {
        /// The version that it reports.
        version: i32,
    },
    /// It lacks something that the machine needs.
    #[error("/dev/kvm lacks {capability}")]
    Missing {
        /// Capability, as KVM names it.
        capability: &'static str,
    },
    /// An ioctl failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The ioctl.
        call: &'static str,
        /// What it returned.
        source: io::Error,
    },
    /// A model-specific register could not be read or set.
    #[error("{call} refuses msr {index:#x}{}", value_of(*.value))]
    Msr {
        /// The ioctl.
        call: &'static str,
        /// Index of the register.
        index: u32,
        /// The value that it was to be set to.
        value: Option<u64>,
    },
    /// A state is of another vCPU or VM.
    #[error("the state cannot be put back or taken here: its {part} {why}")]
    State {
        /// Which part of it.
        part: &'static str,
        /// What is wrong with that.
        why: &'static str,
    },
    /// There is no interrupt controller to use.
    #[error("the machine has no interrupt controller for gsi {gsi}")]
    NoIrqchip {
        /// The gsi.
        gsi: u32,
    },
}

/// What to do when the host has run out of descriptors or memory; `None` for other errors.
#[must_use]
pub fn hint_for_exhausted(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE => Some("too many open files: raise the limit (`ulimit -n`) or close machines"),
        libc::ENOMEM => Some("the host has no memory left for it: ask for less, or close other machines"),
        _ => None,
    }
}

impl AccelError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unavailable { hint, .. } => hint,
            Self::Version { .. } => "load the kvm module of a Linux kernel newer than 2.6.22",
            Self::Missing { .. } => "run `hyperpy doctor` to see what this host's KVM offers, or use a newer kernel",
            Self::Call { source, .. } => {
                hint_for_exhausted(source).unwrap_or("run `hyperpy doctor` to check this host's KVM")
            }
            Self::Msr { value: None, .. } => {
                "the processor or KVM has no such register: `list(vcpu.msrs)` shows those it has"
            }
            Self::Msr { .. } => "the processor or KVM lacks it, or it has reserved bits that are set",
            Self::State { .. } => {
                "put it back into a machine of the same shape, on a host with the same processor and KVM"
            }
            Self::NoIrqchip { .. } => {
                "create the machine with irqchip=True, or attach the device with irq= before the first run"
            }
        }
    }
}

fn value_of(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| format!(": {value:#x}"))
}
