//! What the serial line is fuzzed with: its UART, and the console at the host's end of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use hyperpy_core::bus::Device;
use hyperpy_core::irq::{Line, Unconnected};

use super::{Still, UART, at, wide_is_narrow};
use crate::console::{Console, INPUT_CAPACITY};
use crate::targets::{any_of, near, with};
use crate::uart::{PORTS, Uart};

/// COM1: what is sent comes out once and in order, the line is high as IIR says, what is received is what was sent to it.
pub fn uart(data: &[u8]) {
    with(data, |u| {
        let clock = Arc::<Still>::default();
        if u.arbitrary()? {
            // No more than the FIFO takes at once: of what waits, more comes between two bytes than within one access.
            let input = u.arbitrary::<&[u8]>()?;
            return wide_is_narrow(u, UART, PORTS, &clock, &input[..input.len().min(64)]);
        }
        let (console, line) = (Arc::new(Console::new(1 << 12)), Unconnected::new());
        let uart = Uart::new(line.clone(), console.clone());
        let get = |offset| uart.read(at(offset, 1)) as u8;
        let (mut sent, mut received, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let mut looped = false;
        for _ in 0..80 {
            match u.int_in_range(0..=9)? {
                0 => {
                    let input = u.arbitrary::<&[u8]>()?;
                    let taken = console.send(input);
                    assert_eq!(taken, input.len());
                    expected.extend_from_slice(input);
                }
                1..=3 if get(3) & 0x80 == 0 => {
                    if get(5) & 1 != 0 {
                        received.push(get(0));
                    }
                }
                kind => {
                    // Registers of one byte: 0 is THR, 3 LCR, 4 MCR.
                    let offset = if kind < 6 { 0 } else { u.int_in_range(0..=7)? };
                    let (lcr, mcr, value) = (get(3), get(4), u.arbitrary::<u8>()?);
                    if offset == 0 && lcr & 0x80 == 0 && mcr & 0x10 == 0 {
                        sent.push(value);
                    }
                    looped |= offset == 4 && value & 0x10 != 0;
                    uart.write(at(offset, 1), value.into());
                }
            }
            let was_high = line.is_high();
            assert_eq!(get(2) & 1 == 0, was_high, "IIR tells of another cause than the line");
        }
        assert_eq!(console.read_from(0).1, sent);
        if !looped {
            uart.write(at(3, 1), 0);
            while get(5) & 1 != 0 {
                received.push(get(0));
            }
            assert_eq!(received, expected);
        }
        Ok(())
    });
}

/// The host's end of a line: who follows gets every byte once, with the number of those that were pushed out; who reads by position
/// gets what is there; put back, it is what it was.
pub fn console(data: &[u8]) {
    with(data, |u| {
        let capacity = any_of(u, &[0, 1, 7, 64, 1000])?;
        let console = Console::new(capacity);
        // All that was ever written; the transcript's end and its last bytes; input that waits.
        let (mut all, mut end, mut text, mut input) = (Vec::new(), 0_u64, Vec::new(), Vec::new());
        let mut followers: Vec<(u64, usize)> = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..60 {
            match u.int_in_range(0..=9)? {
                0..=2 => {
                    let chunk = match u.arbitrary::<u8>()? {
                        len @ 200.. => vec![len; usize::from(len)],
                        _ => u.arbitrary::<&[u8]>()?.to_vec(),
                    };
                    console.write(&chunk);
                    all.extend_from_slice(&chunk);
                    text.extend_from_slice(&chunk);
                    end += chunk.len() as u64;
                    text.drain(..text.len().saturating_sub(capacity));
                }
                3 => followers.push((console.begin_follow(), all.len())),
                4 if !followers.is_empty() => {
                    let (id, _) = followers.swap_remove(u.int_in_range(0..=followers.len() - 1)?);
                    console.end_follow(id);
                    assert_eq!(console.told(id, 100), (0, Vec::new()));
                }
                5 if !followers.is_empty() => {
                    let number = u.int_in_range(0..=followers.len() - 1)?;
                    let (id, position) = &mut followers[number];
                    let (lost, bytes) = console.told(*id, u.int_in_range(1..=300)?);
                    *position += usize::try_from(lost).unwrap();
                    assert_eq!(bytes, all[*position..*position + bytes.len()]);
                    *position += bytes.len();
                    assert!(!bytes.is_empty() || *position == all.len(), "there is more, and it is not told");
                }
                6 => {
                    let bytes = u.arbitrary::<&[u8]>()?;
                    let taken = console.send(bytes);
                    assert_eq!(taken, bytes.len().min(INPUT_CAPACITY - input.len()));
                    input.extend_from_slice(&bytes[..taken]);
                    let count = u.int_in_range(0..=20)?;
                    let expected: Vec<u8> = input.drain(..count.min(input.len())).collect();
                    assert_eq!(console.take_input(count), expected);
                }
                7 => kept.push((console.save(), end, text.clone(), input.clone())),
                8 if !kept.is_empty() => {
                    let (state, its_end, its_text, its_input) = &kept[u.int_in_range(0..=kept.len() - 1)?];
                    console.load(state).unwrap();
                    (end, text, input) = (*its_end, its_text.clone(), its_input.clone());
                }
                _ => console.set_unread(near(u, &[0, end])?),
            }
            assert_eq!(
                (console.end(), console.start(), console.input_len()),
                (end, end - text.len() as u64, input.len())
            );
            let (from, max) = (near(u, &[0, end, console.start()])?, u.int_in_range(0..=100)?);
            let (at, bytes) = console.read_some(from, max);
            let first = from.clamp(end - text.len() as u64, end);
            let skipped = usize::try_from(first - (end - text.len() as u64)).unwrap();
            assert_eq!((at, bytes.as_slice()), (first, &text[skipped..(skipped + max).min(text.len())]));
        }
        Ok(())
    });
}
