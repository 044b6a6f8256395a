//! What the stock devices are fuzzed with (`targets`).
//!
//! Two of a device are played side by side where that says what it should do: one by wide accesses and one by their bytes, one
//! that goes on and one that is put back. What only one kind of device does is said again here in the plainest words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arbitrary::{Result, Unstructured};
use hyperpy_core::bus::{Access, Action, Device, Exclusive, ones};
use hyperpy_core::exit::StopReason;
use hyperpy_core::irq::{Line, Unconnected};
use hyperpy_core::snapshot::{StateFault, Value};

use crate::acpi_pm::{self, Pm1Control, Pm1Event, PmTimer, ResetRegister};
use crate::clock::Clock;
use crate::console::{Console, INPUT_CAPACITY};
use crate::debugcon::DebugConsole;
use crate::debugexit::{self, DebugExit};
use crate::fw_cfg::{self, FwCfg};
use crate::i8042::I8042;
use crate::rtc::{self, Rtc};
use crate::targets::{any_of, changed, near, sorted, with};
use crate::uart::{self, Uart};

/// A clock that moves when it is told to.
#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A device, and what it drives.
struct Kit {
    device: Arc<dyn Device>,
    line: Arc<Unconnected>,
    console: Arc<Console>,
}

type Make = fn(Arc<Still>, Arc<Unconnected>, Arc<Console>) -> Arc<dyn Device>;

const UART: Make = |_, line, console| Uart::new(line, console);
const RTC: Make = |clock, _, _| Arc::new(Exclusive::new(Rtc::new(clock, 1 << 32)));
const FW_CFG: Make = |_, _, _| Arc::new(FwCfg::new(2, vec![("etc/table".to_owned(), vec![1, 2, 3])]).unwrap());

/// Each, with the bytes of its window.
const ALL: [(u64, Make); 11] = [
    (uart::PORTS, UART),
    (rtc::PORTS, RTC),
    (1, |_, _, _| I8042::windows().0),
    (1, |_, _, _| I8042::windows().1),
    (acpi_pm::EVENT_PORTS, |_, line, _| Arc::new(Pm1Event::new(line))),
    (acpi_pm::CONTROL_PORTS, |_, _, _| Arc::new(Exclusive::new(Pm1Control::default()))),
    (acpi_pm::TIMER_PORTS, |clock, _, _| Arc::new(PmTimer::new(clock))),
    (acpi_pm::RESET_PORTS, |_, _, _| Arc::new(Exclusive::new(ResetRegister::default()))),
    (1, |_, _, console| Arc::new(DebugConsole::new(console))),
    (debugexit::PORTS, |_, _, _| Arc::new(DebugExit)),
    (fw_cfg::PORTS, FW_CFG),
];

impl Kit {
    fn new(make: Make, clock: &Arc<Still>) -> Self {
        let (line, console) = (Unconnected::new(), Arc::new(Console::new(256)));
        Self { device: make(clock.clone(), line.clone(), console.clone()), line, console }
    }

    /// What a read gives, or a write asks for.
    fn access(&self, at: Access, written: Option<u64>) -> (u64, Action) {
        match written {
            Some(value) => (0, self.device.write(at, value)),
            None => {
                let value = self.device.read(at);
                assert_eq!(value & !ones(at.size), 0, "{at:?}");
                (value, Action::Continue)
            }
        }
    }

    fn state(&self) -> Value {
        self.device.save().unwrap().value()
    }
}

fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 0 }
}

/// An access that begins in a window, or close behind it, and its value.
fn access(u: &mut Unstructured<'_>, window: u64) -> Result<(Access, Option<u64>)> {
    let size = if u.arbitrary()? { 1 } else { u.int_in_range(1..=8)? };
    let value = if u.arbitrary()? { u.arbitrary::<u8>()?.into() } else { u.arbitrary()? };
    Ok((at(u.int_in_range(0..=window)?, size), u.arbitrary::<bool>()?.then_some(value)))
}

/// A wide access is its bytes, one after the other, up to the first that asks for something.
fn wide_is_narrow(u: &mut Unstructured<'_>, make: Make, window: u64, clock: &Arc<Still>, input: &[u8]) -> Result<()> {
    let (wide, narrow) = (Kit::new(make, clock), Kit::new(make, clock));
    for kit in [&wide, &narrow] {
        let _ = kit.console.send(input);
    }
    for _ in 0..60 {
        if u.is_empty() {
            break;
        }
        let (whole, written) = access(u, window)?;
        clock.0.fetch_add(u.arbitrary::<u16>()?.into(), Ordering::SeqCst);
        let (value, asked) = wide.access(whole, written);
        let (mut bytes, mut first) = (0, Action::Continue);
        for byte in 0..u64::from(whole.size) {
            let (value, action) =
                narrow.access(at(whole.offset + byte, 1), written.map(|value| value >> (8 * byte) & 0xff));
            bytes |= value << (8 * byte);
            first = action;
            if first != Action::Continue {
                break;
            }
        }
        assert_eq!((value, asked), (bytes, first), "{whole:?} {written:x?}");
        assert_eq!(
            (wide.state(), wide.line.is_high()),
            (narrow.state(), narrow.line.is_high()),
            "{whole:?} {written:x?}"
        );
        assert_eq!(wide.console.read_from(0), narrow.console.read_from(0));
    }
    Ok(())
}

/// COM1: what is sent comes out once and in order, the line is high as IIR says, what is received is what was sent to it.
pub fn uart(data: &[u8]) {
    with(data, |u| {
        let clock = Arc::<Still>::default();
        if u.arbitrary()? {
            // No more than the FIFO takes at once: of what waits, more comes between two bytes than within one access.
            let input = u.arbitrary::<&[u8]>()?;
            return wide_is_narrow(u, UART, uart::PORTS, &clock, &input[..input.len().min(64)]);
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

/// Days from 1970-01-01 to a date, year by year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let years: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    years + lengths[..month as usize - 1].iter().sum::<i64>() + day - 1
}

/// The clock: whatever was written, it shows the time of its clock and goes on with it.
pub fn rtc(data: &[u8]) {
    with(data, |u| {
        let clock = Arc::new(Still(AtomicU64::new(u.int_in_range(0..=4_000_000_000)? * 1_000_000_000)));
        if u.arbitrary()? {
            return wide_is_narrow(u, RTC, rtc::PORTS, &clock, &[]);
        }
        let kit = Kit::new(RTC, &clock);
        let get = |index: u64| {
            kit.device.write(at(0, 1), index);
            kit.device.read(at(1, 1)) as u8
        };
        let put = |index: u64, value: u8| {
            kit.device.write(at(0, 1), index);
            kit.device.write(at(1, 1), value.into());
        };
        // The time as its registers have it, in seconds since 1970.
        let shown = || {
            let b = get(0x0b);
            let number = |v: u8| if b & 4 != 0 { i64::from(v) } else { i64::from(v >> 4) * 10 + i64::from(v & 0xf) };
            let (hours, is_pm) = (get(4), get(4) & 0x80 != 0);
            let hours = if b & 2 != 0 { number(hours) } else { number(hours & 0x7f) % 12 + if is_pm { 12 } else { 0 } };
            let (minutes, seconds) = (number(get(2)), number(get(0)));
            let (year, month, day) = (number(get(0x32)) * 100 + number(get(9)), number(get(8)), number(get(7)));
            assert!(hours < 24 && minutes < 60 && seconds < 60 && (1..=12).contains(&month) && (1..=31).contains(&day));
            let days = (year >= 1970).then(|| days(year, month, day));
            if let Some(days) = days {
                assert_eq!((days + 4).rem_euclid(7) + 1, number(get(6)), "weekday");
            }
            days.map(|days| days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
        };
        assert_eq!(shown(), Some((clock.0.load(Ordering::SeqCst) / 1_000_000_000) as i64));
        for _ in 0..20 {
            match u.int_in_range(0..=3)? {
                0 => put(0x0b, u.arbitrary::<u8>()? & 0x7f),
                1 => put(u.int_in_range(0..=0x7f)?, u.arbitrary()?),
                2 => kit.device.reset(),
                _ => {
                    put(0x0b, get(0x0b) & 0x7f);
                    // Past the moment for which a reading of register A keeps the time whole.
                    clock.0.fetch_add(1_000_000, Ordering::SeqCst);
                    let (before, step) = (shown(), u.arbitrary::<u16>()?);
                    clock.0.fetch_add(u64::from(step) * 1_000_000_000, Ordering::SeqCst);
                    if let (Some(before), Some(after)) = (before, shown()) {
                        assert_eq!(after - before, step.into());
                    }
                }
            }
            put(0x0b, get(0x0b) & 0x7f);
            shown();
        }
        Ok(())
    });
}

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
            let (at, written) = access(u, fw_cfg::PORTS)?;
            match written {
                Some(value) => assert_eq!(device.write(at, value), Action::Continue),
                None => assert_eq!(device.read(at) & !at.ones(), 0),
            }
        }
        Ok(())
    });
}

/// Power and reset: the line is what status and enable say, sleep and reset are asked for where the guest does, the timer counts.
pub fn acpi_pm(data: &[u8]) {
    with(data, |u| {
        let clock = Arc::<Still>::default();
        let which = u.int_in_range(4..=7)?;
        let (window, make) = ALL[which];
        if which != 6 {
            wide_is_narrow(u, make, window, &clock, &[])?;
        }
        let line = Unconnected::new();
        let (events, timer) = (Pm1Event::new(line.clone()), PmTimer::new(clock.clone()));
        let (control, reset) = (Exclusive::new(Pm1Control::default()), Exclusive::new(ResetRegister::default()));
        let (mut status, mut enable, mut last) = (0_u16, 0_u16, 0_u8);
        for _ in 0..40 {
            let value = u.arbitrary::<u16>()?;
            match u.int_in_range(0..=5)? {
                0 => {
                    events.press_power_button();
                    status |= 0x100;
                }
                1 => {
                    events.write(at(0, 2), value.into());
                    status &= !value;
                }
                2 => {
                    events.write(at(2, 2), value.into());
                    enable = value & 0b0000_0111_0010_0001;
                }
                3 => {
                    let off = value >> 10 & 7 == 5 && value & 1 << 13 != 0;
                    let asked = control.write(at(0, 2), value.into());
                    assert_eq!(asked == Action::Stop(StopReason::PowerOff), off);
                    assert_eq!(control.read(at(0, 2)) as u16, value & 0x1c02 | 1);
                }
                4 => {
                    let value = value as u8;
                    let rises = value & !last & 4 != 0;
                    assert_eq!(reset.write(at(0, 1), value.into()) == Action::Reset, rises);
                    last = value;
                }
                _ => {
                    clock.0.fetch_add(u.arbitrary::<u64>()? >> 8, Ordering::SeqCst);
                    let now = u128::from(clock.0.load(Ordering::SeqCst)) * 3_579_545 / 1_000_000_000;
                    let (offset, size) = (u.int_in_range(0..=5)?, u.int_in_range(1..=8)?);
                    let bytes = [&(now as u32).to_le_bytes()[..], &[0xff; 16]].concat();
                    let seen = bytes[offset..offset + usize::from(size)].iter().rev();
                    let expected = seen.fold(0, |value, byte| value << 8 | u64::from(*byte));
                    assert_eq!(timer.read(at(offset as u64, size)), expected);
                }
            }
            assert_eq!(line.is_high(), status & enable != 0);
            assert_eq!(events.read(at(0, 4)), u64::from(enable) << 16 | u64::from(status));
        }
        Ok(())
    });
}

/// Any state, for any device: refused, and nothing has changed, or it is what is saved; and guests go on after it.
pub fn device_state(data: &[u8]) {
    with(data, |u| {
        let (window, make) = ALL[u.int_in_range(0..=ALL.len() - 1)?];
        let clock = Arc::new(Still(AtomicU64::new(1_000_000_000_000_000_000)));
        let kit = Kit::new(make, &clock);
        let play = |u: &mut Unstructured<'_>, kit: &Kit| -> Result<()> {
            for _ in 0..u.int_in_range(0..=12)? {
                let (at, written) = access(u, window)?;
                kit.access(at, written);
            }
            Ok(())
        };
        let _ = kit.console.send(u.arbitrary::<&[u8]>()?);
        for _ in 0..4 {
            play(u, &kit)?;
            let (before, was_high) = (kit.state(), kit.line.is_high());
            let mut given = before.clone();
            for _ in 0..u.int_in_range(0..=3)? {
                changed(u, &mut given)?;
            }
            // Whether writes to THR wait in a ring is the ring's to say, and there is none.
            if given.get("posted") == Some(&Value::Bool(true)) {
                continue;
            }
            match kit.device.load(&given) {
                Ok(()) => {
                    assert_eq!(sorted(&kit.state()), sorted(&given));
                }
                Err(fault) => {
                    assert!(matches!(fault, StateFault::Misfit(_)), "{fault}");
                    assert_eq!((kit.state(), kit.line.is_high()), (before, was_high));
                }
            }
            // One that is put back does what this one does.
            let (other, console) = (Kit::new(make, &clock), kit.console.save());
            other.console.load(&console).unwrap();
            other.device.load(&kit.state()).unwrap();
            assert_eq!((other.state(), other.line.is_high()), (kit.state(), kit.line.is_high()));
            for _ in 0..u.int_in_range(0..=12)? {
                let (at, written) = access(u, window)?;
                assert_eq!(kit.access(at, written), other.access(at, written), "{at:?} {written:x?}");
                assert_eq!((kit.state(), kit.line.is_high()), (other.state(), other.line.is_high()));
            }
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
