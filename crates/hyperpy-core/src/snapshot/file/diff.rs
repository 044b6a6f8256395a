//! In what two files differ: pages by region, and values of the state by path.
//!
//! Pages are compared by a checksum with a key of its own for each comparison, which is not in any file: so no guest can make two
//! pages that only look the same. Each file is read once, from its beginning to its end.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::Region;
use super::error::LoadError;
use super::format::{PAGE, PAGE_SIZE, Run};
use super::read::SnapshotFile;
use crate::snapshot::value::Value;

/// In what two files differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Pages, in regions that both have.
    pub pages: Vec<PageRange>,
    /// Regions (their name, gpa and length) that only the first one has, and that only the second one has.
    pub regions: [Vec<(Box<str>, u64, u64)>; 2],
    /// Values of the state.
    pub state: Vec<Change>,
}

/// Pages one after the other that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Name of the region.
    pub region: Box<str>,
    /// Where they begin.
    pub gpa: u64,
    /// How many there are.
    pub count: u64,
}

/// A value that differs. None is for a value that is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it is: `vcpus[0].rip`.
    pub path: String,
    /// The first one's.
    pub old: Option<Value>,
    /// The second one's.
    pub new: Option<Value>,
}

/// Compares two files.
///
/// # Errors
/// A block of one of them is damaged, or cannot be read: which file, 0 or 1, and why.
pub fn diff(old: &SnapshotFile, new: &SnapshotFile) -> Result<Diff, (usize, LoadError)> {
    let key = RandomState::new();
    let mut found = Diff::default();
    let sums = [sums(old, &key).map_err(|error| (0, error))?, sums(new, &key).map_err(|error| (1, error))?];
    let zero = key.hash_one([0_u8; PAGE].as_slice());
    let place = |region: &Region| (region.gpa, region.len);
    let find = |file: &SnapshotFile, region: &Region| file.regions().binary_search_by_key(&place(region), place).ok();
    for (number, region) in old.regions().iter().enumerate() {
        let Some(other) = find(new, region) else {
            found.regions[0].push((region.name.clone(), region.gpa, region.len));
            continue;
        };
        if let Some(other) = new.regions().get(other) {
            found.state.extend(about(region, other));
        }
        let sides = [Side::new(old, number, &sums[0], zero), Side::new(new, other, &sums[1], zero)];
        pages(sides, &mut |page, count| {
            let gpa = region.gpa + page * PAGE_SIZE;
            match found.pages.last_mut() {
                Some(last) if last.gpa + last.count * PAGE_SIZE == gpa && last.region == region.name => {
                    last.count += count
                }
                _ => found.pages.push(PageRange { region: region.name.clone(), gpa, count }),
            }
        });
    }
    for region in new.regions() {
        if find(old, region).is_none() {
            found.regions[1].push((region.name.clone(), region.gpa, region.len));
        }
    }
    values(&mut String::new(), Some(old.state()), Some(new.state()), &mut found.state);
    Ok(found)
}

/// In what two trees of plain data differ.
#[must_use]
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    values(&mut String::new(), Some(old), Some(new), &mut found);
    found
}

/// In what two regions at one place differ beside their pages.
#[must_use]
pub fn about(old: &Region, new: &Region) -> Vec<Change> {
    let mut found = Vec::new();
    values(&mut format!("memory[{}]", old.name), Some(&old.about), Some(&new.about), &mut found);
    found
}

/// The checksum of each page that a file has.
fn sums(file: &SnapshotFile, key: &RandomState) -> Result<Vec<u64>, LoadError> {
    let mut sums = Vec::new();
    file.each_block(|_, bytes| {
        sums.extend(bytes.chunks_exact(PAGE).map(|page| key.hash_one(page)));
        Ok(())
    })?;
    Ok(sums)
}

/// What one file has of a region, read page by page.
struct Side<'a> {
    runs: &'a [Run],
    sums: &'a [u64],
    zero: u64,
}

impl<'a> Side<'a> {
    fn new(file: &'a SnapshotFile, region: usize, sums: &'a [u64], zero: u64) -> Self {
        let runs = file.runs();
        let at = |region| runs.partition_point(|run| (run.region as usize) < region);
        Self { runs: runs.get(at(region)..at(region + 1)).unwrap_or_default(), sums, zero }
    }

    /// The next page at or after `page` that is there.
    fn next(&mut self, page: u64) -> Option<u64> {
        while let Some((run, rest)) = self.runs.split_first() {
            if page < run.page + u64::from(run.count) {
                return Some(run.page.max(page));
            }
            self.runs = rest;
        }
        None
    }

    /// The checksum of a page, when `next` has been asked for it.
    fn sum(&self, page: u64) -> u64 {
        let run = self.runs.first().filter(|run| run.page <= page);
        let stored = run.and_then(|run| usize::try_from(run.stored + (page - run.page)).ok());
        stored.and_then(|stored| self.sums.get(stored)).copied().unwrap_or(self.zero)
    }
}

fn pages([mut old, mut new]: [Side<'_>; 2], differ: &mut impl FnMut(u64, u64)) {
    let mut page = 0;
    while let Some(next) = [old.next(page), new.next(page)].into_iter().flatten().min() {
        if old.sum(next) != new.sum(next) {
            differ(next, 1);
        }
        page = next + 1;
    }
}

fn values(path: &mut String, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Change>) {
    let len = path.len();
    match (old, new) {
        (Some(Value::Map(old)), Some(Value::Map(new))) => {
            let [in_old, in_new] = [old, new].map(|entries| by_name(entries));
            for (name, value) in old {
                step(path, name);
                values(path, Some(value), in_new.get(&**name).copied(), found);
                path.truncate(len);
            }
            for (name, value) in new.iter().filter(|(name, _)| !in_old.contains_key(&**name)) {
                step(path, name);
                values(path, None, Some(value), found);
                path.truncate(len);
            }
        }
        (Some(Value::List(old)), Some(Value::List(new))) => {
            if let Some(pairs) = by_their_names(old, new) {
                for (name, old, new) in pairs {
                    path.push_str(&if is_word(name) { format!("[{name}]") } else { format!("[{name:?}]") });
                    values(path, old, new, found);
                    path.truncate(len);
                }
                return;
            }
            for index in 0..old.len().max(new.len()) {
                path.push_str(&format!("[{index}]"));
                values(path, old.get(index), new.get(index), found);
                path.truncate(len);
            }
        }
        (old, new) if is_same(old, new) => {}
        (old, new) => found.push(Change { path: path.clone(), old: old.cloned(), new: new.cloned() }),
    }
}

fn by_name(entries: &[(Box<str>, Value)]) -> HashMap<&str, &Value> {
    entries.iter().map(|(name, value)| (&**name, value)).collect()
}

/// A value by its name, of both sides.
type Pair<'a> = (&'a str, Option<&'a Value>, Option<&'a Value>);

/// The items of two lists of things that have names, such as devices: one that came or went is no difference of those behind it.
/// `None`: they have none, or not one each, or are in another order.
fn by_their_names<'a>(old: &'a [Value], new: &'a [Value]) -> Option<Vec<Pair<'a>>> {
    let name = |item: &'a Value| item.get("name").and_then(Value::text).map(|name| (name, item));
    let [listed_old, listed_new] = [old, new].map(|items| items.iter().map(name).collect::<Option<Vec<_>>>());
    let (listed_old, listed_new) = (listed_old?, listed_new?);
    let [in_old, in_new] = [&listed_old, &listed_new].map(|items| items.iter().copied().collect::<HashMap<_, _>>());
    if (in_old.len(), in_new.len()) != (old.len(), new.len()) {
        return None;
    }
    let both = |items: &[(&'a str, &'a Value)], others: &HashMap<&str, &Value>| {
        items.iter().map(|(name, _)| *name).filter(|name| others.contains_key(name)).collect::<Vec<_>>()
    };
    if both(&listed_old, &in_new) != both(&listed_new, &in_old) {
        return None;
    }
    let gone = listed_old.iter().map(|(name, item)| (*name, Some(*item), in_new.get(name).copied()));
    let come =
        listed_new.iter().filter(|(name, _)| !in_old.contains_key(name)).map(|(name, item)| (*name, None, Some(*item)));
    Some(gone.chain(come).collect())
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|each| each.is_alphanumeric() || "_-".contains(each))
}

fn step(path: &mut String, name: &str) {
    if !is_word(name) {
        path.push_str(&format!("[{name:?}]"));
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Numbers that are none are the same as themselves.
fn is_same(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(Value::Float(old)), Some(Value::Float(new))) => old.to_bits() == new.to_bits(),
        (old, new) => old == new,
    }
}

#[cfg(test)]
#[path = "diff_test.rs"]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
