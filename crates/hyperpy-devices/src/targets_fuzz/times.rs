//! What devices that know the time are fuzzed with: the clock, and power management with its timer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyperpy_core::bus::{Action, Device, Exclusive};
use hyperpy_core::exit::StopReason;
use hyperpy_core::irq::{Line, Unconnected};

use super::{ALL, Kit, RTC, Still, at, wide_is_narrow};
use crate::acpi_pm::{Pm1Control, Pm1Event, PmTimer, ResetRegister};
use crate::rtc::PORTS;
use crate::targets::with;

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
            return wide_is_narrow(u, RTC, PORTS, &clock, &[]);
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
