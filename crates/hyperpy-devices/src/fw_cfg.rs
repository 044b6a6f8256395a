//! fw_cfg: numbered items that firmware reads one byte after the other (QEMU: docs/specs/fw_cfg.rst), as a PC has it at
//! ports 0x510 and 0x511.
//!
//! A 16-bit write to the first port selects an item and goes back to its beginning; each read of the second gives the
//! next byte, and 0 behind the last one and in items that are not there. So this device is not 8-bit: the selector
//! takes no narrower write, and a data port that is written drops it. There is no DMA interface, and the id says so.
//!
//! What the items say comes from whoever makes the device. The few that firmware asks for by number are made here;
//! everything else is a named file of the directory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hyperpy_core::bus::{Access, Action, Device};
use hyperpy_core::names::Names;
use hyperpy_core::snapshot::{Saved, State, StateFault, check, with};
use hyperpy_core::state;
use thiserror::Error;

use crate::names::{self, fixed};
use crate::{OPEN_BUS, lock, read_bytes};

/// Ports that the device takes.
pub const PORTS: u64 = 2;

/// FW_CFG_SIGNATURE.
const SIGNATURE: u16 = 0x00;
/// FW_CFG_ID: what the device can do.
const ID: u16 = 0x01;
/// Bit of the id: the two ports. Bit 1 would be the DMA interface.
const HAS_PORTS: u32 = 1 << 0;
/// FW_CFG_NB_CPUS: processors that are there.
const CPUS: u16 = 0x05;
/// FW_CFG_MAX_CPUS: processors that could be there.
const MOST_CPUS: u16 = 0x0f;
/// FW_CFG_FILE_DIR: the directory.
const DIRECTORY: u16 = 0x19;
/// FW_CFG_FILE_FIRST: the item of the first file.
const FIRST_FILE: u16 = 0x20;
/// Most files: bit 14 of the selector means something else.
const MOST_FILES: usize = 0x4000 - FIRST_FILE as usize;
/// Bytes of a name in the directory, with its NUL.
const NAME_LEN: usize = 56;

/// Port of the data; the selector is before it.
const DATA_PORT: u64 = 1;

/// A file that cannot be in the directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FwCfgError {
    /// A name that is empty, longer than 55 bytes, not ASCII, or has a NUL; or one that was there already.
    #[error("not a name for a fw_cfg file, or given twice: {name:?}")]
    Name {
        /// As given.
        name: String,
    },
    /// More files than items.
    #[error("too many fw_cfg files: {count}, at most {most}")]
    TooMany {
        /// As given.
        count: usize,
        /// Most.
        most: usize,
    },
    /// A file whose length does not fit the directory.
    #[error("fw_cfg file is too long: {name}, {len:#x} bytes")]
    TooLong {
        /// Its name.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
}

/// What is selected, and how far it is read.
#[derive(Default)]
struct Place {
    item: u16,
    offset: usize,
}

state! {
    /// The same, to be kept: what the items say is how the device was made.
    struct FwCfgState {
        item: u16,
        offset: u64,
    }
}

/// The two ports.
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    place: Mutex<Place>,
}

impl FwCfg {
    /// A device that tells of `cpus` processors and has these files, sorted by their names as firmware wants them.
    ///
    /// # Errors
    /// A file has an unusable name or length, or there are too many.
    pub fn new(cpus: u16, files: Vec<(String, Vec<u8>)>) -> Result<Self, FwCfgError> {
        let count = files.len();
        if count > MOST_FILES {
            return Err(FwCfgError::TooMany { count, most: MOST_FILES });
        }
        let mut sorted = BTreeMap::new();
        for (name, bytes) in files {
            let is_name = !name.is_empty() && name.len() < NAME_LEN && name.is_ascii() && !name.contains('\0');
            if !is_name || sorted.contains_key(&name) {
                return Err(FwCfgError::Name { name });
            }
            sorted.insert(name, bytes);
        }
        let mut items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (ID, HAS_PORTS.to_le_bytes().to_vec()),
            (CPUS, cpus.to_le_bytes().to_vec()),
            (MOST_CPUS, cpus.to_le_bytes().to_vec()),
        ]);
        let mut directory = (count as u32).to_be_bytes().to_vec();
        for (item, (name, bytes)) in (FIRST_FILE..).zip(sorted) {
            let len = bytes.len();
            let Ok(size) = u32::try_from(len) else {
                return Err(FwCfgError::TooLong { name, len });
            };
            directory.extend(size.to_be_bytes());
            directory.extend(item.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME_LEN));
            items.insert(item, bytes);
        }
        items.insert(DIRECTORY, directory);
        Ok(Self { items, place: Mutex::default() })
    }

    fn next(&self) -> u8 {
        let mut place = lock(&self.place);
        let item = self.items.get(&place.item);
        let byte = item.and_then(|bytes| bytes.get(place.offset)).copied().unwrap_or(0);
        place.offset = place.offset.saturating_add(1);
        byte
    }
}

impl Device for FwCfg {
    fn read(&self, at: Access) -> u64 {
        read_bytes(at, |offset| if offset == DATA_PORT { self.next() } else { OPEN_BUS })
    }

    fn write(&self, at: Access, value: u64) -> Action {
        if at.offset == 0 && at.size == 2 {
            *lock(&self.place) = Place { item: value as u16, offset: 0 };
        }
        Action::Continue
    }

    fn reset(&self) {
        *lock(&self.place) = Place::default();
    }

    fn save(&self) -> Result<State, StateFault> {
        let Place { item, offset } = *lock(&self.place);
        Ok(Arc::new(FwCfgState { item, offset: offset as u64 }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<FwCfgState>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |&FwCfgState { item, offset }| {
            // Behind the end of an item all places are one.
            *lock(&self.place) = Place { item, offset: usize::try_from(offset).unwrap_or(usize::MAX) };
        })
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        fixed(names::FW_CFG)
    }
}

#[cfg(test)]
#[path = "fw_cfg_test.rs"]
mod tests;
