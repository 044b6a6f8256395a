//! The inputs that a campaign keeps: what each covers, which of them is changed next and how often, and which can go.
//!
//! Each feature has an *owner*, the shortest input that has it. What is changed next is half of the time one of the last that were
//! found, else the owner of a feature that executions seldom have: so the search stays at what is new and rare.

use std::collections::{BTreeMap, BTreeSet};

use super::coverage::{BUCKETS, Counters, SLOTS};
use super::rng::Rng;

/// An input that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub input: Box<[u8]>,
    /// What it covers: counters with their buckets, sorted.
    pub features: Box<[u32]>,
    /// Operations that it comes to.
    pub operations: u64,
    /// How often it was chosen.
    chosen: u32,
}

impl Entry {
    /// Less is better: what takes longer is worth less, and what has more bytes.
    fn cost(&self) -> (u64, usize) {
        (self.operations, self.input.len())
    }
}

/// The inputs that are kept.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    entries: Vec<Entry>,
    /// Each feature with its owner.
    owned: Vec<(u32, usize)>,
    /// Where a feature is among these.
    places: BTreeMap<u32, usize>,
    /// How many executions had each counter.
    frequencies: Vec<u32>,
    operations: u64,
}

/// An entry of usual length is changed so often before another one is chosen.
const ENERGY: u64 = 64;
/// Features of which the rarest is taken.
const DRAWN: usize = 4;

impl Corpus {
    /// How many inputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in the order in which they were found.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of one.
    #[must_use]
    pub fn input(&self, entry: usize) -> Option<&[u8]> {
        self.entries.get(entry).map(|entry| &*entry.input)
    }

    /// The bytes of any; none if there is none.
    pub fn any(&self, rng: &mut Rng) -> &[u8] {
        rng.pick(&self.entries).map_or(&[], |entry| &entry.input)
    }

    /// Counts how often executions have each counter.
    pub fn count(&mut self, counters: &Counters) {
        if self.frequencies.is_empty() {
            self.frequencies = vec![0; SLOTS];
        }
        for slot in counters.slots() {
            if let Some(frequency) = self.frequencies.get_mut(slot as usize) {
                *frequency = frequency.saturating_add(1);
            }
        }
    }

    /// Keeps an input.
    pub fn add(&mut self, input: &[u8], counters: &Counters, operations: u64) {
        let mut features: Vec<u32> = counters.features().collect();
        features.sort_unstable();
        self.operations += operations;
        self.entries.push(Entry { input: input.into(), features: features.into(), operations, chosen: 0 });
        self.own(self.entries.len() - 1);
    }

    /// Puts a shorter input in the place of the one that was added last.
    pub fn replace_last(&mut self, input: &[u8], counters: &Counters, operations: u64) {
        let Some(last) = self.entries.pop() else { return };
        self.operations = self.operations.saturating_sub(last.operations);
        self.add(input, counters, operations);
        // What the longer one had and this one has not, nobody owns if it was the only one.
        let (index, features) = (self.entries.len() - 1, &last.features);
        let has = |feature: u32| self.entries.last().is_some_and(|it| it.features.binary_search(&feature).is_ok());
        let lost: Vec<u32> = features.iter().copied().filter(|&feature| !has(feature)).collect();
        for feature in lost {
            self.disown(feature, index);
        }
    }

    /// Finds another owner for what an entry has no more.
    fn disown(&mut self, feature: u32, index: usize) {
        let Some(&place) = self.places.get(&feature) else { return };
        if self.owned.get(place).is_none_or(|&(_, owner)| owner != index) {
            return;
        }
        let holders = self.entries.iter().enumerate().filter(|(_, it)| it.features.binary_search(&feature).is_ok());
        let cheapest = holders.min_by_key(|(_, it)| it.cost()).map(|(at, _)| at);
        match (cheapest, self.owned.get_mut(place)) {
            (Some(cheapest), Some((_, owner))) => *owner = cheapest,
            (None, Some(_)) => {
                self.owned.swap_remove(place);
                self.places.remove(&feature);
                if let Some(&(moved, _)) = self.owned.get(place) {
                    self.places.insert(moved, place);
                }
            }
            _ => {}
        }
    }

    /// Has an entry own what it has at less cost than the owner.
    fn own(&mut self, entry: usize) {
        let Some(new) = self.entries.get(entry) else { return };
        for &feature in &new.features {
            let place = *self.places.entry(feature).or_insert(self.owned.len());
            match self.owned.get_mut(place) {
                None => self.owned.push((feature, entry)),
                Some((_, owner)) => {
                    if self.entries.get(*owner).is_none_or(|old| new.cost() < old.cost()) {
                        *owner = entry;
                    }
                }
            }
        }
    }

    /// An entry to be changed, and how often.
    pub fn choose(&mut self, rng: &mut Rng) -> Option<(usize, u32)> {
        let last = self.entries.len().checked_sub(1)?;
        let index = if rng.one_in(2) {
            // The last eight as often as the eight times eight before.
            last - usize::try_from(rng.by_length(last as u64)).unwrap_or_default()
        } else {
            self.rare(rng).unwrap_or(last)
        };
        let mean = self.operations / self.entries.len() as u64;
        let entry = self.entries.get_mut(index)?;
        entry.chosen = entry.chosen.saturating_add(1);
        // Twice as much for one that is new, half for one of twice the usual length.
        let fresh = if entry.chosen < 4 { 2 } else { 1 };
        let energy = (ENERGY * fresh * (mean + 1) / (entry.operations + 1)).clamp(8, 4 * ENERGY);
        Some((index, u32::try_from(energy).unwrap_or(u32::MAX)))
    }

    /// The owner of a feature that is seldom seen.
    fn rare(&self, rng: &mut Rng) -> Option<usize> {
        let drawn: [_; DRAWN] = std::array::from_fn(|_| rng.pick(&self.owned).copied());
        let rarest = drawn.into_iter().flatten().min_by_key(|&(feature, _)| {
            let slot = feature / BUCKETS;
            self.frequencies.get(slot as usize).copied().unwrap_or_default()
        });
        rarest.map(|(_, owner)| owner)
    }

    /// Keeps only what is needed to have every feature: of the rarest first, the cheapest entry that has it.
    pub fn minimize(&mut self) {
        let mut holders: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, entry) in self.entries.iter().enumerate() {
            for &feature in &entry.features {
                holders.entry(feature).or_default().push(index);
            }
        }
        let mut by_rarity: Vec<_> = holders.iter().map(|(&feature, all)| (all.len(), feature)).collect();
        by_rarity.sort_unstable();
        let mut covered = BTreeSet::<u32>::new();
        let mut needed = BTreeSet::new();
        for (_, feature) in by_rarity {
            if covered.contains(&feature) {
                continue;
            }
            let all = holders.get(&feature).map(Vec::as_slice).unwrap_or_default();
            let cheapest = all.iter().min_by_key(|&&index| self.entries.get(index).map(|it| (it.cost(), index)));
            if let Some((&index, entry)) = cheapest.and_then(|index| Some((index, self.entries.get(*index)?))) {
                covered.extend(&entry.features);
                needed.insert(index);
            }
        }
        let entries = std::mem::take(&mut self.entries);
        let kept = entries.into_iter().enumerate().filter(|(index, _)| needed.contains(index));
        self.entries = kept.map(|(_, entry)| entry).collect();
        self.operations = self.entries.iter().map(|entry| entry.operations).sum();
        self.owned.clear();
        self.places.clear();
        for index in 0..self.entries.len() {
            self.own(index);
        }
    }
}

#[cfg(test)]
#[path = "corpus_test.rs"]
mod tests;
