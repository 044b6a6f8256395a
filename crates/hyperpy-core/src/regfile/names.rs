//! What declared registers are called in a trace.
//!
//! Of several that share a place, told apart by what another register holds, all are named: what that held when the
//! guest was there, nobody knows any more.

use super::Layout;
use crate::names::Names;

impl Layout {
    /// The same with a name for each register, as they were given.
    #[must_use]
    pub fn named(mut self, names: Vec<Box<str>>) -> Self {
        self.names = names;
        self
    }
}

impl Names for Layout {
    fn register(&self, offset: u64, size: u8, is_write: bool) -> Option<String> {
        let side = if is_write { &self.writes } else { &self.reads };
        let end = offset.saturating_add(size.into());
        let (mut at, mut found) = (offset, Vec::new());
        while at < end {
            let slots = side.all_at(at);
            let names = slots.iter().filter_map(|slot| Some(&**self.names.get(slot.cell as usize)?));
            let names = names.collect::<Vec<_>>().join("|");
            if !names.is_empty() {
                found.push(names);
            }
            let next = slots.first().map(|slot| slot.offset.saturating_add(slot.len));
            at = next.or_else(|| side.next_after(at)).unwrap_or(end).max(at + 1);
        }
        (!found.is_empty()).then(|| found.join("+"))
    }
}
