//! What of a vCPU and a VM KVM knows, taken and put back: by hyperpy's accelerator, and by C with the same parts, in turn.
//!
//! No guest runs: all that there is to see is the calls, and what is done around them.

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyperpy_core::accel::{Accelerator, Interruption, Vcpu, VcpuState, Vm, VmConfig, VmState};
use hyperpy_core::kvm::Kvm;

use crate::{Failure, timed};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Taking a state.
    Save,
    /// Putting it back.
    Load,
}

/// Both.
pub const ACTS: [Act; 2] = [Act::Save, Act::Load];

impl Act {
    /// What the figures call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Load => "load",
        }
    }
}

/// A VM with one vCPU that has been entered, and its state.
pub struct Hyperpy {
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
    state: (VmState, VcpuState),
}

impl Hyperpy {
    /// Makes them.
    ///
    /// # Errors
    /// There is no usable KVM.
    pub fn open(irqchip: bool) -> Result<Self, Failure> {
        let vm = Kvm::open()?.create_vm(VmConfig { vcpus: 1, irqchip })?;
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.all_made()?;
        vcpu.exit_flag().byte().store(1, Ordering::SeqCst);
        if !matches!(vcpu.run(), Err(Interruption::Kicked)) {
            return Err("a vcpu whose flag is set was entered".into());
        }
        let state = (vm.save()?, vcpu.save()?);
        Ok(Self { vm, vcpu, state })
    }

    /// Takes the state.
    ///
    /// # Errors
    /// KVM refuses something.
    pub fn save(&mut self) -> Result<(), Failure> {
        self.state = (self.vm.save()?, self.vcpu.save()?);
        Ok(())
    }

    /// Puts it back.
    ///
    /// # Errors
    /// KVM refuses something.
    pub fn load(&mut self) -> Result<(), Failure> {
        self.vm.load(&self.state.0)?;
        Ok(self.vcpu.load(&self.state.1)?)
    }

    fn act(&mut self, act: Act) -> Result<(), Failure> {
        if act == Act::Save { self.save() } else { self.load() }
    }
}

#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

// SAFETY: the functions have these signatures in floor/state.c, which build.rs compiles into this crate.
unsafe extern "C" {
    fn states_open(irqchip: c_int, msrs: *const u32, count: usize) -> *mut Raw;
    fn states_save(state: *mut Raw) -> c_int;
    fn states_load(state: *mut Raw) -> c_int;
    fn states_close(state: *mut Raw);
}

struct Floor(NonNull<Raw>);

impl Floor {
    /// The same by C, with the same model-specific registers.
    fn open(irqchip: bool, msrs: &[u32]) -> Result<Self, Failure> {
        // SAFETY: `msrs` is valid for reads for the call, and only read.
        let raw = unsafe { states_open(irqchip.into(), msrs.as_ptr(), msrs.len()) };
        let floor = Self(NonNull::new(raw).ok_or_else(io::Error::last_os_error)?);
        floor.act(Act::Save)?;
        Ok(floor)
    }

    fn act(&self, act: Act) -> Result<(), Failure> {
        let result = match act {
            // SAFETY: the pointer came from states_open and is closed only in drop; this thread alone has it.
            Act::Save => unsafe { states_save(self.0.as_ptr()) },
            // SAFETY: as above.
            Act::Load => unsafe { states_load(self.0.as_ptr()) },
        };
        if result == 0 { Ok(()) } else { Err("KVM refuses C a part of the state".into()) }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, here.
        unsafe { states_close(self.0.as_ptr()) }
    }
}

/// Microseconds of one act.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// hyperpy.
    pub hyperpy: f64,
    /// The C floor.
    pub floor: f64,
}

/// Acts in a row before the other has its turn: short turns meet the same disturbances.
const TURN: usize = 10;

/// `rounds` rounds of about `times` acts each; who begins alternates.
///
/// # Errors
/// There is no usable KVM.
pub fn compare(irqchip: bool, act: Act, rounds: usize, times: usize) -> Result<Vec<Round>, Failure> {
    let mut hyperpy = Hyperpy::open(irqchip)?;
    let msrs: Vec<u32> = hyperpy.state.1.msrs.iter().map(|(index, _)| *index).collect();
    let floor = Floor::open(irqchip, &msrs)?;
    let turns = times.div_ceil(TURN);
    let mut ours = || timed(|| (0..TURN).try_for_each(|_| hyperpy.act(act)));
    let mut round = || {
        let mut sum = Round { hyperpy: 0.0, floor: 0.0 };
        for turn in 0..turns {
            let theirs = || timed(|| (0..TURN).try_for_each(|_| floor.act(act)));
            if turn % 2 == 0 {
                sum.hyperpy += ours()?;
                sum.floor += theirs()?;
            } else {
                sum.floor += theirs()?;
                sum.hyperpy += ours()?;
            }
        }
        #[allow(clippy::cast_precision_loss)] // a few thousand
        let per_act = 1e-3 / (turns * TURN) as f64;
        Ok(Round { hyperpy: sum.hyperpy * per_act, floor: sum.floor * per_act })
    };
    round()?; // the warm-up
    (0..rounds).map(|_| round()).collect()
}
