//! What a block and its copies descend from: a sealed file, or zeros. Its pages are read, and shared by private mappings; nobody
//! writes them.

use std::fs::File;
use std::io;

use super::file::{self, Behind, Place};
use super::marks::{BITS, Bits, PAGE};

/// A file that nobody changes any more, or zeros.
#[derive(Debug)]
pub(super) struct Base {
    /// The file and where it can be read; none for zeros.
    file: Option<(File, Place)>,
    /// Its pages that are not known to be zeros. The others are not looked at: that would give them memory.
    data: Bits,
}

impl Base {
    /// All zeros.
    pub(super) fn zeros(len: usize) -> io::Result<Self> {
        Ok(Self { file: None, data: Bits::new(len / PAGE)? })
    }

    /// A file of `len` bytes that is sealed.
    ///
    /// # Errors
    /// It is not, or it is shorter, or the host has no memory.
    pub(super) fn of(file: File, len: usize) -> io::Result<Self> {
        if !file::is_sealed(&file) || file.metadata()?.len() != len as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = Place::to_read(Behind::Private(&file), len)?;
        Ok(Self::at(file, place, Bits::new(len / PAGE)?))
    }

    /// A file, a place to read it, and as many clear bits as it has pages.
    pub(super) fn at(file: File, place: Place, data: Bits) -> Self {
        let mut base = Self { file: Some((file, place)), data };
        base.look();
        base
    }

    /// Finds out where it has pages.
    fn look(&mut self) {
        let (Some((file, place)), pages) = (&self.file, self.data.pages()) else { return };
        let page = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX) / PAGE;
        let looked = file::each_data(file, place.len() as u64, |start, end| {
            self.data.set(page(start), page(end.saturating_add(PAGE as u64 - 1)).saturating_sub(page(start)));
        });
        if looked.is_err() {
            self.data.set(0, pages);
        }
    }

    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref().map(|(file, _)| file)
    }

    /// What a private mapping of it is made of.
    pub(super) fn behind(&self) -> Behind<'_> {
        self.file().map_or(Behind::Zeros, Behind::Private)
    }

    /// Pages that are not known to be zeros.
    pub(super) fn data(&self) -> &Bits {
        &self.data
    }

    /// Content of a page; none if it is zeros.
    pub(super) fn page(&self, page: usize) -> Option<&[u8; PAGE]> {
        let (_, place) = self.file.as_ref()?;
        if self.data.word(page / BITS) & 1 << (page % BITS) == 0 {
            return None;
        }
        // SAFETY: there are only bits for pages of the file, all of which the place maps while it lives; and nobody changes
        // them any more, since the file is sealed.
        Some(unsafe { &*((place.start() + page * PAGE) as *const [u8; PAGE]) })
    }
}
