//! What devices of two ports are fuzzed with: the keyboard's controller, and the items of firmware.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use hyperpy_core::bus::{Action, Device};

use super::{Still, access, at, wide_is_narrow};
use crate::fw_cfg::{FwCfg, PORTS};
use crate::i8042::I8042;
use crate::targets::with;

/// The keyboard's controller, by its two ports: it asks for a reset where the guest pulls the line, and answers with what was put in.
pub fn i8042(data: &[u8]) {
    with(data, |u| {
        let (data, command) = I8042::windows();
        let (mut pending, mut waits, mut byte) = (None, None, None);
        for _ in 0..100 {
            if u.is_empty() {
                break;
            }
            let value = u.arbitrary::<u8>()?;
            match u.int_in_range(0..=3)? {
                0 => {
                    let pulls = value >= 0xf0 && value & 1 == 0;
                    assert_eq!(command.write(at(0, 1), value.into()) == Action::Reset, pulls);
                    pending = [0x60, 0xd1, 0xd2, 0xd3, 0xd4].contains(&value).then_some(value);
                    if value == 0x20 && byte.is_some() {
                        waits = byte;
                    } else if [0x20, 0xa9, 0xaa, 0xab, 0xd0].contains(&value) {
                        waits = None;
                    }
                    byte = byte.filter(|_| ![0xa7, 0xa8, 0xad, 0xae].contains(&value));
                }
                1 => {
                    let pulls = pending == Some(0xd1) && value & 1 == 0;
                    assert_eq!(data.write(at(0, 1), value.into()) == Action::Reset, pulls);
                    match pending.take() {
                        Some(0x60) => byte = Some(value),
                        Some(0xd2 | 0xd3) => waits = Some(value),
                        Some(0xd1) => {}
                        _ => waits = Some(0xfe),
                    }
                }
                2 => {
                    let status = command.read(at(0, 1));
                    assert!(waits.is_none() || status & 1 != 0, "what was put in is not there");
                    let read = data.read(at(0, 1)) as u8;
                    assert!(waits.take().is_none_or(|waits| waits == read));
                    assert_eq!(command.read(at(0, 1)) & 1, 0);
                }
                _ => {
                    data.reset();
                    (pending, waits, byte) = (None, None, None);
                }
            }
        }
        let clock = Arc::<Still>::default();
        wide_is_narrow(u, |_, _, _| I8042::windows().0, 1, &clock, &[])?;
        wide_is_narrow(u, |_, _, _| I8042::windows().1, 1, &clock, &[])
    });
}

/// Items and files of any names: refused, or read as they were given.
pub fn fw_cfg(data: &[u8]) {
    with(data, |u| {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for _ in 0..u.int_in_range(0..=5)? {
            files.push((u.arbitrary::<&str>()?.into(), u.arbitrary::<&[u8]>()?.into()));
        }
        let Ok(device) = FwCfg::new(3, files.clone()) else { return Ok(()) };
        let select = |item: u16| drop(device.write(at(0, 2), item.into()));
        let take = |count: usize| (0..count).map(|_| device.read(at(1, 1)) as u8).collect::<Vec<_>>();
        select(0x19);
        let directory = take(4 + 64 * files.len());
        assert_eq!(directory[..4], (files.len() as u32).to_be_bytes());
        for entry in directory[4..].chunks(64) {
            let len = u32::from_be_bytes(entry[..4].try_into().unwrap());
            let name = entry[8..].split(|byte| *byte == 0).next().unwrap();
            let bytes = &files.iter().find(|it| it.0.as_bytes() == name).unwrap().1;
            assert_eq!(bytes.len(), len as usize);
            select(u16::from_be_bytes(entry[4..6].try_into().unwrap()));
            assert_eq!(take(bytes.len()), *bytes);
            assert_eq!(take(2), [0, 0]);
        }
        for _ in 0..40 {
            let (at, written) = access(u, PORTS)?;
            match written {
                Some(value) => assert_eq!(device.write(at, value), Action::Continue),
                None => assert_eq!(device.read(at) & !at.ones(), 0),
            }
        }
        Ok(())
    });
}
