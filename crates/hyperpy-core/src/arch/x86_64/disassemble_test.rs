//! Code of each width, and bytes that are no code.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

fn texts(code: &[u8], address: u64, bits: u32) -> Vec<(u64, usize, String)> {
    disassemble(code, address, bits).into_iter().map(|i| (i.address, i.len, i.text)).collect()
}

#[test]
fn test_disassemble_of_the_same_bytes_depends_on_the_width() {
    let code = [0x89, 0xd8, 0x48, 0xff, 0xc0];
    let word = |text: &str| text.to_owned();
    assert_eq!(texts(&code, 0x1000, 64), [(0x1000, 2, word("mov eax, ebx")), (0x1002, 3, word("inc rax"))]);
    let narrow = texts(&code, 0x1000, 16);
    assert_eq!(narrow[..2], [(0x1000, 2, word("mov ax, bx")), (0x1002, 1, word("dec ax"))]);
}

#[test]
fn test_disassemble_writes_numbers_as_in_c_and_branches_as_addresses() {
    assert_eq!(texts(&[0xb8, 0x0d, 0xf0, 0xad, 0xab], 0, 32)[0].2, "mov eax, 0xabadf00d");
    assert_eq!(texts(&[0xeb, 0xfe], 0xffff_ffff_8100_0000, 64)[0].2, "jmp short 0xffffffff81000000");
}

#[test]
fn test_disassemble_of_no_instruction_goes_on_at_the_next_byte_and_says_what_is_cut_off() {
    // In 64-bit code 06 (push es) is gone; then nop; then a mov whose immediate is missing.
    let found = texts(&[0x06, 0x90, 0xb8, 0x01], 0x10, 64);
    assert_eq!(found[0], (0x10, 1, BAD.to_owned()));
    assert_eq!(found[1], (0x11, 1, "nop".to_owned()));
    assert_eq!(found[2], (0x12, 2, CUT_OFF.to_owned()));
    assert_eq!(texts(&[], 0, 64), []);
}

proptest! {
    #[test]
    fn test_disassemble_of_any_bytes_covers_each_of_them_once(code: Vec<u8>, address: u64, bits in 0_u32..70) {
        let found = disassemble(&code, address, bits);
        let mut at = 0;
        for instruction in &found {
            prop_assert_eq!(instruction.address, address.wrapping_add(at as u64));
            prop_assert!(instruction.len > 0 && !instruction.text.is_empty());
            at += instruction.len;
        }
        prop_assert_eq!(at, code.len());
    }
}
