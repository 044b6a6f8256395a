//! Addresses at which a guest is stopped, by one byte of its code that is another one: blocks whose first execution is coverage,
//! where an input ends, where one has crashed, handlers of exceptions.
//!
//! The byte is HLT where KVM hands that over, and int3 elsewhere (`Trap`). A block's byte is put back when it is hit, for
//! that execution at once and for all later ones when it has ended; all others stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::GuestError;
use super::vectors;
use super::view::View;
use crate::control::Host;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::snapshot::Snapshot;

/// The instruction that stops a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// HLT: KVM hands it over in kernel-mode code of a machine without interrupt controllers.
    Halt,
    /// int3, which KVM hands over if it is asked to (KVM_GUESTDBG_USE_SW_BP). A KVM that interprets kernel-mode code may not know it.
    Int3,
}

impl Trap {
    /// Its one byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Halt => 0xf4,
            Self::Int3 => 0xcc,
        }
    }
}

/// Why the guest is stopped at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is covered.
    Block,
    /// The input is done with.
    Stop,
    /// It has crashed.
    Crash,
    /// It takes one of these exceptions.
    Handler(Box<[u8]>),
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Linear address.
    pub gva: u64,
    /// Where its byte is.
    pub gpa: u64,
    /// What the byte was.
    pub original: u8,
    /// What the byte is instead.
    pub trap: Trap,
    /// Why.
    pub role: Role,
    /// It is a block that is covered too.
    pub is_block: bool,
    /// The byte is in the base.
    pub is_set: bool,
    /// But this execution has been there, and has the original again.
    pub is_lifted: bool,
}

impl Patch {
    /// Whether the guest is stopped there now.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_set && !self.is_lifted
    }
}

/// All of them, by address.
#[derive(Debug, Default)]
pub struct Patches(BTreeMap<u64, Patch>);

/// What is to be patched. Where two are wanted at one address, the first of these is what happens.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Where it has crashed.
    pub crashes: Vec<u64>,
    /// Exceptions that are crashes.
    pub vectors: Vec<u8>,
    /// Where an input is done with.
    pub stops: Vec<u64>,
    /// Blocks that are covered.
    pub blocks: Vec<u64>,
}

impl Patches {
    /// Looks up what is there now. Nothing is written yet.
    ///
    /// # Errors
    /// There is no memory at an address.
    pub fn find(view: &View<'_>, wanted: &Wanted, code: Trap, handlers: Trap) -> Result<Self, GuestError> {
        let mut all = Self::default();
        let mut by_handler = BTreeMap::<u64, Vec<u8>>::new();
        for &vector in &wanted.vectors {
            if let Some(gva) = vectors::handler(view, vector) {
                let shared = by_handler.entry(gva).or_default();
                if !shared.contains(&vector) {
                    shared.push(vector);
                }
            }
        }
        let crashes = wanted.crashes.iter().map(|&gva| (gva, code, Role::Crash));
        let handlers = by_handler.into_iter().map(|(gva, vectors)| (gva, handlers, Role::Handler(vectors.into())));
        let stops = wanted.stops.iter().map(|&gva| (gva, code, Role::Stop));
        let blocks = wanted.blocks.iter().map(|&gva| (gva, code, Role::Block));
        for (gva, trap, role) in crashes.chain(handlers).chain(stops).chain(blocks) {
            let is_block = role == Role::Block;
            if let Some(there) = all.0.get_mut(&gva) {
                there.is_block |= is_block;
                continue;
            }
            let missing = || GuestError::NoCode { gva };
            let (gpa, _) = view.gpa(gva).ok_or_else(missing)?;
            let mut byte = [0];
            view.memory.read(gpa, &mut byte).map_err(|_| missing())?;
            all.0.insert(
                gva,
                Patch { gva, gpa, original: byte[0], trap, role, is_block, is_set: true, is_lifted: false },
            );
        }
        Ok(all)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one at a linear address.
    #[must_use]
    pub fn at(&self, gva: u64) -> Option<&Patch> {
        self.0.get(&gva)
    }

    /// The one at a linear address, if the guest is stopped there now.
    pub fn live(&mut self, gva: u64) -> Option<&mut Patch> {
        self.0.get_mut(&gva).filter(|patch| patch.is_live())
    }

    /// An execution that has been there is over.
    pub fn settle(&mut self, gva: u64) {
        if let Some(patch) = self.0.get_mut(&gva) {
            patch.is_lifted = false;
        }
    }

    /// Whether one of them needs KVM to hand int3 over.
    #[must_use]
    pub fn has_int3(&self) -> bool {
        self.0.values().any(|patch| patch.trap == Trap::Int3)
    }

    /// Writes those that are set into memory.
    ///
    /// # Errors
    /// Memory is gone.
    pub fn write(&self, memory: &Memory) -> Result<(), GuestError> {
        for patch in self.0.values().filter(|patch| patch.is_set) {
            memory.write(patch.gpa, &[patch.trap.byte()])?;
        }
        Ok(())
    }

    /// Takes a block out of the base; whether it was there.
    pub fn clear(&mut self, gva: u64) -> bool {
        let block = self.0.get_mut(&gva).filter(|patch| patch.role == Role::Block);
        block.is_some_and(|patch| std::mem::take(&mut patch.is_set))
    }

    /// Puts every byte back that is still a patch, so that memory is what the guest has made of it.
    ///
    /// # Errors
    /// Memory is gone.
    pub fn take_out(&self, memory: &Memory) -> Result<(), GuestError> {
        for patch in self.0.values().filter(|patch| patch.is_live()) {
            let mut now = [0];
            memory.read(patch.gpa, &mut now)?;
            // Or the guest has written something else there.
            if now[0] == patch.trap.byte() {
                memory.write(patch.gpa, &[patch.original])?;
            }
        }
        Ok(())
    }

    /// Blocks that nobody has covered yet, and all.
    #[must_use]
    pub fn blocks(&self) -> (usize, usize) {
        let blocks = self.0.values().filter(|patch| patch.role == Role::Block);
        (blocks.clone().filter(|patch| patch.is_set).count(), blocks.count())
    }
}

/// Sees whether KVM hands int3 over where the base stands: one that does not may interpret it, or give the guest its own exception.
pub(super) fn try_int3(machine: &Arc<Machine>, plain: &Snapshot, host: &dyn Host) -> Result<(), GuestError> {
    let (regs, sregs) = (machine.regs(0, host)?, machine.sregs(0, host)?);
    let rip = sregs.linear_rip(regs.rip);
    let (gpa, _) = View { memory: &machine.memory, sregs: &sregs }.gpa(rip).ok_or(GuestError::NoCode { gva: rip })?;
    machine.memory.write(gpa, &[Trap::Int3.byte()])?;
    // One step: it ends whatever KVM makes of it.
    let exit = machine.step_told(0, 1, None, host, None)?;
    machine.restore(plain, &[], host)?;
    match exit {
        Exit::Debug { pc, .. } if pc == rip => Ok(()),
        _ => Err(GuestError::NoBreakpoints { rip }),
    }
}
