//! Page walks over hostile tables against the manual's words said again, vector state in areas of any length, and what names
//! and tables of a processor are.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::HashMap;

use super::cpuid::{CpuidChange, CpuidEdits, Leaf, physical_bits};
use super::disassemble::disassemble;
use super::fpu::{self, Fpu, Wide};
use super::paging::{End, Paging, walk};
use super::{Sregs, msrs, valid};
use crate::targets::{any_of, near, with};

/// What the SDM's tables 4-5 to 4-20 say of one linear address, by plain shifts: the gpa, and whether it may be written, used by
/// user mode, and executed.
fn translated(gva: u64, sregs: &Sregs, read: &dyn Fn(u64) -> Option<u64>) -> Option<(u64, [bool; 3])> {
    let (pae, la57, long) = (sregs.cr4 & 1 << 5 != 0, sregs.cr4 & 1 << 12 != 0, sregs.efer & 1 << 10 != 0);
    if sregs.cr0 >> 31 & 1 == 0 {
        return (gva >> 32 == 0).then_some((gva, [true; 3]));
    }
    let nx = sregs.efer & 1 << 11 != 0;
    let mut rights = [true; 3];
    if !long && !pae {
        if gva >> 32 != 0 {
            return None;
        }
        let half = |at: u64| read(at & !7).map(|both| both >> (8 * (at & 4)) & 0xffff_ffff);
        let pde = half((sregs.cr3 & 0xffff_f000) + 4 * (gva >> 22))?;
        if pde & 1 == 0 {
            return None;
        }
        (rights[0], rights[1]) = (pde & 2 != 0, pde & 4 != 0);
        if pde & 0x80 != 0 && sregs.cr4 & 1 << 4 != 0 {
            let gpa = (pde >> 13 & 0xff) << 32 | pde & 0xffc0_0000 | gva & 0x3f_ffff;
            return (pde >> 21 & 1 == 0).then_some((gpa, rights));
        }
        let pte = half((pde & 0xffff_f000) + 4 * (gva >> 12 & 0x3ff))?;
        rights = [rights[0] && pte & 2 != 0, rights[1] && pte & 4 != 0, true];
        return (pte & 1 != 0).then_some((pte & 0xffff_f000 | gva & 0xfff, rights));
    }
    let top = if !long {
        2
    } else if la57 {
        4
    } else {
        3
    };
    let bits = if long { 12 + 9 * (top + 1) } else { 32 };
    let sign = gva as i64 >> (bits - u32::from(long));
    if if long { sign != 0 && sign != -1 } else { sign != 0 } {
        return None;
    }
    let mut table = sregs.cr3 & if long { 0x000f_ffff_ffff_f000 } else { 0xffff_ffe0 };
    for level in (0..=top).rev() {
        let entry = read(table + 8 * (gva >> (12 + 9 * level) & 0x1ff))?;
        let is_pdpte = !long && level == 2;
        let is_page = level == 0 || entry & 0x80 != 0 && (level == 1 || level == 2 && long);
        let mut zero = if nx { 0 } else { 1 << 63 };
        if !long {
            zero |= 0x7ff0_0000_0000_0000;
        }
        if is_pdpte {
            zero |= 1 << 63 | 0x1e6;
        }
        if level > 2 {
            zero |= 0x80;
        }
        if is_page && level > 0 {
            // Between PAT, bit 12, and the page's own address.
            zero |= ((1 << (12 + 9 * level)) - 1) & !0x1fff;
        }
        if entry & 1 == 0 || entry & zero != 0 {
            return None;
        }
        if !is_pdpte {
            rights = [rights[0] && entry & 2 != 0, rights[1] && entry & 4 != 0, rights[2] && entry >> 63 == 0];
        }
        table = entry & 0x000f_ffff_ffff_f000;
        if is_page {
            let within = (1_u64 << (12 + 9 * level)) - 1;
            return Some((table & !within | gva & within, rights));
        }
    }
    None
}

/// A walk through any tables in any mode.
pub fn paging(data: &[u8]) {
    with(data, |u| {
        let bits = |u: &mut arbitrary::Unstructured<'_>, which: &[u32]| {
            which.iter().try_fold(0, |bits, bit| Ok(bits | u64::from(!u.ratio(1, 3)?) << bit))
        };
        let sregs = Sregs {
            cr0: bits(u, &[31])?,
            cr3: near(u, &[0x1000, 1 << 40])?,
            cr4: bits(u, &[4, 5, 12])?,
            efer: bits(u, &[10, 11])?,
            ..Sregs::default()
        };
        // Tables of four pages: an entry names one of them, or anything.
        let mut words = HashMap::new();
        for _ in 0..u.int_in_range(1..=24)? {
            let frame = u.int_in_range(1..=4)? << 12;
            let entry = match u.int_in_range(0..=3)? {
                0 => u.arbitrary()?,
                _ => {
                    u.int_in_range(1..=4)? << 12
                        | 7
                        | u64::from(u.arbitrary::<u8>()?) & 0x80
                        | (u.arbitrary::<u64>()? & 1) << 63
                }
            };
            let at: u64 = any_of(u, &[0, 8, 16, 0xff8, 0x800])?;
            words.insert(frame + at, entry);
        }
        let read = |gpa: u64| {
            assert_eq!(gpa % 8, 0, "an entry across words is read");
            (gpa < 0x8000).then(|| words.get(&gpa).copied().unwrap_or(0))
        };
        for _ in 0..8 {
            let index = |u: &mut arbitrary::Unstructured<'_>| any_of(u, &[0, 1, 2, 0x1ff, 0x100]);
            let mut gva = (0..5).try_fold(0, |gva, _| Ok(gva << 9 | index(u)?))? << 12 | u.arbitrary::<u64>()? & 0xfff;
            match u.int_in_range(0..=3)? {
                0 => gva &= 0xffff_ffff,
                1 => gva = ((gva << 16) as i64 >> 16) as u64,
                2 => gva = ((gva << 7) as i64 >> 7) as u64,
                _ => {}
            }
            let walked = walk(gva, &sregs, read);
            let found = walked.page().map(|page| (page.gpa, [page.is_writable, page.is_user, page.is_executable]));
            assert_eq!(found, translated(gva, &sregs, &read), "{walked} {sregs:x?}");
            assert!(walked.levels.len() <= 5 && !walked.to_string().is_empty());
            assert_eq!(walked.paging, Paging::of(&sregs));
            if let End::Page(page) = walked.end {
                assert_eq!(page.gpa % 0x1000, gva % 0x1000);
            }
        }
        Ok(())
    });
}

/// Vector registers in an area of any bytes and any length: what is put in comes out, and nothing else of it changes.
pub fn fpu_area(data: &[u8]) {
    with(data, |u| {
        let mut leaves = Vec::new();
        for _ in 0..u.int_in_range(0..=4)? {
            let subleaf = near(u, &[2, 5, 63])? as u32;
            let (eax, ebx) = (near(u, &[0, 256])? as u32, near(u, &[0, 576, 832, u32::MAX.into()])? as u32);
            leaves.push(Leaf { leaf: 0xd, subleaf, eax, ebx, indexed: true, ..Leaf::default() });
        }
        let ymm = fpu::ymm_offset(&leaves);
        let len = near(u, &[512, 832, 4096])?.min(8192) as usize;
        let mut area: Vec<u8> = u.bytes(u.len().min(len))?.to_vec();
        area.resize(len, 0);
        let before = Fpu::from_area(&area, ymm);
        let mut written = area.clone();
        before.into_area(&mut written, ymm);
        if len >= 576 && ymm.is_none_or(|at| at + 256 <= len) {
            assert_eq!(Fpu::from_area(&written, ymm), before);
        }
        let mut settled = written.clone();
        fpu::settle(&mut settled, &leaves);
        let mut again = settled.clone();
        fpu::settle(&mut again, &leaves);
        assert_eq!(again, settled);
        let mut fpu = before;
        for name in fpu.names().chain([u.arbitrary::<&str>()?.to_owned(), "xmm99999999999999999999".into()]) {
            let value = Wide { low: u.arbitrary()?, high: 0 };
            if fpu.set(&name, value) {
                let (got, width) = fpu.get(&name).unwrap();
                let mask = if width >= 16 { u128::MAX } else { (1 << (8 * width)) - 1 };
                assert_eq!(got.low, value.low & mask, "{name}");
            } else {
                assert_eq!(fpu.get(&name), None, "{name}");
            }
        }
        Ok(())
    });
}

/// Names of registers, tables of CPUID, rules of state, and code of any bytes.
pub fn processor(data: &[u8]) {
    with(data, |u| {
        let index = near(u, &[0, 0x200, 0x400, 0x480, 0xc000_0080, 0x4b56_4d00])? as u32;
        assert_eq!(msrs::index(&msrs::name(index)), Some(index));
        let called = u.arbitrary::<&str>()?;
        if let Some(index) = msrs::index(called) {
            assert_eq!(msrs::name(index), called);
        }
        // A table after its changes is what was asked for.
        let leaf = |u: &mut arbitrary::Unstructured<'_>| -> arbitrary::Result<Leaf> {
            let (leaf, subleaf) = (any_of(u, &[0, 1, 7, 0xd, 0x8000_0008])?, u.int_in_range(0..=2)?);
            let [eax, ebx, ecx, edx] = u.arbitrary()?;
            Ok(Leaf { leaf, subleaf, indexed: u.arbitrary()?, eax, ebx, ecx, edx })
        };
        let key = |it: &Leaf| (it.leaf, it.subleaf);
        let mut table: Vec<Leaf> = Vec::new();
        for _ in 0..u.int_in_range(0..=4)? {
            let new = leaf(u)?;
            table.retain(|it| key(it) != key(&new));
            table.push(new);
        }
        let (first, mut edits) = (table.clone(), CpuidEdits::default());
        for _ in 0..u.int_in_range(0..=5)? {
            let change = leaf(u)?;
            let is_set = u.arbitrary()?;
            let change_ = if is_set {
                CpuidChange::Set(change)
            } else {
                CpuidChange::Remove { leaf: change.leaf, subleaf: change.subleaf }
            };
            edits.add(&table, change_);
            table.clone_from(&first);
            edits.apply(&mut table);
            let there = table.iter().find(|it| key(it) == key(&change)).map(|it| [it.eax, it.ebx, it.ecx, it.edx]);
            let wanted = [change.eax, change.ebx, change.ecx, change.edx];
            assert_eq!(there, is_set.then_some(wanted));
        }
        assert!((32..=52).contains(&physical_bits(&table)));
        // A state that is what it was is never refused.
        let any = |u: &mut arbitrary::Unstructured<'_>| near(u, &[0, 1 << 31, 1 << 32, 1 << 47, 1 << 63]);
        let sregs = Sregs { cr0: any(u)?, cr3: any(u)?, cr4: any(u)?, cr8: any(u)?, efer: any(u)?, ..Sregs::default() };
        let limits = valid::Limits { physical_bits: physical_bits(&table) };
        assert!(valid::check_sregs(&sregs, &sregs, limits).is_ok());
        let _ = valid::check_sregs(&Sregs::default(), &sregs, limits);
        let _ = valid::page_table_root(&sregs, limits);
        let (bits, at) = (any_of(u, &[16, 32, 64, 7])?, any(u)?);
        let code = u.bytes(u.len().min(64))?;
        let lines = disassemble(code, at, bits);
        assert!(lines.iter().map(|it| it.len).sum::<usize>() <= code.len());
        for pair in lines.windows(2) {
            assert_eq!(pair[1].address, pair[0].address.wrapping_add(pair[0].len as u64));
        }
        Ok(())
    });
}
