//! The bus against a plain list of ranges, and what is seen of a device through a window of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use arbitrary::{Result, Unstructured};

use super::*;
use crate::error::BusError;
use crate::targets::{any_of, near, with};

/// Answers nothing, and is told apart by nobody.
struct Dummy;

impl Device for Dummy {
    fn read(&self, at: Access) -> u64 {
        at.ones()
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
}

/// What is where: number, first address and length.
type Ranges = Vec<(RegionId, u64, u64)>;

fn last(base: u64, len: u64) -> u128 {
    u128::from(base) + u128::from(len) - 1
}

/// Whether the list takes one more, said without a word of the bus's.
fn refusal(ranges: &Ranges, limit: u64, base: u64, len: u64) -> Option<&'static str> {
    if len == 0 {
        return Some("empty");
    }
    if last(base, len) > u128::from(limit) {
        return Some("outside");
    }
    let meets = |&(_, other, its): &(RegionId, u64, u64)| {
        u128::from(base) <= last(other, its) && u128::from(other) <= last(base, len)
    };
    ranges.iter().any(meets).then_some("overlap")
}

fn told(error: &BusError) -> &'static str {
    match error {
        BusError::Empty { .. } => "empty",
        BusError::OutsideBus { .. } => "outside",
        BusError::Overlap { .. } => "overlap",
        _ => "not attached",
    }
}

fn placement(base: u64, len: u64) -> Placement {
    Placement { base, len, name: "dummy".into(), rung: Rung::Native, device: Arc::new(Dummy) }
}

/// Changes of a bus in any order, and accesses by cursors that are as old as they are.
pub fn bus(data: &[u8]) {
    with(data, |u| {
        let limit = any_of(u, &[0xffff, u64::MAX])?;
        let bus = Bus::new(limit);
        let mut cursors = [Cursor::default(), Cursor::default()];
        let mut ranges = Ranges::new();
        while !u.is_empty() {
            let edges: Vec<u64> = ranges.iter().flat_map(|&(_, base, len)| [base, base.wrapping_add(len)]).collect();
            let edges = [&[0, limit], edges.as_slice()].concat();
            match u.int_in_range(0..=5)? {
                0 => change(u, &bus, &mut ranges, &edges)?,
                1 if !ranges.is_empty() => {
                    let (id, ..) = ranges.remove(u.int_in_range(0..=ranges.len() - 1)?);
                    assert_eq!(bus.detach(id).unwrap().id, id);
                    assert!(matches!(bus.detach(id), Err(BusError::NotAttached)));
                }
                2 if !ranges.is_empty() => {
                    bus.replace(any_of(u, &ranges)?.0, Arc::new(Dummy)).unwrap();
                }
                _ => {
                    let (address, size) = (near(u, &edges)?, u.int_in_range(1..=9)?);
                    let found = cursors[usize::from(u.arbitrary::<bool>()?)].find(&bus, address, size).map(|it| it.id);
                    let end = u128::from(address) + u128::from(size);
                    let holds = |&&(_, base, len): &&(RegionId, u64, u64)| {
                        base <= address && u128::from(address) <= last(base, len) && end <= last(base, len) + 1
                    };
                    assert_eq!(found, ranges.iter().find(holds).map(|it| it.0), "{address:#x} {size}");
                    assert_eq!(bus.map().region_at(address, size).map(|it| it.id), found);
                }
            }
            ranges.sort_by_key(|it| it.1);
            let map: Ranges = bus.map().regions().iter().map(|it| (it.id, it.base, it.len)).collect();
            assert_eq!(map, ranges);
        }
        Ok(())
    });
}

/// Takes some off and puts some on: all of it, or nothing.
fn change(u: &mut Unstructured<'_>, bus: &Bus, ranges: &mut Ranges, edges: &[u64]) -> Result<()> {
    let mut after = ranges.clone();
    let mut off = Vec::new();
    while !after.is_empty() && u.ratio(1, 4)? {
        off.push(after.remove(u.int_in_range(0..=after.len() - 1)?).0);
    }
    let mut expected = None;
    let mut on = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let (base, len) = (near(u, edges)?, near(u, &[0, 8, 0x100])?);
        on.push(placement(base, len));
        expected = expected.or_else(|| refusal(&after, bus.limit, base, len));
        after.push((RegionId(0), base, len));
    }
    match bus.prepare(&off, &on) {
        Err(error) => assert_eq!(Some(told(&error)), expected),
        // Prepared, and then not wanted.
        Ok(_) if u.ratio(1, 8)? => assert_eq!(expected, None),
        Ok(prepared) => {
            assert_eq!(expected, None);
            let (removed, added) = prepared.publish();
            assert_eq!((removed.len(), added.len()), (off.len(), on.len()));
            let kept = after.len() - added.len();
            after.iter_mut().skip(kept).zip(added).for_each(|(range, id)| range.0 = id);
            *ranges = after;
        }
    }
    Ok(())
}

/// Streams and doorbells of a device, seen through a window of it: those that lie in it whole, and where.
pub fn shortcuts(data: &[u8]) {
    with(data, |u| {
        let limits = [0, 8, 64, u64::MAX];
        let mut all = Shortcuts { late: u.arbitrary()?, ..Shortcuts::default() };
        for _ in 0..u.int_in_range(0..=6)? {
            all.streams.push((near(u, &limits)?, u.arbitrary::<u32>()? >> u.int_in_range(0..=31)?));
            let value = u.arbitrary::<Option<u64>>()?;
            all.bells.push(BellAt { offset: near(u, &limits)?, size: any_of(u, &[1, 2, 4, 8])?, value });
        }
        let (origin, len) = (near(u, &limits)?, near(u, &limits)?);
        let end = u128::from(origin) + u128::from(len);
        let fits = |offset: u64, size: u64| offset >= origin && u128::from(offset) + u128::from(size) <= end;
        let seen = all.clone().within(origin, len);
        let streams = all.streams.iter().filter(|it| fits(it.0, it.1.into())).map(|it| (it.0 - origin, it.1));
        assert_eq!(seen.streams, streams.collect::<Vec<_>>());
        let bells = all.bells.iter().filter(|it| fits(it.offset, it.size.into()));
        let bells: Vec<_> = bells.map(|it| BellAt { offset: it.offset - origin, ..*it }).collect();
        assert_eq!((seen.bells, seen.late), (bells, all.late));
        Ok(())
    });
}
