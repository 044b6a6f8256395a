//! Machine code as text, by iced-x86: for people who look at a guest that stopped. Nothing decides by it.
//!
//! Bytes are the guest's and may be anything: what is no instruction is shown as a byte, and what ends too early as cut
//! off. Syntax is Intel's, with numbers as in C.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Formatter, IntelFormatter};

/// What stands for a byte that begins no instruction.
pub const BAD: &str = "(bad)";
/// What stands for bytes that begin an instruction whose end is missing.
pub const CUT_OFF: &str = "(cut off)";

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it is.
    pub address: u64,
    /// How many bytes it has.
    pub len: usize,
    /// In words.
    pub text: String,
}

/// Takes code apart that would run at `address`. `bits` is 16, 32 or 64; anything else counts as 64.
#[must_use]
pub fn disassemble(code: &[u8], address: u64, bits: u32) -> Vec<Instruction> {
    let bits = if matches!(bits, 16 | 32) { bits } else { 64 };
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    let mut found = Vec::new();
    while decoder.can_decode() {
        let (at, address) = (decoder.position(), decoder.ip());
        let decoded = decoder.decode();
        let mut text = String::new();
        match decoder.last_error() {
            DecoderError::None => formatter.format(&decoded, &mut text),
            DecoderError::NoMoreBytes => text.push_str(CUT_OFF),
            _ => {
                // The next byte may begin something better.
                text.push_str(BAD);
                if decoder.set_position(at + 1).is_err() {
                    break;
                }
                decoder.set_ip(address.wrapping_add(1));
            }
        }
        let len = if text == CUT_OFF { code.len() - at } else { decoder.position() - at };
        found.push(Instruction { address, len, text });
        if decoder.last_error() == DecoderError::NoMoreBytes {
            break;
        }
    }
    found
}

#[cfg(test)]
#[path = "disassemble_test.rs"]
mod tests;
