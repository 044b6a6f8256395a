//! Placeholder replaced by the loaders.
use crate::arch::x86_64::{Regs, Sregs};
/// How a vCPU begins.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// General registers.
    pub regs: Regs,
}
impl Entry {
    /// Changes the reset state into that of the entry.
    pub fn apply(&self, _sregs: &mut Sregs) {}
}
