//! Memory: regions that come and go, lists of ranges that a guest gives, and the bits of written pages, each against the plainest
//! thing that could do the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dma::{Dma, DmaError};
use super::marks::{BITS, Bits};
use super::*;
use crate::targets::{any_of, near, with};

const PLACES: [u64; 6] = [0, 0x1000, 0x4000, 0x10_0000, 1 << 32, 1 << 52];

/// Regions in any order. Bytes are kept by address, of an alias by that of its own.
pub fn memory_map(data: &[u8]) {
    with(data, |u| {
        let memory = Memory::with_ram(0x4000).unwrap();
        let mut bytes = BTreeMap::new();
        for _ in 0..24 {
            if u.is_empty() {
                break;
            }
            let regions = memory.regions();
            let edges: Vec<u64> =
                regions.iter().flat_map(|it| [it.gpa, it.gpa.wrapping_add(it.len)]).chain(PLACES).collect();
            let page = |u: &mut arbitrary::Unstructured<'_>| {
                Ok(any_of(u, &edges)?.wrapping_add(any_of(u, &[0, 0, 0x1000, 0x3000, 1])?))
            };
            let len = any_of(u, &[0x1000, 0x1000, 0x3000, 0, 1, 0x800, !0xfff, 1 << 52])?;
            match u.int_in_range(0..=9)? {
                0 | 1 if len < 1 << 20 => {
                    let (gpa, kind) = (page(u)?, any_of(u, &[Kind::Ram, Kind::Rom, Kind::Mmio])?);
                    let meets = |it: &RegionInfo| gpa <= it.last() && it.gpa < gpa.saturating_add(len);
                    // A place for devices may be where no processor has memory.
                    let end = if kind == Kind::Mmio { 1 << 64 } else { 1_u128 << 52 };
                    let fits = u128::from(gpa) + u128::from(len) <= end;
                    let is_right = len > 0 && (gpa | len) % 0x1000 == 0 && fits;
                    let added = memory.add(gpa, len, kind, "new");
                    assert_eq!(added.is_ok(), is_right && !regions.iter().any(meets), "{gpa:#x} {len:#x}: {added:?}");
                }
                2 => drop(memory.alias(page(u)?, page(u)?, len, "again")),
                3 => {
                    let gpa = page(u)?;
                    if memory.remove(gpa).is_ok() {
                        let gone = regions.iter().find(|it| it.gpa == gpa).unwrap();
                        if gone.alias_of.is_none() {
                            bytes.retain(|at, _| !(gone.gpa..=gone.last()).contains(at));
                        }
                    }
                }
                4 => drop(memory.protect(page(u)?, u.arbitrary()?)),
                kind => {
                    let (gpa, value) = (near(u, &edges)?, u.arbitrary::<[u8; 24]>()?);
                    let count = u.int_in_range(0..=24)?;
                    // By the list of regions: the address of the bytes themselves, for each of them.
                    let own = |at: u64| {
                        let holds = |it: &&RegionInfo| it.kind != Kind::Mmio && (it.gpa..=it.last()).contains(&at);
                        regions.iter().find(holds).map(|it| it.alias_of.map_or(at, |of| of + (at - it.gpa)))
                    };
                    let owns: Option<Vec<u64>> = (0..count).map(|i| own(gpa.checked_add(i)?)).collect();
                    if kind < 7 {
                        let written = memory.write(gpa, &value[..count as usize]);
                        assert_eq!(written.is_ok(), owns.is_some(), "{gpa:#x} {count}: {written:?}");
                        bytes.extend(owns.unwrap_or_default().into_iter().zip(value));
                    } else {
                        let mut read = vec![0xa5; count as usize];
                        let done = memory.read(gpa, &mut read);
                        assert_eq!(done.is_ok(), owns.is_some(), "{gpa:#x} {count}: {done:?}");
                        assert_eq!(memory.holds(gpa, count as usize), owns.is_some());
                        let expected = owns.iter().flatten().map(|at| bytes.get(at).copied().unwrap_or(0));
                        assert!(owns.is_none() || expected.eq(read.iter().copied()));
                    }
                }
            }
            let regions = memory.regions();
            assert!(regions.windows(2).all(|pair| pair[0].last() < pair[1].gpa));
        }
        Ok(())
    });
}

/// Scatter lists of any ranges over ram, rom, a protected region, a place for devices and a hole.
pub fn dma(data: &[u8]) {
    const MIB: u64 = 1 << 20;
    thread_local! {
        static MEMORY: (Arc<Memory>, std::cell::RefCell<Vec<u8>>) = {
            let memory = Memory::with_ram(MIB).unwrap();
            memory.add(MIB, 0x1000, Kind::Ram, "more").unwrap();
            memory.add(MIB + 0x1000, 0x1000, Kind::Rom, "rom").unwrap();
            memory.add(MIB + 0x2000, 0x1000, Kind::Mmio, "devices").unwrap();
            memory.add(MIB + 0x4000, 0x1000, Kind::Ram, "behind a hole").unwrap();
            (Arc::new(memory), std::cell::RefCell::new(vec![0; MIB as usize + 0x5000]))
        };
    }
    with(data, |u| {
        MEMORY.with(|(memory, model)| {
            let mut model = model.borrow_mut();
            let dma = Dma::new(memory, near(u, &[0x100, 4 * MIB])?);
            let ends = [0, 0x1000, MIB, MIB + 0x1000, MIB + 0x2000, MIB + 0x3000, MIB + 0x4000, MIB + 0x5000, u64::MAX];
            for _ in 0..6 {
                let mut list = Vec::new();
                for _ in 0..u.int_in_range(0..=5)? {
                    let len = near(u, &[0, 16, 0x1000])?;
                    list.push((near(u, &ends)?, if u.ratio(1, 8)? { len } else { len % 0x1100 }));
                }
                // 0: nothing is there, 1: to be read, 2: to be written too.
                let kind = |at: u128| match at {
                    at if at < u128::from(MIB + 0x1000) => 2,
                    at if at < u128::from(MIB + 0x2000) => 1,
                    at if (u128::from(MIB + 0x4000)..u128::from(MIB + 0x5000)).contains(&at) => 2,
                    _ => 0,
                };
                let steps = |&(gpa, len): &(u64, u64)| {
                    let (gpa, end) = (u128::from(gpa), u128::from(gpa) + u128::from(len));
                    // Every page of it, and its last byte.
                    let pages = (gpa..end).step_by(0x1000).take(0x200).chain(end.checked_sub(1).filter(|_| len > 0));
                    pages.map(kind).min().unwrap_or(2)
                };
                let is_write = u.arbitrary()?;
                let expected = list.iter().find_map(|it| match steps(it) {
                    0 => Some(DmaError::Access { gpa: it.0, len: it.1 }),
                    1 if is_write => Some(DmaError::ReadOnly { gpa: it.0, len: it.1 }),
                    _ => None,
                });
                assert_eq!(dma.check(&list, is_write).err(), expected, "{list:x?}");
                let total: u128 = list.iter().map(|it| u128::from(it.1)).sum();
                match dma.total(&list) {
                    Ok(sum) => assert_eq!(sum as u128, total),
                    Err(error) => assert!(matches!(error, DmaError::TooMuch { .. })),
                }
                let places = list
                    .iter()
                    .flat_map(|&(gpa, len)| (0..len.min(0x1100)).map(move |at| (gpa.wrapping_add(at)) as usize));
                if is_write {
                    let bytes = u.bytes(u.len().min(64))?.to_vec();
                    match dma.scatter(&list, &bytes) {
                        Ok(()) => places.zip(&bytes).for_each(|(at, byte)| model[at] = *byte),
                        Err(DmaError::Short { .. }) => assert!(total < bytes.len() as u128 && expected.is_none()),
                        Err(error) => assert_eq!(Some(error), expected),
                    }
                } else {
                    let mut buffer = vec![0; total.min(0x800) as usize];
                    match dma.gather(&list, &mut buffer) {
                        Ok(()) => assert!(places.zip(&buffer).all(|(at, byte)| model[at] == *byte)),
                        Err(error) => assert_eq!(Some(error), expected),
                    }
                }
            }
            dma.revoke();
            assert_eq!(dma.check(&[], false), Err(DmaError::Detached));
            Ok(())
        })
    });
}

/// The bits of written pages, as a log is drained into them, against a set of numbers.
pub fn dirty_bits(data: &[u8]) {
    with(data, |u| {
        let pages = near(u, &[0, 64, 4096, 10_000])?.min(20_000) as usize;
        let bits = Bits::new(pages).unwrap();
        let mut model = BTreeSet::new();
        for _ in 0..30 {
            let first = near(u, &[0, 63, 64, pages as u64, 4096])?.min(1 << 60) as usize;
            let mut add = |first: usize, mask: u64| {
                model.extend(
                    (0..BITS)
                        .filter(|bit| mask >> bit & 1 != 0)
                        .map(|bit| first.saturating_add(bit))
                        .filter(|page| *page < pages),
                );
            };
            match u.int_in_range(0..=7)? {
                0 | 1 => {
                    let count = near(u, &[1, 64, pages as u64])?.min(30_000) as usize;
                    bits.set(first, count);
                    model.extend(first..first.saturating_add(count).min(pages).max(first));
                }
                2 => {
                    let mask = u.arbitrary()?;
                    bits.or(first, mask);
                    add(first, mask);
                }
                3 => {
                    let (index, mask) = (first / BITS, u.arbitrary()?);
                    bits.or_word(index, mask);
                    add(index * BITS, mask);
                }
                4 => {
                    bits.clear();
                    model.clear();
                }
                kind => {
                    let mut runs = Vec::new();
                    bits.runs(kind == 5, |first, count| runs.extend(first..first + count));
                    assert!(runs.iter().eq(&model));
                    if kind == 5 {
                        model.clear();
                    }
                }
            }
            let word = model
                .range(first / BITS * BITS..(first / BITS + 1) * BITS)
                .fold(0, |word, page| word | 1 << (page % BITS));
            assert_eq!(bits.word(first / BITS), word);
        }
        Ok(())
    });
}
