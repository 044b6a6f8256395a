//! What of a block's pages differs from its base: a tree of tables of 64, which never changes once somebody else has it.
//!
//! The table of an image shares all but what was written since with that of the image before it, so a chain of images needs
//! no chain to be followed: a page is found in a few steps however old its content is, what two tables differ in is found
//! without looking at what they share, and what no table has any more is freed with the last one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::marks::{BITS, PAGE};

/// Content of a page.
#[derive(Clone, Debug, Default)]
pub(super) enum Content {
    /// That of the base.
    #[default]
    Base,
    /// Zeros.
    Zero,
    /// Page `at` of a store.
    Stored { store: Arc<Store>, at: u32 },
}

impl Content {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Base, Self::Base) | (Self::Zero, Self::Zero) => true,
            (Self::Stored { store, at }, Self::Stored { store: other, at: there }) => {
                Arc::ptr_eq(store, other) && at == there
            }
            _ => false,
        }
    }
}

/// Most pages of a store, for all of it stays while one of them is shared.
pub(super) const STORE: usize = 64;

/// Copies of pages that were taken together.
#[derive(Debug)]
pub(super) struct Store(Box<[[u8; PAGE]]>);

impl Store {
    /// The page of this number.
    pub(super) fn page(&self, at: u32) -> Option<&[u8; PAGE]> {
        self.0.get(at as usize)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.as_flattened().len() as u64
    }
}

/// Copies that are being taken, in as many stores as they need: all are full but the last.
#[derive(Debug, Default)]
pub(super) struct Copies {
    full: Vec<Arc<Store>>,
    open: Vec<[u8; PAGE]>,
    taken: usize,
}

impl Copies {
    /// Takes one, after which there come `more` at most. Its number is what [`Stores::content`] wants.
    ///
    /// # Errors
    /// The host has no memory.
    pub(super) fn take(&mut self, page: &[u8; PAGE], more: usize) -> io::Result<usize> {
        if self.open.is_empty() {
            let room = more.saturating_add(1).min(STORE);
            self.open.try_reserve_exact(room).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        }
        self.open.extend_from_slice(std::slice::from_ref(page));
        if self.open.len() == STORE {
            self.close();
        }
        self.taken += 1;
        Ok(self.taken - 1)
    }

    fn close(&mut self) {
        self.full.push(Arc::new(Store(std::mem::take(&mut self.open).into())));
    }

    pub(super) fn stores(mut self) -> Stores {
        if !self.open.is_empty() {
            self.close();
        }
        Stores(self.full)
    }
}

/// Copies that were taken.
#[derive(Debug)]
pub(super) struct Stores(Vec<Arc<Store>>);

impl Stores {
    /// That of a page by the number of its copy.
    pub(super) fn content(&self, number: usize) -> Option<Content> {
        let store = self.0.get(number / STORE)?.clone();
        Some(Content::Stored { store, at: u32::try_from(number % STORE).ok()? })
    }
}

type Leaf = [Content; BITS];
type Inner = [Option<Arc<Node>>; BITS];

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there are 64 leaves to an inner one
enum Node {
    Inner(Inner),
    Leaf(Leaf),
}

impl Node {
    fn new(height: u32) -> Self {
        if height == 0 { Self::Leaf([const { Content::Base }; BITS]) } else { Self::Inner([const { None }; BITS]) }
    }

    fn inner(&self, index: usize) -> Option<&Arc<Self>> {
        if let Self::Inner(inner) = self { inner.get(index)?.as_ref() } else { None }
    }

    fn content(&self, index: usize) -> &Content {
        if let Self::Leaf(leaf) = self { leaf.get(index).unwrap_or(&Content::Base) } else { &Content::Base }
    }
}

/// The table of one block.
#[derive(Clone, Debug)]
pub(super) struct Table {
    root: Option<Arc<Node>>,
    /// Levels of tables above the lowest.
    height: u32,
    /// Pages that are not the base's.
    count: usize,
}

impl Table {
    /// For a block of `pages` pages, all of them the base's.
    pub(super) fn new(pages: usize) -> Self {
        let mut height = 0;
        while pages.saturating_sub(1) >> (6 * (height + 1)) != 0 {
            height += 1;
        }
        Self { root: None, height, count: 0 }
    }

    /// How many pages are not the base's.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether it is the same one, and not only alike.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The contents of the 64 pages from `64 * word`; none if all are the base's.
    pub(super) fn leaf(&self, word: usize) -> Option<&Leaf> {
        let mut node = self.root.as_deref()?;
        for level in (0..self.height).rev() {
            let Node::Inner(inner) = node else { return None };
            node = inner.get(word >> (6 * level) & (BITS - 1))?.as_deref()?;
        }
        if let Node::Leaf(leaf) = node { Some(leaf) } else { None }
    }

    /// Sets what is in a page.
    pub(super) fn set(&mut self, page: usize, content: Content) {
        let mut slot = &mut self.root;
        for level in (0..=self.height).rev() {
            let node = Arc::make_mut(slot.get_or_insert_with(|| Arc::new(Node::new(level))));
            let index = page >> (6 * level) & (BITS - 1);
            match node {
                Node::Inner(inner) => match inner.get_mut(index) {
                    Some(next) => slot = next,
                    None => return,
                },
                Node::Leaf(leaf) => {
                    if let Some(entry) = leaf.get_mut(index) {
                        self.count += usize::from(matches!(entry, Content::Base));
                        self.count -= usize::from(matches!(content, Content::Base));
                        *entry = content;
                    }
                    return;
                }
            }
        }
    }

    /// Bytes of the copies that nobody else has.
    pub(super) fn own_bytes(&self) -> u64 {
        let mut held: HashMap<_, (&Arc<Store>, usize)> = HashMap::new();
        each_own(self.root.as_ref(), &mut |store| held.entry(Arc::as_ptr(store)).or_insert((store, 0)).1 += 1);
        let own = held.into_values().filter(|&(store, times)| Arc::strong_count(store) == times);
        own.map(|(store, _)| store.bytes()).sum()
    }

    /// Calls `f` with each word of 64 pages of which some are not the base's, as (number, one bit each).
    pub(super) fn words(&self, mut f: impl FnMut(usize, u64)) {
        differ(self.root.as_ref(), None, self.height, 0, &mut f);
    }

    /// Calls `f` with each word of 64 pages of which some are not the same in `other`, a table of the same base.
    pub(super) fn differences(&self, other: &Self, mut f: impl FnMut(usize, u64)) {
        differ(self.root.as_ref(), other.root.as_ref(), self.height, 0, &mut f);
    }
}

/// Calls `f` with the store of each page that is in a part of the table that nobody else has.
fn each_own<'a>(node: Option<&'a Arc<Node>>, f: &mut impl FnMut(&'a Arc<Store>)) {
    match node.filter(|node| Arc::strong_count(node) == 1).map(|node| &**node) {
        Some(Node::Inner(inner)) => inner.iter().for_each(|node| each_own(node.as_ref(), f)),
        Some(Node::Leaf(leaf)) => leaf.iter().for_each(|content| {
            if let Content::Stored { store, .. } = content {
                f(store);
            }
        }),
        None => {}
    }
}

fn differ<'a>(
    one: Option<&'a Arc<Node>>,
    other: Option<&'a Arc<Node>>,
    level: u32,
    start: usize,
    f: &mut impl FnMut(usize, u64),
) {
    match (one, other) {
        (None, None) => return,
        (Some(one), Some(other)) if Arc::ptr_eq(one, other) => return,
        _ => {}
    }
    if level > 0 {
        for index in 0..BITS {
            let inner = |node: Option<&'a Arc<Node>>| node.and_then(|node| node.inner(index));
            differ(inner(one), inner(other), level - 1, start * BITS + index, f);
        }
        return;
    }
    let content = |node: Option<&'a Arc<Node>>, index| node.map_or(&Content::Base, |node| node.content(index));
    let bits = (0..BITS).filter(|&index| !content(one, index).is_same(content(other, index)));
    let bits = bits.fold(0, |bits, index| bits | 1 << index);
    if bits != 0 {
        f(start, bits);
    }
}
