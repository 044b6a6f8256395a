//! What a device says of its writes, so that they cost the guest less than an exit and a call.

use super::Space;

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
    /// First address of its region.
    pub base: u64,
}
