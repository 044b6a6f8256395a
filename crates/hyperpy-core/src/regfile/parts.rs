//! How an access falls onto registers: the device's rule for what is narrow, wide, unaligned or across two of them.

use super::RegisterFile;
use super::layout::Rule;
use super::side::{Place, Side};
use crate::bus::{Access, ones};

/// The bytes of one register that an access covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The register at the place: a port, where one is touched.
    pub(super) cell: u32,
    /// The register's first byte that is covered.
    pub(super) from: u64,
    /// How many bytes.
    pub(super) len: u8,
    /// Bits of the access below them.
    pub(super) shift: u32,
    /// What a read does to bits it does to all of the register.
    pub(super) whole: bool,
}

impl Part {
    /// Its bytes of what is written, in the low bits.
    pub(super) fn given(&self, value: u64) -> u64 {
        (value >> self.shift) & ones(self.len)
    }
}

/// What becomes of an access.
pub(super) enum Fall {
    /// One register, or window, is served: all of the access is in it.
    One(Part),
    /// Registers are served one after the other.
    Several,
    /// It touches no register, and is the owner's.
    Owners,
    /// It reads as 0, and a write is dropped.
    Nothing,
    /// It is an error.
    Refused,
}

/// Most bytes of an access.
const MOST: u8 = 8;

impl RegisterFile {
    /// `first` is what is at its first byte.
    pub(super) fn fall(&self, side: &Side, at: Access, first: Option<&Place>) -> Fall {
        let rule = self.layout.rule;
        if !(1..=MOST).contains(&at.size) {
            return Fall::Nothing; // no guest makes it
        }
        if let Some(place) = first.filter(|place| place.covers(at)) {
            return match rule {
                Rule::Exact if !place.is_exact(at) => Fall::Nothing,
                Rule::Refuse if !place.is_exact(at) => Fall::Refused,
                _ => Fall::One(place.part(at.offset, 0, at.size, rule == Rule::Widen)),
            };
        }
        let is_there = |place: &Place| place.when.is_none_or(|when| self.holds(&when));
        let touches = side.touched(at).any(is_there);
        match rule {
            _ if !touches && self.layout.plain => Fall::Owners,
            Rule::Refuse => Fall::Refused,
            Rule::Split | Rule::Widen if touches => Fall::Several,
            _ => Fall::Nothing,
        }
    }

    /// Calls `serve` with each part of an access, by ascending address. What is at a place is looked up when its turn comes:
    /// the part before it may have chosen another bank.
    pub(super) fn each_part(&self, side: &Side, at: Access, mut serve: impl FnMut(&Part)) {
        let mut done = 0;
        while done < at.size {
            // Offsets of an access lie within the device's region: the bus has seen to it.
            let Some(offset) = at.offset.checked_add(done.into()) else { return };
            done += match side.find(offset, |when| self.holds(when)) {
                Some(place) => {
                    let part = place.part(offset, done, at.size - done, self.layout.rule == Rule::Widen);
                    serve(&part);
                    part.len
                }
                None => 1,
            };
        }
    }
}
