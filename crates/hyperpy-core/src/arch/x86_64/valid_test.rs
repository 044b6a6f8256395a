//! Each rule by a state that breaks it alone, and the states that machines start in, which break none.
#![allow(clippy::unwrap_used)]

use super::super::{DescriptorTable, Segment};
use super::*;

const LIMITS: Limits = Limits { physical_bits: 40 };

/// As a processor comes out of reset.
fn real() -> Sregs {
    Sregs { cr0: 0x6000_0010, apic_base: 0xfee0_0900, ..Sregs::default() }
}

fn long() -> Sregs {
    let cs = Segment { l: true, s: true, present: true, type_: 11, ..Segment::default() };
    Sregs { cs, cr0: 0x8001_0011, cr3: 0x9000, cr4: 0x20, efer: 0x500, ..real() }
}

fn names(before: &Sregs, now: &Sregs) -> Option<&'static str> {
    check_sregs(before, now, LIMITS).err().map(|invalid| invalid.register)
}

#[test]
fn test_sregs_of_every_mode_are_valid() {
    let protected = Sregs { cr0: 0x11, ..real() };
    let compatible = Sregs { cs: Segment { db: true, ..Segment::default() }, ..long() };
    let high = DescriptorTable { base: 0xffff_ffff_8000_0000, limit: 0xfff };
    let kernel = Sregs { gs: Segment { base: !0 << 47, ..Segment::default() }, gdt: high, idt: high, ..long() };
    let five = Sregs { cr4: 0x1020, gdt: DescriptorTable { base: 1 << 55, limit: 0 }, ..long() };
    let unusable = Segment { base: 1 << 40, unusable: true, ..Segment::default() };
    let loose =
        Sregs { ds: unusable, es: unusable, ss: unusable, ldt: Segment { base: 1 << 60, ..unusable }, ..long() };
    let tagged = Sregs { cr3: 0x9fff | 0b11 << 61, cr4: 0x2_0020, ..long() };
    for sregs in [real(), protected, long(), compatible, kernel, five, loose, tagged] {
        assert_eq!(check_sregs(&real(), &sregs, LIMITS), Ok(()));
    }
}

// fault row 25
#[test]
#[rustfmt::skip] // one state a line
fn test_sregs_that_no_processor_has_name_the_register() {
    let base = |base| Segment { base, ..Segment::default() };
    let table = |base| DescriptorTable { base, limit: 0 };
    let cases = [
        ("cr0", Sregs { cr0: 0x8000_0000, ..real() }),
        ("cr0", Sregs { cr0: 1 << 40, ..real() }),
        ("cr0", Sregs { cr0: 0x2000_0011, ..real() }),
        ("cr4", Sregs { cr4: 1 << 63, ..real() }),
        ("cr4", Sregs { cr4: 1 << 15, ..real() }),
        ("cr4", Sregs { cr4: 1 << 23, ..real() }),
        ("cr4", Sregs { cr4: 1 << 17, ..real() }),
        ("cr4", Sregs { cr4: 0, ..long() }),
        ("efer", Sregs { efer: 2, ..real() }),
        ("efer", Sregs { efer: 1 << 63, ..real() }),
        ("efer", Sregs { efer: 0x100, cs: base(0), ..long() }),
        ("efer", Sregs { efer: 0x400, ..long() }),
        ("efer", Sregs { efer: 0x500, ..real() }),
        ("cr3", Sregs { cr3: 1 << 40, ..long() }),
        ("cr3", Sregs { cr3: 1 << 63, ..long() }),
        ("cr3", Sregs { cr3: 1 << 40, ..real() }),
        ("cr8", Sregs { cr8: 16, ..real() }),
        ("apic_base", Sregs { apic_base: 0xfee0_0801, ..real() }),
        ("apic_base", Sregs { apic_base: 0xfee0_0a00, ..real() }),
        ("apic_base", Sregs { apic_base: 1 << 40 | 0x800, ..real() }),
        ("apic_base", Sregs { apic_base: 0xfee0_0400, ..real() }),
        ("cs", Sregs { cs: Segment { l: true, ..base(0) }, ..real() }),
        ("cs", Sregs { cs: Segment { l: true, db: true, ..base(0) }, ..long() }),
        ("cs", Sregs { cs: base(1 << 32), ..real() }),
        ("ds", Sregs { ds: base(1 << 32), ..real() }),
        ("es", Sregs { es: base(1 << 32), ..real() }),
        ("ss", Sregs { ss: base(1 << 32), ..real() }),
        ("fs", Sregs { fs: base(1 << 47), ..long() }),
        ("gs", Sregs { gs: base(1 << 63), ..long() }),
        ("tr", Sregs { tr: base(1 << 47), ..long() }),
        ("ldt", Sregs { ldt: base(1 << 47), ..long() }),
        ("gdt", Sregs { gdt: table(1 << 47), ..long() }),
        ("idt", Sregs { idt: table(1 << 47), ..long() }),
        ("idt", Sregs { cr4: 0x1020, idt: table(1 << 56), ..long() }),
    ];
    for (register, sregs) in cases {
        assert_eq!(names(&real(), &sregs), Some(register), "{sregs:x?}");
    }
}

#[test]
fn test_sregs_that_were_broken_before_are_no_obstacle() {
    let odd = Sregs { cr4: 1 << 26, ..real() };
    assert_eq!(names(&odd, &Sregs { cr8: 3, ..odd }), None);
    assert_eq!(names(&odd, &Sregs { cr8: 99, ..odd }), Some("cr8"));
    let loose = |base| Segment { base, ..Segment::default() };
    let odd = Sregs { ds: loose(1 << 40), ..real() };
    assert_eq!(names(&odd, &Sregs { es: loose(1 << 40), ..odd }), Some("es"));
}

// fault row 25
#[test]
fn test_regs_that_no_processor_has_name_the_register() {
    let check = |now: Regs, wide| check_regs(&Regs::default(), &now, wide).err().map(|invalid| invalid.register);
    for rip in [0, u64::MAX, 0x7fff_ffff_ffff, !0 << 47] {
        assert_eq!(check(Regs { rip, ..Regs::default() }, false), None);
    }
    for (rip, wide) in [(1 << 47, false), (1 << 63, false), (1 << 60, true), (1 << 56, true), (!0 >> 1, false)] {
        assert_eq!(check(Regs { rip, ..Regs::default() }, wide), Some("rip"), "{rip:#x}");
    }
    assert_eq!(check(Regs { rip: 1 << 47, ..Regs::default() }, true), None);
    assert_eq!(check(Regs { rflags: 0x3f_7fd7, ..Regs::default() }, false), None);
    for rflags in [8, 1 << 5, 1 << 15, 1 << 22, 1 << 63] {
        assert_eq!(check(Regs { rflags, ..Regs::default() }, false), Some("rflags"));
    }
    // What was there already is no obstacle to other registers.
    let odd = Regs { rip: 1 << 60, rflags: 8, ..Regs::default() };
    assert_eq!(check_regs(&odd, &Regs { rax: 1, ..odd }, false), Ok(()));
}

#[test]
fn test_page_table_root_is_where_paging_begins() {
    assert_eq!(page_table_root(&real(), LIMITS), None);
    assert_eq!(page_table_root(&Sregs { cr3: 0x9fff | 1 << 62, ..long() }, LIMITS), Some(0x9000));
    let pae = Sregs { cr0: 0x8000_0011, cr3: 0x9fff, cr4: 0x20, ..real() };
    assert_eq!(page_table_root(&pae, LIMITS), Some(0x9fe0));
}
