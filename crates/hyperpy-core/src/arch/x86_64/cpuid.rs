//! CPUID as a table of leaves, and what a script changed of it.
//!
//! A change is kept by bits, not as a copy of the leaf: what the script did not touch goes on following the machine (the
//! number of vCPUs, the local APIC). So it can be made before there is a vCPU, and is applied to each one that is made.
//! SDM vol. 2A, CPUID.

use std::collections::BTreeMap;

/// The answer to CPUID with EAX = `leaf` and ECX = `subleaf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // eax to edx are the registers
pub struct Leaf {
    /// EAX on entry.
    pub leaf: u32,
    /// ECX on entry; 0 where it does not matter.
    pub subleaf: u32,
    /// Whether ECX matters.
    pub indexed: bool,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl Leaf {
    /// EAX to EDX, as one number of 128 bits.
    fn bits(&self) -> u128 {
        let [a, b, c, d] = [self.eax, self.ebx, self.ecx, self.edx].map(u128::from);
        a | b << 32 | c << 64 | d << 96
    }

    #[allow(clippy::cast_possible_truncation)] // a quarter each
    fn set_bits(&mut self, bits: u128) {
        self.eax = bits as u32;
        self.ebx = (bits >> 32) as u32;
        self.ecx = (bits >> 64) as u32;
        self.edx = (bits >> 96) as u32;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    /// These bits have these values; the leaf is made if it is not there.
    Bits {
        mask: u128,
        value: u128,
        indexed: bool,
    },
    Removed,
}

/// A change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidChange {
    /// The leaf replaces the one of its number, or is new.
    Set(Leaf),
    /// There is no such leaf.
    Remove {
        /// EAX on entry.
        leaf: u32,
        /// ECX on entry.
        subleaf: u32,
    },
}

/// What a script changed of one vCPU's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuidEdits(BTreeMap<(u32, u32), Edit>);

impl CpuidEdits {
    /// Keeps a change of what is in `table` now.
    pub fn add(&mut self, table: &[Leaf], change: CpuidChange) {
        match change {
            CpuidChange::Set(wanted) => {
                let same = |now: &&Leaf| (now.leaf, now.subleaf) == (wanted.leaf, wanted.subleaf);
                self.set(table.iter().find(same), &wanted);
            }
            CpuidChange::Remove { leaf, subleaf } => drop(self.0.insert((leaf, subleaf), Edit::Removed)),
        }
    }

    /// Keeps the bits that differ, or all of a new leaf.
    fn set(&mut self, now: Option<&Leaf>, wanted: &Leaf) {
        let (mask, indexed) = match now {
            Some(now) => (now.bits() ^ wanted.bits(), now.indexed),
            None => (u128::MAX, wanted.indexed),
        };
        let (held, kept) = match self.0.get(&(wanted.leaf, wanted.subleaf)) {
            Some(&Edit::Bits { mask, value, .. }) => (mask, value),
            Some(Edit::Removed) | None => (0, 0),
        };
        let value = kept & !mask | wanted.bits() & mask;
        self.0.insert((wanted.leaf, wanted.subleaf), Edit::Bits { mask: held | mask, value, indexed });
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes a table.
    pub fn apply(&self, table: &mut Vec<Leaf>) {
        for (&(leaf, subleaf), edit) in &self.0 {
            let at = table.iter().position(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf));
            match *edit {
                Edit::Removed => drop(at.map(|at| table.remove(at))),
                Edit::Bits { mask, value, indexed } => {
                    let mut entry = at.and_then(|at| table.get(at).copied()).unwrap_or(Leaf {
                        leaf,
                        subleaf,
                        indexed,
                        ..Leaf::default()
                    });
                    entry.set_bits(entry.bits() & !mask | value & mask);
                    match at.and_then(|at| table.get_mut(at)) {
                        Some(place) => *place = entry,
                        None => table.push(entry),
                    }
                }
            }
        }
    }
}

/// Physical-address bits of a processor (CPUID.80000008H:EAX[7:0]); 36 where it does not tell.
#[must_use]
pub fn physical_bits(table: &[Leaf]) -> u32 {
    let told = table.iter().find(|leaf| leaf.leaf == 0x8000_0008).map_or(0, |leaf| leaf.eax & 0xff);
    if (32..=52).contains(&told) { told } else { 36 }
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
