//! Every paging mode over small tables, rights, and hostile tables of random bytes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Page tables as 8-byte words by gpa; what is not written is zero, from `end` on there is no memory.
#[derive(Default)]
struct Tables {
    words: HashMap<u64, u64>,
    end: u64,
}

impl Tables {
    fn new(entries: &[(u64, u64)]) -> Self {
        Self { words: entries.iter().copied().collect(), end: 1 << 20 }
    }
    fn walk(&self, gva: u64, sregs: &Sregs) -> Walk {
        walk(gva, sregs, |gpa| {
            assert_eq!(gpa % 8, 0);
            (gpa < self.end).then(|| self.words.get(&gpa).copied().unwrap_or(0))
        })
    }
}

fn sregs(paging: Paging) -> Sregs {
    let (cr0, cr4, efer) = match paging {
        Paging::Off => (0, 0, 0),
        Paging::Bits32 => (CR0_PG, CR4_PSE, 0),
        Paging::Pae => (CR0_PG, CR4_PAE, EFER_NXE),
        Paging::Level4 => (CR0_PG, CR4_PAE, EFER_LMA | EFER_NXE),
        Paging::Level5 => (CR0_PG, CR4_PAE | CR4_LA57, EFER_LMA | EFER_NXE),
    };
    Sregs { cr0, cr3: 0x1000, cr4, efer, ..Sregs::default() }
}

fn page(gpa: u64, size: u64) -> Page {
    Page { gpa, size, is_writable: true, is_user: true, is_executable: true }
}

/// Present, writable, for user mode.
const ALL: u64 = PRESENT | WRITABLE | USER;

#[test]
fn test_walk_without_paging_is_the_address_itself_below_4_gib() {
    let tables = Tables::default();
    assert_eq!(tables.walk(0xffff_ffff, &sregs(Paging::Off)).page(), Some(page(0xffff_ffff, 1 << 32)));
    assert_eq!(tables.walk(1 << 32, &sregs(Paging::Off)).end, End::NoAddress);
}

#[test]
fn test_walk_of_32_bit_tables_finds_small_and_large_pages() {
    // Directory entry 1 (the upper half of a word) to a table at 0x2000; entry 2 a page of 4 MiB above 4 GiB.
    let tables = Tables::new(&[
        (0x1000, (0x2000 | ALL) << 32),
        (0x1008, 0x00c0_0000 | 0x5 << 13 | LARGE | ALL),
        (0x2000, (0x7000 | ALL) << 32),
    ]);
    let registers = sregs(Paging::Bits32);
    let found = tables.walk(0x0040_1abc, &registers);
    assert_eq!(found.page(), Some(page(0x7abc, 0x1000)));
    let entries: Vec<_> = found.levels.iter().map(|l| (l.name, l.table_gpa, l.index, l.entry_gpa)).collect();
    assert_eq!(entries, [("PD", 0x1000, 1, 0x1004), ("PT", 0x2000, 1, 0x2004)]);
    assert_eq!(tables.walk(0x0080_0123, &registers).page(), Some(page(0x5_00c0_0123, 4 << 20)));
    // Without CR4.PSE the same entry leads to a table, and that is outside memory here.
    let small = Sregs { cr4: 0, ..registers };
    let end = tables.walk(0x0080_0123, &small).end;
    assert_eq!(end, End::NoMemory { name: "PT", entry_gpa: 0x00c0_a000 });
}

#[test]
fn test_walk_of_pae_tables_takes_no_rights_from_the_first_level() {
    let tables = Tables::new(&[
        (0x1018, 0x2000 | PRESENT),
        (0x2000, 0x20_0000 | LARGE | ALL),
        (0x2008, 0x3000 | ALL | NO_EXECUTE),
        (0x3000, 0x8000 | PRESENT | USER),
    ]);
    let registers = sregs(Paging::Pae);
    assert_eq!(tables.walk(0xc000_0042, &registers).page(), Some(page(0x20_0042, 2 << 20)));
    let small = Page { is_writable: false, is_executable: false, ..page(0x8042, 0x1000) };
    assert_eq!(tables.walk(0xc020_0042, &registers).page(), Some(small));
    // A PDPTE with a right, or a bit above 51, is refused (table 4-8).
    let bad = Tables::new(&[(0x1000, 0x2000 | PRESENT | WRITABLE | 1 << 52)]);
    assert_eq!(bad.walk(0, &registers).end, End::Reserved { bits: WRITABLE | 1 << 52 });
}

#[test]
fn test_walk_of_four_levels_finds_pages_of_every_size_and_adds_up_rights() {
    let tables = Tables::new(&[
        (0x1ff8, 0x2000 | ALL),
        (0x2000, 0x3000 | ALL),
        (0x2008, 0x4000_0000 | LARGE | PRESENT | WRITABLE),
        (0x3000, 0x4000 | PRESENT | USER),
        (0x3008, 0x60_0000 | LARGE | ALL | NO_EXECUTE),
        (0x4ff8, 0x9000 | ALL),
    ]);
    let registers = sregs(Paging::Level4);
    let base = 0xffff_ff80_0000_0000;
    let small = Page { is_writable: false, ..page(0x9008, 0x1000) };
    assert_eq!(tables.walk(base + 0x1f_f008, &registers).page(), Some(small));
    let medium = Page { is_executable: false, ..page(0x61_2345, 2 << 20) };
    assert_eq!(tables.walk(base + 0x21_2345, &registers).page(), Some(medium));
    let large = Page { is_user: false, ..page(0x4000_0077, 1 << 30) };
    assert_eq!(tables.walk(base + 0x4000_0077, &registers).page(), Some(large));
}

#[test]
fn test_walk_of_five_levels_begins_one_table_higher() {
    let tables = Tables::new(&[(0x1008, 0x2000 | ALL), (0x2000, 0x3000 | ALL), (0x3000, LARGE | ALL)]);
    let found = tables.walk(1 << 48 | 0x123, &sregs(Paging::Level5));
    assert_eq!(found.page(), Some(page(0x123, 1 << 30)));
    let names: Vec<_> = found.levels.iter().map(|level| level.name).collect();
    assert_eq!(names, ["PML5", "PML4", "PDPT"]);
}

#[test]
fn test_walk_of_an_address_that_is_not_canonical_reads_nothing() {
    for (paging, last) in [(Paging::Level4, 47), (Paging::Level5, 56)] {
        let tables = Tables::new(&[]);
        for gva in [1 << last, u64::MAX >> 1, u64::MAX << (last + 1)] {
            let found = tables.walk(gva, &sregs(paging));
            assert_eq!((found.end, found.levels.len()), (End::NoAddress, 0), "{gva:#x}");
        }
        for gva in [(1 << last) - 1, u64::MAX << last, u64::MAX] {
            assert_eq!(tables.walk(gva, &sregs(paging)).end, End::NotPresent, "{gva:#x}");
        }
    }
}

#[test]
fn test_walk_that_fails_says_at_which_level_and_with_which_entry() {
    let tables = Tables::new(&[(0x1000, 0x2000 | ALL), (0x2000, 0x3000 | ALL), (0x3008, 0xabc0)]);
    let registers = sregs(Paging::Level4);
    assert_eq!(
        tables.walk(0x20_0000, &registers).to_string(),
        "gva 0x200000 is not mapped, 4-level paging: PD entry 0x1 at gpa 0x3008 is not present: 0xabc0"
    );
    let no_nx = Sregs { efer: EFER_LMA, ..registers };
    let tables = Tables::new(&[(0x1000, 0x2000 | ALL | NO_EXECUTE)]);
    assert_eq!(
        tables.walk(0, &no_nx).to_string(),
        "gva 0x0 is not mapped, 4-level paging: PML4 entry 0x0 at gpa 0x1000 has bits set that must be zero, \
         0x8000000000000000: 0x8000000000002007"
    );
    let far = Sregs { cr3: 0x7fff_f000, ..registers };
    assert_eq!(
        tables.walk(0, &far).to_string(),
        "gva 0x0 is not mapped, 4-level paging: no memory for the PML4 entry at gpa 0x7ffff000"
    );
    assert!(tables.walk(1 << 63, &registers).to_string().ends_with("there are no such addresses"));
}

#[test]
fn test_walk_of_a_table_that_leads_to_itself_ends_at_the_last_level() {
    // The recursive mapping that some kernels use, and the worst a hostile one can do.
    let tables = Tables::new(&[(0x1000, 0x1000 | ALL)]);
    let found = tables.walk(0x10, &sregs(Paging::Level5));
    assert_eq!((found.page(), found.levels.len()), (Some(page(0x1010, 0x1000)), 5));
}

fn any_paging() -> impl Strategy<Value = Paging> {
    prop_oneof![Just(Paging::Off), Just(Paging::Bits32), Just(Paging::Pae), Just(Paging::Level4), Just(Paging::Level5)]
}

proptest! {
    #[test]
    fn test_walk_of_any_tables_reads_at_most_its_levels_and_keeps_the_offset(
        paging in any_paging(), gva: u64, cr3: u64, cr4: u64, efer: u64, seed: u64, entries: [u64; 5],
    ) {
        let fixed = sregs(paging);
        // Whatever does not select the mode is the guest's.
        let cr4 = if paging == Paging::Bits32 { fixed.cr4 } else { fixed.cr4 | cr4 & !(CR4_PAE | CR4_LA57) };
        let registers = Sregs { cr3, cr4, efer: fixed.efer | efer & EFER_NXE, ..fixed };
        let mut left = entries.iter().copied();
        let found = walk(gva, &registers, |gpa| {
            assert_eq!(gpa % 8, 0);
            let entry = left.next().unwrap();
            (seed.rotate_right((gpa % 63) as u32) & 7 != 0).then_some(entry | PRESENT)
        });
        prop_assert_eq!(found.paging, paging);
        prop_assert!(found.levels.len() <= paging.tables().len());
        for level in &found.levels {
            prop_assert!(level.index < 1024 && level.entry_gpa < 1 << 52);
        }
        if let Some(page) = found.page() {
            prop_assert_eq!(page.gpa % page.size.min(0x1000), gva % page.size.min(0x1000));
            prop_assert!(page.gpa < 1 << 52);
        }
        prop_assert!(!found.to_string().is_empty());
    }

    #[test]
    fn test_walk_of_tables_made_for_an_address_finds_its_page(gva in 0_u64..1 << 47, frame in 0_u64..1 << 39, rights in 0_u64..4) {
        let entry = |gpa: u64| gpa | ALL;
        let tables = Tables::new(&[
            (0x1000 + (gva >> 39) * 8, entry(0x2000)),
            (0x2000 + (gva >> 30 & 511) * 8, entry(0x3000)),
            (0x3000 + (gva >> 21 & 511) * 8, entry(0x4000)),
            (0x4000 + (gva >> 12 & 511) * 8, frame << 12 | PRESENT | rights << 1),
        ]);
        let expected = Page {
            is_writable: rights & 1 != 0, is_user: rights & 2 != 0, ..page(frame << 12 | gva & 0xfff, 0x1000)
        };
        prop_assert_eq!(tables.walk(gva, &sregs(Paging::Level4)).page(), Some(expected));
    }
}
