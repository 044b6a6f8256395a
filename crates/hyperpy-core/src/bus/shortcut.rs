//! What a device says of its writes, so that they cost the guest less than an exit and a call.

use super::{Region, Space};

/// Which writes of a device need not be served one by one while the guest waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortcuts {
    /// It keeps writes for [`Device::flush`](super::Device::flush).
    pub late: bool,
    /// Writes that may wait in the kernel's ring: offset and length in bytes.
    pub streams: Vec<(u64, u32)>,
    /// Writes that are a signal.
    pub bells: Vec<BellAt>,
}

impl Shortcuts {
    /// Those of a window, which begins at `origin` and has `len` bytes: seen from there. What is kept is the whole device's.
    #[must_use]
    pub fn within(self, origin: u64, len: u64) -> Self {
        let seen = |offset: u64, size: u64| {
            let from = offset.checked_sub(origin)?;
            (len.checked_sub(from)? >= size).then_some(from)
        };
        let streams = self.streams.iter().filter_map(|&(offset, size)| Some((seen(offset, size.into())?, size)));
        let bells =
            self.bells.iter().filter_map(|bell| Some(BellAt { offset: seen(bell.offset, bell.size.into())?, ..*bell }));
        Self { late: self.late, streams: streams.collect(), bells: bells.collect() }
    }
}

/// A write that is a signal: it does no more than to tell that it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BellAt {
    /// Bytes from the start of the device's region.
    pub offset: u64,
    /// Width of the write in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The value that is a signal; `None`: any.
    pub value: Option<u64>,
}

/// Where a device is, to name what it is told of later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// [`Machine::id`](crate::machine::Machine::id).
    pub machine: u64,
    /// The bus.
    pub space: Space,
    /// The address at which its range begins, of which this may be attached a part alone.
    pub base: u64,
}

impl Spot {
    /// By way of a region.
    pub(crate) fn of(machine: u64, space: Space, region: &Region) -> Self {
        let (_, origin) = region.device.origin();
        Self { machine, space, base: region.base.wrapping_sub(origin) }
    }
}

impl Region {
    /// Whether it has what is at an offset of this device's range.
    pub(crate) fn shows(&self, whose: usize, offset: u64) -> bool {
        let (device, origin) = self.device.origin();
        device == whose && offset.checked_sub(origin).is_some_and(|from| from < self.len)
    }
}
