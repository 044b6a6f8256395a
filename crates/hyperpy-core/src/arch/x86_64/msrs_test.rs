//! Names of registers: each is its register's alone, and Python has the same.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn test_msr_name_and_index_lead_back_to_each_other() {
    for number in
        (0..0x1000).chain(0xc000_0080..0xc000_0110).chain(0xc001_0000..0xc001_0200).chain(0x4b56_4d00..0x4b56_4d10)
    {
        assert_eq!(index(&name(number)), Some(number), "{}", name(number));
    }
    assert_eq!(name(0x10), "IA32_TSC");
    assert_eq!(name(0x20f), "IA32_MTRR_PHYSMASK7");
    assert_eq!(name(0x47e), "IA32_MC31_ADDR");
    assert_eq!(name(0x480 + 5), "0x485");
}

#[test]
fn test_msr_index_of_what_is_no_name_is_none() {
    for called in ["", "0x10", "0x00485", "0x", "485", "ia32_tsc", "IA32_MC32_CTL", "0x1ffffffff", "0xdeadBEEF"] {
        assert_eq!(index(called), None, "{called}");
    }
}

#[test]
fn test_msr_names_of_python_are_the_same_ones() {
    let python = include_str!("../../../../../python/hyperpy/msrs.py");
    let table = python.split_once("MSR_NAMES = {").unwrap().1.split_once("}  # fmt").unwrap().0;
    let mut seen = 0;
    for entry in table.split(", ").flat_map(|entry| entry.split(",\n")) {
        let Some((called, number)) = entry.trim().strip_prefix('"').and_then(|it| it.split_once("\": 0x")) else {
            continue;
        };
        let number = u32::from_str_radix(&number.trim_end_matches(',').replace('_', ""), 16).unwrap();
        assert_eq!(index(called), Some(number), "{called}");
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
}
