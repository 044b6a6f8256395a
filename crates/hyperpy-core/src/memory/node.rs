//! What was in a block at one moment, kept without a copy of it: a sealed file, and a table of the pages that differ.
//!
//! A block's `since` bits are of the pages that may differ from its node; all others are the node's. What is behind the
//! addresses plays no part in that: a page is put back by copying it, so a place may have other memory behind some pages (what
//! was zeroed, what a restore spared) and nothing here has to know. All of this is for who holds the memory's link.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::base::Base;
use super::block::{Backing, Mapping, Pages};
use super::file::{self, Behind, Place};
use super::layout::RegionInfo;
use super::marks::{BITS, Bits, PAGE};
use super::table::{Content, Copies, Table};

/// Fewer pages than this are copied for a child, however small the block is: a file costs more.
const FEW: usize = 64;

/// What was in a block.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) base: Arc<Base>,
    pub(super) table: Table,
}

impl Node {
    /// That of a base alone.
    pub(super) fn new(base: Arc<Base>) -> Self {
        let table = Table::new(base.data().pages());
        Self { base, table }
    }

    /// Bytes of pages that are not known to be zeros.
    pub(super) fn bytes(&self) -> u64 {
        let (mut pages, mut gone) = (0, 0);
        self.base.data().words(false, |_, bits| pages += u64::from(bits.count_ones()));
        self.table.words(|index, bits| {
            gone += u64::from((self.base.data().word(index) & bits).count_ones());
            let copies = self.table.leaf(index).into_iter().flatten();
            pages += copies.filter(|content| matches!(content, Content::Stored { .. })).count() as u64;
        });
        (pages - gone) * PAGE as u64
    }

    /// Bytes of the base, if nobody else has it, and of the copies that nobody else has.
    pub(super) fn own_bytes(&self) -> u64 {
        let mut pages = 0;
        if Arc::strong_count(&self.base) == 1 && self.base.file().is_some() {
            self.base.data().words(false, |_, bits: u64| pages += u64::from(bits.count_ones()));
        }
        pages * PAGE as u64 + self.table.own_bytes()
    }

    /// Content of a page; none if it is zeros.
    pub(super) fn page(&self, page: usize) -> Option<&[u8; PAGE]> {
        self.within(self.table.leaf(page / BITS), page)
    }

    fn is_base(&self, page: usize) -> bool {
        let content = self.table.leaf(page / BITS).and_then(|leaf| leaf.get(page % BITS));
        content.is_none_or(|content| matches!(content, Content::Base))
    }

    /// The same for who has the part of the table that the page is in.
    fn within<'a>(&'a self, leaf: Option<&'a [Content; BITS]>, page: usize) -> Option<&'a [u8; PAGE]> {
        match leaf.and_then(|leaf| leaf.get(page % BITS)) {
            None | Some(Content::Base) => self.base.page(page),
            Some(Content::Zero) => None,
            Some(Content::Stored { store, at }) => store.page(*at),
        }
    }

    /// Calls `f` with each word of 64 pages of which some are not known to be zeros, as (number, one bit each).
    pub(super) fn data(&self, mut f: impl FnMut(usize, u64)) {
        self.base.data().words(false, &mut f);
        self.table.words(|index, bits| f(index, bits & !self.base.data().word(index)));
    }
}

/// Calls `f` with each page of a word.
pub(super) fn each_page(index: usize, mut bits: u64, mut f: impl FnMut(usize)) {
    while bits != 0 {
        f(index * BITS + bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

impl Mapping {
    /// Gives the block its first node: its file is sealed, and the mapping is a private one of it at the same address. Where
    /// pages come from a pool there are none for that: everything counts as written since zeros.
    ///
    /// # Errors
    /// The host has no memory, or somebody has the file mapped for writing. Nothing has changed then.
    pub(super) fn begin(&self, backing: &mut Backing) -> io::Result<()> {
        let (None, Some(file)) = (&backing.node, &backing.file) else { return Ok(()) };
        if self.pages.pooled() {
            backing.node = Some(Node::new(Arc::new(Base::zeros(self.place.len())?)));
            self.since.set(0, self.since.pages());
            return Ok(());
        }
        // All that can fail for want of memory comes first.
        let place = Place::to_read(Behind::Private(file), self.place.len())?;
        let data = Bits::new(self.since.pages())?;
        let copy = file.try_clone()?;
        self.since.clear();
        self.place.replace(0, self.place.len(), Behind::Private(file))?;
        if let Err(error) = file::seal(file) {
            self.share_again(file)?;
            return Err(error);
        }
        let base = Base::at(copy, place, data);
        *backing = Backing { file: None, node: Some(Node::new(Arc::new(base))) };
        Ok(())
    }

    /// Back to the shared mapping, with what was written meanwhile.
    pub(super) fn share_again(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let mut page = [0; PAGE];
        let mut result = Ok(());
        let looked = self.place.each_own_page(|number| {
            let at = number * PAGE;
            if self.read(at, &mut page)
                && let Err(error) = file.write_all_at(&page, at as u64)
            {
                result = Err(error);
            }
        });
        self.place.replace(0, self.place.len(), Behind::Shared(file))?;
        looked.and(result)
    }

    /// What is in the block now becomes its node. Only what was written since the last one is copied.
    ///
    /// # Errors
    /// The host has no memory for the copies. Nothing has changed then.
    pub(super) fn keep(&self, backing: &mut Backing) -> io::Result<Node> {
        self.begin(backing)?;
        let Some(node) = &mut backing.node else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut count = 0;
        self.since.words(false, |_, bits| count += bits.count_ones() as usize);
        if count == 0 {
            return Ok(node.clone());
        }
        let mut copied = Vec::new();
        copied.try_reserve_exact(count).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let (mut copies, mut result, mut bytes) = (Copies::default(), Ok(()), [0; PAGE]);
        self.since.words(false, |index, bits| {
            each_page(index, bits, |page| {
                if copied.len() == count || result.is_err() {
                    return;
                }
                let is_zero = !self.read(page * PAGE, &mut bytes) || bytes == [0; PAGE];
                let number = (!is_zero).then(|| copies.take(&bytes, count - copied.len() - 1)).transpose();
                result = number.map(|number| copied.push((page, number)));
            });
        });
        result?;
        let stores = copies.stores();
        for (page, number) in copied {
            let content = match number.and_then(|number| stores.content(number)) {
                Some(content) => content,
                None if node.base.page(page).is_none() => Content::Base,
                None => Content::Zero,
            };
            node.table.set(page, content);
        }
        self.since.clear();
        Ok(node.clone())
    }

    /// Puts all pages back that differ from `node`, which is the block's from now on; those stay that `spared` has bits for,
    /// given the number of their word. How many were copied, and whether other memory had to be put behind the block,
    /// because the node is of another origin. `told`: whether the user is to know of what changed.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub(super) fn restore(
        &self,
        backing: &mut Backing,
        node: &Node,
        told: bool,
        spared: impl Fn(usize) -> u64,
    ) -> io::Result<(u64, bool)> {
        let remapped = self.aim(backing, node, &spared)?;
        let told = self.told(told);
        if let Some(told) = told.filter(|_| remapped) {
            told.set(0, told.pages());
        }
        let mut pages = 0;
        self.since.words(true, |index, bits| {
            let stay = bits & spared(index);
            self.since.or_word(index, stay);
            let bits = bits & !stay;
            if let Some(told) = told {
                told.or_word(index, bits);
            }
            let leaf = node.table.leaf(index);
            each_page(index, bits, |page| self.put(page, node.within(leaf, page)));
            pages += u64::from(bits.count_ones());
        });
        Ok((pages, remapped))
    }

    /// Has `node` be the block's: `since` has a bit for every page that is not as there. True if other memory had to be put
    /// behind the block for that.
    fn aim(&self, backing: &mut Backing, node: &Node, spared: &impl Fn(usize) -> u64) -> io::Result<bool> {
        self.begin(backing)?;
        if let Some(now) = &mut backing.node
            && Arc::ptr_eq(&now.base, &node.base)
        {
            if !now.table.is_same(&node.table) {
                now.table.differences(&node.table, |index, bits| self.since.or_word(index, bits));
                now.table.clone_from(&node.table);
            }
            return Ok(false);
        }
        // From here on no page is known to be what it was, whether all of it succeeds or not.
        self.since.set(0, self.since.pages());
        if self.pages.pooled() {
            backing.node = Some(node.clone());
            return Ok(true);
        }
        let put_behind = |first: usize, end: usize| {
            self.place.replace(first * PAGE, end.saturating_sub(first) * PAGE, node.base.behind())
        };
        let (mut first, mut result) = (0, Ok(()));
        for index in 0..self.since.pages().div_ceil(BITS) {
            each_page(index, spared(index), |page| {
                if result.is_ok() {
                    result = put_behind(first, page);
                }
                first = page + 1;
            });
        }
        result?;
        put_behind(first, self.since.pages())?;
        backing.node = Some(node.clone());
        self.since.clear();
        node.table.words(|index, bits| self.since.or_word(index, bits));
        for index in 0..self.since.pages().div_ceil(BITS) {
            self.since.or_word(index, spared(index));
        }
        Ok(true)
    }

    /// A block with the same content, which shares what neither has written since its base; and how many pages were copied.
    ///
    /// # Errors
    /// The host has no memory.
    pub(super) fn child(&self, backing: &mut Backing, name: &str) -> io::Result<(Self, u64)> {
        self.begin(backing)?;
        let Some(node) = backing.node.clone() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let child = Self::above(&node.base, self.pages, self.place.len(), name)?;
        let mut copied = 0;
        let mut copy = |index, bits: u64| {
            if self.pages.pooled() {
                // What a pool has not been asked for is zeros already.
                each_page(index, bits, |page| copied += u64::from(child.put_unless_zero(self, page)));
                return;
            }
            let span = (bits.trailing_zeros() as usize, bits.count_ones() as usize);
            // Only where they touch, and more than one: others are not to be given pages.
            if span.1 > 1 && bits >> span.0 == u64::MAX >> (BITS - span.1) {
                child.place.populate(index * BITS + span.0, span.1);
            }
            each_page(index, bits, |page| child.put_from(self, page));
            copied += u64::from(bits.count_ones());
        };
        self.since.words(false, &mut copy);
        node.table.words(|index, bits| copy(index, bits & !self.since.word(index)));
        self.since.words(false, |index, bits| child.since.or_word(index, bits));
        child.backing().node = Some(node);
        Ok((child, copied))
    }

    /// Copies a page of another block, and whether that was not all zeros, as the page here is already.
    fn put_unless_zero(&self, other: &Self, page: usize) -> bool {
        let mut bytes = [0; PAGE];
        let is_data = other.read(page * PAGE, &mut bytes) && bytes != [0; PAGE];
        if is_data {
            self.put(page, Some(&bytes));
        }
        is_data
    }

    /// A block with the content of a node.
    ///
    /// # Errors
    /// The host has no memory.
    pub(super) fn of(node: &Node, info: &RegionInfo) -> io::Result<Self> {
        let len = usize::try_from(info.len).map_err(io::Error::other)?;
        let made = Self::above(&node.base, info.pages, len, &info.name)?;
        let put = |index, bits| {
            each_page(index, bits, |page| {
                if let Some(bytes) = node.page(page) {
                    made.put(page, Some(bytes));
                } else if !made.pages.pooled() {
                    made.put(page, None);
                }
            });
        };
        if made.pages.pooled() {
            node.data(put)
        } else {
            node.table.words(put)
        }
        made.backing().node = Some(node.clone());
        Ok(made)
    }

    /// A block whose pages are a base's, until they are written; pages from a pool are zeros.
    fn above(base: &Base, pages: Pages, len: usize, name: &str) -> io::Result<Self> {
        if pages.pooled() {
            return Self::new(len as u64, pages, name);
        }
        let place = Place::new(base.behind(), len, pages)?;
        Self::at(place, pages, Backing { file: None, node: None })
    }

    /// Where more than a quarter of the pages are not the base's any more, writes what is in the block into a new file, and
    /// has that be its base, at the same address. True if it did. Nobody of the host may write meanwhile.
    ///
    /// # Errors
    /// The host has no memory. Nothing has changed then.
    pub(super) fn rebase(&self, backing: &mut Backing, name: &str) -> io::Result<bool> {
        self.begin(backing)?;
        let Some(node) = backing.node.as_ref().filter(|_| !self.pages.pooled()) else { return Ok(false) };
        let mut differ = node.table.count();
        self.since.words(false, |index, bits| {
            each_page(index, bits, |page| differ += usize::from(node.is_base(page)));
        });
        if differ <= FEW.max(self.since.pages() / 4) {
            return Ok(false);
        }
        let file = file::create(self.len(), Pages::Small, name)?;
        {
            let place = Place::new(Behind::Shared(&file), self.place.len(), Pages::Small)?;
            let new = Self::at(place, Pages::Small, Backing { file: None, node: None })?;
            let copy = |index, bits: u64| {
                each_page(index, bits, |page| {
                    new.put_unless_zero(self, page);
                });
            };
            node.data(|index, bits| copy(index, bits & !self.since.word(index)));
            self.since.words(false, copy);
        }
        file::seal(&file)?;
        let base = Base::of(file, self.place.len())?;
        if self.views().is_empty() {
            self.place.replace(0, self.place.len(), base.behind())?;
        }
        backing.node = Some(Node::new(Arc::new(base)));
        self.since.clear();
        Ok(true)
    }
}
