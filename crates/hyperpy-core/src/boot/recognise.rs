//! Which loader a file is for, by what the file itself says. Flat code and firmware have no mark: these are asked for.
//!
//! | the file | is for |
//! |---|---|
//! | has a setup header ("HdrS" at 0x202) | [`linux`](super::linux) |
//! | has a Multiboot 1 header | [`multiboot`](super::multiboot) |
//! | is an ELF file with a PVH note | [`pvh`](super::pvh) |
//! | is another ELF file of the 64-bit class | [`linux`](super::linux) |
//!
//! The first row that fits holds. A compressed file is looked at when it is unpacked.

use super::elf::{Headers, is_elf, require_wide};
use super::{multiboot, pvh, setup};
use crate::error::BootError;

/// A loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Linux/x86 boot protocol.
    Linux,
    /// Multiboot 1.
    Multiboot,
    /// The x86/HVM direct boot ABI.
    Pvh,
}

/// The loader for a file. Whether that can load it is not known yet.
///
/// # Errors
/// None is for it; or it is an ELF file whose headers are damaged.
pub fn recognise(image: &[u8]) -> Result<Kind, BootError> {
    if setup::is_bzimage(image) {
        return Ok(Kind::Linux);
    }
    if multiboot::header(image).is_some() {
        return Ok(Kind::Multiboot);
    }
    if is_elf(image) {
        let headers = Headers::parse(image)?;
        if pvh::entry(&headers)?.is_some() {
            return Ok(Kind::Pvh);
        }
        if multiboot::is_multiboot_2(image) {
            return Err(BootError::Multiboot2);
        }
        return require_wide(image).map(|()| Kind::Linux);
    }
    Err(BootError::NotKernel { found: image.iter().copied().take(4).collect() })
}
