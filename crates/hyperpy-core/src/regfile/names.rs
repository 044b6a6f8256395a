//! What declared registers are called in a trace.
//!
//! Of several that share a place, told apart by what another register holds, all are named: what that held when the
//! guest was there, nobody knows any more.

use super::Layout;
use crate::bus::Access;
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
        let mut found: Vec<(u64, String)> = Vec::new();
        for place in side.touched(Access { offset, size, vcpu: 0 }) {
            let Some(name) = self.names.get(place.cell as usize).filter(|name| !name.is_empty()) else { continue };
            match found.last_mut() {
                Some((at, names)) if *at == place.offset => {
                    names.push('|');
                    names.push_str(name);
                }
                _ => found.push((place.offset, name.to_string())),
            }
        }
        let names: Vec<_> = found.into_iter().map(|(_, names)| names).collect();
        (!names.is_empty()).then(|| names.join("+"))
    }
}
