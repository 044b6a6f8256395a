//! What can be done to a device: which places it declares, what it takes at each of them, what the host can do to it.
//!
//! It is what inputs are read by (`ops`): two devices of one class have one shape, and an input means the same to both. What is not
//! declared can be done as well, only less often.

use std::collections::BTreeMap;

use crate::bus::ones;

/// Bits that another register must hold for a place to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Where that register is.
    pub offset: u64,
    /// Its width in bytes, 1 to 8.
    pub size: u8,
    /// The bits.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// A register, or a window of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub offset: u64,
    /// Its bytes: of a register 1 to 8.
    pub length: u64,
    /// A window of bytes, accessed at any width.
    pub is_window: bool,
    /// Guests read it.
    pub reads: bool,
    /// Guests write it.
    pub writes: bool,
    /// Bits that a write can change.
    pub bits: u64,
    /// What it holds at power-on.
    pub reset: u64,
    /// The bits of each field, of which values are told apart. None: all of it is one.
    pub fields: Vec<u64>,
    /// Of some fields the values that there are, where they lie.
    pub enums: Vec<(u64, Vec<u64>)>,
    /// What must be set before.
    pub needs: Vec<Need>,
}

impl Target {
    /// Bytes of an access to it.
    #[must_use]
    pub fn width(&self) -> u8 {
        u8::try_from(self.length.min(8)).unwrap_or(8)
    }

    /// A value as a driver writes it: bits that can be written, and in a field with an enum one of its values.
    #[must_use]
    pub fn legal(&self, value: u64) -> u64 {
        let mut legal = value & self.bits;
        for (mask, members) in &self.enums {
            let held = legal & mask;
            if !members.is_empty() && mask & self.bits != 0 && !members.contains(&held) {
                let number = (held >> mask.trailing_zeros().min(63)) % members.len() as u64;
                let member = usize::try_from(number).ok().and_then(|at| members.get(at)).copied();
                legal = legal & !mask | member.unwrap_or_default();
            }
        }
        legal
    }
}

/// Offsets for which it is looked up in a table which target they are of.
const TABLE: u64 = 1 << 14;

/// What can be done to a device.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Bytes of its range.
    pub size: u64,
    /// What it declares.
    targets: Vec<Target>,
    /// For each event of the host, the most bytes of its data.
    pub events: Vec<u32>,
    /// It reads guest memory.
    pub has_memory: bool,
    /// Most operations of an input.
    pub most: usize,
    /// Most nanoseconds of a step of the clock.
    pub longest_step: u64,
    readable: Vec<u32>,
    writable: Vec<u32>,
    /// By offset, width and direction.
    exact: BTreeMap<(u64, u8, bool), u32>,
    windows: Vec<u32>,
    /// By offset one more than which target, or 0.
    table: Vec<u32>,
}

impl Shape {
    /// Of a device with these targets.
    #[must_use]
    pub fn new(size: u64, targets: Vec<Target>) -> Self {
        let most = 1024;
        let mut shape = Self { size, targets, most, longest_step: 10_000_000_000, ..Self::default() };
        shape.table = vec![0; usize::try_from(size.min(TABLE)).unwrap_or_default()];
        for (target, number) in shape.targets.iter().zip(0_u32..) {
            let (place, width) = (target.offset, target.width());
            if target.is_window {
                shape.windows.push(number);
            }
            for (list, can, is_write) in
                [(&mut shape.readable, target.reads, false), (&mut shape.writable, target.writes, true)]
            {
                if can {
                    list.push(number);
                    if !target.is_window {
                        shape.exact.entry((place, width, is_write)).or_insert(number);
                    }
                }
            }
            let start = usize::try_from(place).unwrap_or(usize::MAX);
            let length = usize::try_from(target.length).unwrap_or(usize::MAX);
            for entry in shape.table.iter_mut().skip(start).take(length).filter(|entry| **entry == 0) {
                *entry = number + 1;
            }
        }
        shape
    }

    /// What it declares.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// One of its targets.
    #[must_use]
    pub fn target(&self, number: u32) -> Option<&Target> {
        self.targets.get(number as usize)
    }

    /// The targets of one direction, by number.
    #[must_use]
    pub fn on(&self, is_write: bool) -> &[u32] {
        if is_write { &self.writable } else { &self.readable }
    }

    /// The register that an access is of, whole.
    #[must_use]
    pub fn exact(&self, offset: u64, size: u8, is_write: bool) -> Option<u32> {
        self.exact.get(&(offset, size, is_write)).copied()
    }

    /// The window in which an access lies.
    #[must_use]
    pub fn window(&self, offset: u64, size: u8, is_write: bool) -> Option<u32> {
        let holds = |&&number: &&u32| {
            self.target(number).is_some_and(|it| {
                (if is_write { it.writes } else { it.reads })
                    && offset >= it.offset
                    && it.length.checked_sub(size.into()).is_some_and(|last| offset - it.offset <= last)
            })
        };
        self.windows.iter().find(holds).copied()
    }

    /// The target at an offset, whatever the access; of several the first.
    #[must_use]
    #[inline]
    pub fn at(&self, offset: u64) -> Option<u32> {
        let index = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.table.get(index) {
            Some(&entry) => entry.checked_sub(1),
            None => self.searched(offset),
        }
    }

    fn searched(&self, offset: u64) -> Option<u32> {
        if offset < TABLE {
            return None;
        }
        let exact = [1, 2, 4, 8].into_iter().flat_map(|size| [(offset, size, false), (offset, size, true)]);
        exact.into_iter().find_map(|key| self.exact.get(&key).copied()).or_else(|| self.window(offset, 1, false))
    }

    /// Where an access of some bytes lies that begins near an offset: moved into the range.
    #[must_use]
    pub fn inside(&self, offset: u64, size: u8) -> Option<(u64, u8)> {
        let size = u8::try_from(u64::from(size.clamp(1, 8)).min(self.size)).ok().filter(|&size| size != 0)?;
        Some((offset.min(self.size - u64::from(size)), size))
    }
}

/// Places of a device that declares none: its bytes, as drivers access them. Of a long range the beginning.
#[must_use]
pub fn undeclared(size: u64) -> Vec<Target> {
    const MOST: u64 = 256;
    let mut targets = Vec::new();
    for width in [1_u8, 2, 4, 8] {
        let last = size.min(MOST / if size > 16 { u64::from(8 / width) } else { 1 });
        let step = if size > 16 { u64::from(width) } else { 1 };
        let mut offset = 0;
        while offset + u64::from(width) <= last {
            targets.push(Target {
                offset,
                length: width.into(),
                reads: true,
                writes: true,
                bits: ones(width),
                ..Target::default()
            });
            offset += step;
        }
    }
    targets
}

#[cfg(test)]
#[path = "shape_test.rs"]
mod tests;
