//! Declared registers: any that can be, against the model; any numbers at all, as a declaration and as a state; and what a
//! split access is, said without the model.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use arbitrary::{Result, Unstructured};

use super::pair::deeds::{Choice, Deed, declaration, play};
use super::pair::{Log, Pair, RULES};
use super::*;
use crate::snapshot::{Saved, StateFault};
use crate::targets::{any_of, changed, near, sorted, with};

fn tell(u: &mut Unstructured<'_>) -> Result<Tell> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Tell::Always,
        1 => Tell::If(u.arbitrary()?),
        _ => Tell::Never,
    })
}

fn choices(u: &mut Unstructured<'_>) -> Result<Vec<Choice>> {
    let mut choices = Vec::new();
    for _ in 0..u.int_in_range(1..=12)? {
        choices.push(Choice {
            kind: u.int_in_range(0..=8)?,
            width: any_of(u, &[1, 2, 4, 8])?,
            gap: any_of(u, &[0, 0, 0, 1, 3])?,
            turn: u.int_in_range(0..=9)?,
            is_big: u.arbitrary()?,
            on_read: u.ratio(1, 5)?,
            on_write: tell(u)?,
            sides: any_of(u, &[(true, true), (true, true), (true, false), (false, true)])?,
            other: u.arbitrary::<u8>()?.into(),
            mask: u.arbitrary()?,
        });
    }
    Ok(choices)
}

fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    near(u, &[0, 0xff, 0xffff_ffff, u64::MAX])
}

fn deed(u: &mut Unstructured<'_>) -> Result<Deed> {
    let at = u.arbitrary::<u16>()?.into();
    Ok(match u.int_in_range(0..=15)? {
        0 | 1 => Deed::Set(at, value(u)?, u.arbitrary()?),
        2 | 3 => Deed::Push(at, value(u)?),
        4 => Deed::Pop(at),
        5 => Deed::Threshold(at, u.int_in_range(0..=4)?),
        6 => Deed::Step(u.arbitrary::<u64>()? >> 21),
        7 => Deed::Reset,
        8..12 => Deed::Access(at, u.int_in_range(1..=8)?, None),
        _ => Deed::Access(at, u.int_in_range(1..=8)?, Some(value(u)?)),
    })
}

/// Any declaration that can be, accessed and changed in any order.
pub fn registers(data: &[u8]) {
    with(data, |u| {
        let (cells, size) = declaration(&choices(u)?);
        let layout = Arc::new(Layout::new(cells, size, any_of(u, &RULES)?, u.arbitrary()?).unwrap());
        let mut pair = Pair::new(&layout, u.arbitrary()?);
        for _ in 0..100 {
            if u.is_empty() {
                break;
            }
            play(&mut pair, &deed(u)?);
        }
        Ok(())
    });
}

fn bits(u: &mut Unstructured<'_>, width: u8) -> Result<Bits> {
    let mut mask = || Ok(u.arbitrary::<u64>()? & u.arbitrary::<u64>()? & crate::bus::ones(width));
    let mut bits = Bits { readable: mask()?, stored: mask()?, cleared_by_1: mask()?, ..Bits::default() };
    (bits.cleared_by_0, bits.set_by_1, bits.cleared_by_read, bits.set_by_read) = (mask()?, mask()?, mask()?, mask()?);
    if u.arbitrary()? {
        // One meaning for each bit.
        bits.cleared_by_1 &= !bits.stored;
        bits.cleared_by_0 &= !(bits.stored | bits.cleared_by_1);
        bits.set_by_1 &= !(bits.stored | bits.cleared_by_1 | bits.cleared_by_0);
        bits.set_by_read &= !bits.cleared_by_read;
    }
    Ok(bits)
}

/// A register of any numbers, most of them small.
fn cell(u: &mut Unstructured<'_>) -> Result<Cell> {
    let width = any_of(u, &[1, 2, 4, 8, 1, 2, 4, 8, 0, 3, 255])?;
    let sides = (u.arbitrary()?, u.arbitrary()?);
    let few = |u: &mut Unstructured<'_>| near(u, &[0, 1, 4, 1 << 28, u32::MAX.into()]).map(|it| it as u32);
    let kind = match u.int_in_range(0..=9)? {
        0 => Kind::Fifo {
            depth: few(u)?,
            guest_takes: u.arbitrary()?,
            overflow: any_of(u, &[Overflow::Drop, Overflow::Overwrite])?,
            empty: near(u, &[0])?,
            threshold: few(u)?,
        },
        1 => Kind::Level { of: few(u)? },
        2 => Kind::Counter { hz: near(u, &[0, 1_000_000_000])? },
        3 => Kind::Ram { len: near(u, &[0, 8, 1 << 28, u64::MAX])? },
        4 => {
            Kind::Port { index: few(u)?, mask: near(u, &[0, 3])?, first: few(u)?, count: few(u)?, step: u.arbitrary()? }
        }
        _ => Kind::Plain,
    };
    let when = u.ratio(1, 4)?.then(|| Ok(When { cell: few(u)?, mask: near(u, &[1])?, equals: near(u, &[0, 1])? }));
    let delivery = any_of(u, &[Delivery::Now, Delivery::Now, Delivery::Posted, Delivery::Stream])?;
    Ok(Cell {
        offset: if u.ratio(1, 6)? { None } else { Some(near(u, &[0, 8, 16, 0x1_0000, u64::MAX])?) },
        width,
        kind,
        bits: if u.arbitrary()? { bits(u, width)? } else { Bits::default() },
        reset: near(u, &[0])?,
        big_endian: u.arbitrary()?,
        sides,
        when: when.transpose()?,
        on_read: u.ratio(1, 4)?,
        on_write: tell(u)?,
        delivery,
    })
}

/// A declaration of any numbers: it is refused, or it is served without harm and allocates no more than is allowed.
pub fn layouts(data: &[u8]) {
    with(data, |u| {
        let mut cells = Vec::new();
        for _ in 0..u.int_in_range(1..=8)? {
            cells.push(cell(u)?);
        }
        let size = near(u, &[0, 8, 0x100, 1 << 28, u64::MAX])?;
        let Ok(layout) = Layout::new(cells, size, any_of(u, &RULES)?, u.arbitrary()?) else { return Ok(()) };
        let held = |cell: &Cell| match cell.kind {
            Kind::Ram { len } => len,
            Kind::Fifo { depth, .. } => u64::from(depth) * 8,
            _ => 0,
        };
        assert!(layout.cells.iter().map(held).sum::<u64>() <= layout::MOST);
        if layout.cells.iter().map(held).sum::<u64>() > 1 << 20 {
            return Ok(()); // allowed, and slow
        }
        let layout = Arc::new(layout);
        let (file, log) = (RegisterFile::new(layout.clone()), Log::default());
        for _ in 0..20 {
            let at =
                Access { offset: near(u, &[0, 8, 16, 0x1_0000, u64::MAX])?, size: u.int_in_range(0..=9)?, vcpu: 0 };
            if u.arbitrary()? {
                let before = file.quick_read(at);
                assert!(before.is_none_or(|value| value & !at.ones() == 0));
                // What the owner itself answers is cut by who asked.
                let is_cut = file.read(at, &log) & !at.ones() == 0;
                assert!(is_cut || file.layout().plain);
            } else {
                let written = value(u)?;
                if !file.quick_write(at, written) {
                    file.write(at, written, &log);
                }
                file.ring(at, written, 3, &log);
            }
        }
        file.reset();
        // What it holds can be put back.
        let image = file.save();
        file.load_value(&Saved::value(&image)).unwrap();
        assert_eq!(Saved::value(&file.save()), Saved::value(&image));
        Ok(())
    });
}

/// Registers that want to know of nothing and that a read leaves alone: a split access is its bytes one after the other.
pub fn access_split(data: &[u8]) {
    with(data, |u| {
        let (mut cells, mut end) = (Vec::new(), 0);
        for _ in 0..u.int_in_range(1..=8)? {
            let width = any_of(u, &[1, 2, 4, 8])?;
            let mut bits = bits(u, width)?;
            bits = Bits { cleared_by_1: bits.cleared_by_1 & !bits.stored, ..bits };
            let safe = Bits {
                readable: bits.readable,
                stored: bits.stored,
                cleared_by_1: bits.cleared_by_1,
                ..Bits::default()
            };
            let at = end + any_of(u, &[0, 0, 1, 5])?;
            end = at + u64::from(width);
            cells.push(Cell {
                offset: Some(at),
                bits: safe,
                reset: u.arbitrary::<u64>()? & crate::bus::ones(width),
                big_endian: u.arbitrary()?,
                sides: any_of(u, &[(true, true), (true, true), (true, false), (false, true)])?,
                ..super::pair::layouts::plain(at, width)
            });
        }
        let layout = Arc::new(Layout::new(cells, end, Rule::Split, false).unwrap());
        let (wide, narrow) = (RegisterFile::new(layout.clone()), RegisterFile::new(layout.clone()));
        let log = Log::default();
        let at = |offset, size| Access { offset, size, vcpu: 0 };
        for _ in 0..40 {
            let (offset, size) = (near(u, &[0, 8, end])?, u.int_in_range(1..=8)?);
            let bytes = (0..u64::from(size)).filter_map(|byte| Some((offset.checked_add(byte)?, 8 * byte)));
            if u.arbitrary()? {
                let value = value(u)?;
                wide.write(at(offset, size), value, &log);
                bytes.for_each(|(offset, shift)| drop(narrow.write(at(offset, 1), value >> shift & 0xff, &log)));
            } else {
                let expected = bytes.fold(0, |all, (offset, shift)| all | narrow.read(at(offset, 1), &log) << shift);
                assert_eq!(wide.read(at(offset, size), &log), expected, "{offset:#x} {size}");
            }
            let held = |file: &RegisterFile| (0..layout.cells.len()).map(|id| file.get(id as u32)).collect::<Vec<_>>();
            assert_eq!(held(&wide), held(&narrow));
        }
        assert!(log.0.lock().unwrap().is_empty());
        Ok(())
    });
}

/// A state of any plain data: it is refused, and nothing has changed, or it is what is saved again.
pub fn register_state(data: &[u8]) {
    with(data, |u| {
        let (cells, size) = declaration(&choices(u)?);
        let layout = Arc::new(Layout::new(cells, size, Rule::Split, false).unwrap());
        let (file, log) = (RegisterFile::new(layout.clone()), Log::default());
        for _ in 0..u.int_in_range(0..=10)? {
            file.write(Access { offset: u.arbitrary::<u8>()?.into(), size: 4, vcpu: 0 }, u.arbitrary()?, &log);
        }
        for _ in 0..6 {
            let before = Saved::value(&file.save());
            let mut given = before.clone();
            for _ in 0..u.int_in_range(0..=3)? {
                changed(u, &mut given)?;
            }
            assert_eq!(file.check_value(&given).is_ok(), {
                let other = RegisterFile::new(layout.clone());
                other.load_value(&given).is_ok()
            });
            match file.load_value(&given) {
                Ok(()) => {
                    assert_eq!(sorted(&Saved::value(&file.save())), sorted(&given));
                }
                Err(fault) => {
                    assert!(matches!(fault, StateFault::Misfit(_)));
                    assert_eq!(Saved::value(&file.save()), before);
                }
            }
        }
        Ok(())
    });
}
