//! What accesses do to each bit of a register, as masks: one formula serves every kind of field.

/// Masks of a register's bits by what accesses do to them. A bit that is in none of the masks of writes keeps its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// A read shows them; others read as 0.
    pub readable: u64,
    /// A write stores them.
    pub stored: u64,
    /// Writing 1 clears them (w1c).
    pub cleared_by_1: u64,
    /// Writing 0 clears them (w0c).
    pub cleared_by_0: u64,
    /// Writing 1 sets them (w1s).
    pub set_by_1: u64,
    /// A read clears them (rc).
    pub cleared_by_read: u64,
    /// A read sets them (rs).
    pub set_by_read: u64,
}

impl Bits {
    /// The bits that are in any of the masks.
    #[must_use]
    pub fn any(&self) -> u64 {
        self.readable | self.written() | self.cleared_by_read | self.set_by_read
    }

    fn written(&self) -> u64 {
        self.stored | self.cleared_by_1 | self.cleared_by_0 | self.set_by_1
    }

    /// Whether a write does one thing to each bit, and a read too.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let ways = [self.stored, self.cleared_by_1, self.cleared_by_0, self.set_by_1].map(u64::count_ones);
        ways.iter().sum::<u32>() == self.written().count_ones() && self.cleared_by_read & self.set_by_read == 0
    }

    /// What a register holds after `value` was written to its bits in `lanes`.
    #[inline]
    #[must_use]
    pub fn after_write(&self, held: u64, value: u64, lanes: u64) -> u64 {
        let set = value & (self.stored | self.set_by_1);
        let cleared = (!value & (self.stored | self.cleared_by_0)) | (value & self.cleared_by_1);
        (held & !(cleared & lanes)) | (set & lanes)
    }

    /// What it holds after its bits in `lanes` were read.
    #[inline]
    #[must_use]
    pub fn after_read(&self, held: u64, lanes: u64) -> u64 {
        (held & !(self.cleared_by_read & lanes)) | (self.set_by_read & lanes)
    }

    /// Whether a read changes it.
    #[inline]
    #[must_use]
    pub fn changes_when_read(&self) -> bool {
        self.cleared_by_read | self.set_by_read != 0
    }

    /// The value that, written to all of it, changes nothing: what stands for bits that were not written.
    #[must_use]
    pub fn neutral(&self, held: u64) -> u64 {
        (held & self.stored) | self.cleared_by_0
    }
}
