//! Real-time clock and CMOS memory: an MC146818A at an index port and a data port, as a PC has it after its BIOS.
//!
//! The clock shows an injected wall clock, UTC, plus the offset that the guest made by setting it. UIP always reads 0,
//! so that no guest waits; the promise behind UIP = 0, that the time stays whole for 244 us, is kept by showing the
//! time of the last read of register A for that long. Time registers are written at once, or with SET = 1 all
//! together when SET is cleared. The weekday follows from the date.
//!
//! There are no alarm, periodic or update interrupts: the alarm registers and the enable bits only keep what is
//! written, and register C reads 0. The index port cannot be read, as on PCs; its bit 7 (NMI mask) is ignored.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperpy_core::arch::x86_64::layout::MMIO_HOLE_START;
use hyperpy_core::bus::{Access, Action, DeviceMut};
use hyperpy_core::names::Names;
use hyperpy_core::snapshot::{Saved, State, StateFault, check, require, with};
use hyperpy_core::state;

use crate::clock::Clock;
use crate::names::{self, fixed};
use crate::{OPEN_BUS, read_bytes, write_bytes};

/// Ports that the device takes.
pub const PORTS: u64 = 2;
/// Where the century is kept; belongs into the FADT's CENTURY field.
pub const CENTURY: u8 = 0x32;

/// Port that selects a byte.
const INDEX_PORT: u64 = 0;
/// Port that reads and writes the selected byte.
const DATA_PORT: u64 = 1;
/// Bits of the index port that select; bit 7 masks NMI, which is not emulated.
const INDEX_MASK: u8 = 0x7f;

/// Seconds, 0 to 59.
const SECONDS: u8 = 0x00;
/// Minutes, 0 to 59.
const MINUTES: u8 = 0x02;
/// Hours, in the format that register B says.
const HOURS: u8 = 0x04;
/// Day of the week, Sunday = 1.
const WEEKDAY: u8 = 0x06;
/// Day of the month, from 1.
const DAY: u8 = 0x07;
/// Month, January = 1.
const MONTH: u8 = 0x08;
/// Year within the century.
const YEAR: u8 = 0x09;
/// The registers of the time, in the order in which [`Rtc::store_time`] fills them.
const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// Register A: divider and rate of the periodic interrupt.
const REGISTER_A: u8 = 0x0a;
/// A.UIP: an update is in progress.
const A_UIP: u8 = 1 << 7;
/// Register A as a BIOS leaves it: 32,768 Hz crystal, 1,024 Hz rate.
const A_AFTER_BIOS: u8 = 0x26;
/// Register B: format and interrupt enables.
const REGISTER_B: u8 = 0x0b;
/// B.SET: the time stands still and can be written.
const B_SET: u8 = 1 << 7;
/// B.PIE, AIE, UIE and SQWE: cleared by the reset line.
const B_ENABLES: u8 = 0b0111_1000;
/// B.DM: binary numbers instead of BCD.
const B_BINARY: u8 = 1 << 2;
/// B.24/12: hours from 0 to 23.
const B_24_HOURS: u8 = 1 << 1;
/// Register C: interrupt flags.
const REGISTER_C: u8 = 0x0c;
/// Register D: only bit 7 counts.
const REGISTER_D: u8 = 0x0d;
/// D.VRT: the battery is good.
const D_VALID: u8 = 1 << 7;
/// Bit 7 of the hours in 12-hour format: afternoon.
const HOURS_PM: u8 = 1 << 7;

/// PC equipment: a numeric coprocessor, no floppy disk.
const EQUIPMENT: (u8, u8) = (0x14, 0x02);

/// How long the time stays whole after UIP was seen clear (t_BUC in the data sheet).
const WHOLE_FOR: Duration = Duration::from_micros(244);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const DAY_SECONDS: i64 = 86_400;

/// The clock chip.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    index: u8,
    bytes: [u8; 128],
    /// Seconds by which the guest's time is ahead of the clock.
    ahead: i64,
    /// When the guest last saw UIP clear.
    seen: Option<SystemTime>,
}

state! {
    /// What the chip's battery keeps, and what is selected. The time is the clock's, which nobody puts back.
    struct RtcState {
        index: u8,
        bytes: [u8; 128],
        ahead: i64,
        /// Nanoseconds since 1970.
        seen: Option<u64>,
    }
    check rules;
}

impl RtcState {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.index & !INDEX_MASK == 0, "index leads to no byte")?;
        let byte = |index: u8| self.bytes.get(usize::from(index)).copied().unwrap_or(OPEN_BUS);
        let is_right = byte(REGISTER_A) & A_UIP == 0 && byte(REGISTER_C) == 0 && byte(REGISTER_D) == D_VALID;
        require(is_right, "bytes has registers as they never are")
    }
}

impl Rtc {
    /// A clock chip whose CMOS tells of `memory_size` bytes of RAM, laid out as on our PC.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, memory_size: u64) -> Self {
        let mut rtc = Self { clock, index: 0, bytes: [0; 128], ahead: 0, seen: None };
        rtc.set(REGISTER_A, A_AFTER_BIOS);
        rtc.set(REGISTER_B, B_24_HOURS);
        rtc.set(REGISTER_D, D_VALID);
        rtc.set(EQUIPMENT.0, EQUIPMENT.1);
        for (index, byte) in memory_bytes(memory_size) {
            rtc.set(index, byte);
        }
        rtc
    }

    // `index` is always below 128; the fallbacks are there because nothing a guest chooses may reach a panic.
    fn get(&self, index: u8) -> u8 {
        self.bytes.get(usize::from(index)).copied().unwrap_or(OPEN_BUS)
    }

    fn set(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.bytes.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn is_set(&self, mask_of_b: u8) -> bool {
        self.get(REGISTER_B) & mask_of_b != 0
    }

    fn read_selected(&mut self) -> u8 {
        match self.index {
            REGISTER_A => {
                self.seen = Some(self.clock.wall());
                self.get(REGISTER_A)
            }
            index if TIME.contains(&index) && !self.is_set(B_SET) => {
                self.store_time();
                self.get(index)
            }
            index => self.get(index),
        }
    }

    fn write_selected(&mut self, value: u8) {
        match self.index {
            REGISTER_A => self.set(REGISTER_A, value & !A_UIP),
            REGISTER_B => self.write_b(value),
            REGISTER_C | REGISTER_D => {}
            index if TIME.contains(&index) && !self.is_set(B_SET) => {
                self.store_time();
                self.set(index, value);
                self.load_time();
            }
            index => self.set(index, value),
        }
    }

    fn write_b(&mut self, value: u8) {
        let was_set = self.is_set(B_SET);
        if !was_set && value & B_SET != 0 {
            self.store_time();
        }
        self.set(REGISTER_B, value);
        if was_set && value & B_SET == 0 {
            self.load_time();
        }
    }

    /// The clock in seconds since 1970.
    fn clock_seconds(&self) -> i64 {
        let now = self.clock.wall();
        let shown = self.seen.filter(|&seen| now.duration_since(seen).is_ok_and(|age| age < WHOLE_FOR)).unwrap_or(now);
        match shown.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => {
                let seconds = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX);
                // Rounded down, as after 1970.
                -seconds - i64::from(before.duration().subsec_nanos() > 0)
            }
        }
    }

    /// Puts the guest's time into the time registers.
    fn store_time(&mut self) {
        let time = self.clock_seconds().saturating_add(self.ahead);
        let (year, month, day) = civil_from_days(time.div_euclid(DAY_SECONDS));
        // 1970-01-01 was a Thursday.
        let weekday = (time.div_euclid(DAY_SECONDS) + 4).rem_euclid(7) + 1;
        let second = time.rem_euclid(DAY_SECONDS);
        let fields =
            [second % 60, second / 60 % 60, second / 3600, weekday, day, month, year.rem_euclid(100), year / 100 % 100];
        for (index, field) in TIME.into_iter().zip(fields) {
            // Every field is below 100; a year before 0 has no century.
            let encoded = self.encode(index, u8::try_from(field).unwrap_or(0));
            self.set(index, encoded);
        }
    }

    /// Makes the guest's time what the time registers say. Values that no clock shows count on: 61 seconds are a
    /// minute and a second.
    fn load_time(&mut self) {
        let field = |index| i64::from(self.decode(index, self.get(index)));
        let days = days_from_civil(field(CENTURY) * 100 + field(YEAR), field(MONTH), field(DAY));
        let time = days * DAY_SECONDS + field(HOURS) * 3600 + field(MINUTES) * 60 + field(SECONDS);
        self.ahead = time.saturating_sub(self.clock_seconds());
    }

    fn encode(&self, index: u8, value: u8) -> u8 {
        let number = |v: u8| if self.is_set(B_BINARY) { v } else { ((v / 10) << 4) | (v % 10) };
        if index != HOURS || self.is_set(B_24_HOURS) {
            return number(value);
        }
        // Midnight is 12 am, noon 12 pm.
        number((value + 11) % 12 + 1) | if value >= 12 { HOURS_PM } else { 0 }
    }

    fn decode(&self, index: u8, value: u8) -> u8 {
        let number = |v: u8| if self.is_set(B_BINARY) { v } else { (v >> 4) * 10 + (v & 0xf) };
        if index != HOURS || self.is_set(B_24_HOURS) {
            return number(value);
        }
        number(value & !HOURS_PM) % 12 + if value & HOURS_PM != 0 { 12 } else { 0 }
    }
}

impl DeviceMut for Rtc {
    fn read(&mut self, at: Access) -> u64 {
        read_bytes(at, |offset| if offset == DATA_PORT { self.read_selected() } else { OPEN_BUS })
    }

    fn write(&mut self, at: Access, value: u64) -> Action {
        write_bytes(at, value, |offset, byte| {
            match offset {
                INDEX_PORT => self.index = byte & INDEX_MASK,
                DATA_PORT => self.write_selected(byte),
                _ => {}
            }
            Action::Continue
        })
    }

    /// The battery keeps time and memory; only the interrupt enables go.
    fn reset(&mut self) {
        self.set(REGISTER_B, self.get(REGISTER_B) & !B_ENABLES);
        self.index = 0;
    }

    fn save(&self) -> Result<State, StateFault> {
        let since = |seen: SystemTime| u64::try_from(seen.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok();
        let seen = self.seen.and_then(since);
        Ok(Arc::new(RtcState { index: self.index, bytes: self.bytes, ahead: self.ahead, seen }))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<RtcState>(state)
    }

    fn load(&mut self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |state: &RtcState| {
            (self.index, self.bytes, self.ahead) = (state.index, state.bytes, state.ahead);
            self.seen = state.seen.and_then(|ns| UNIX_EPOCH.checked_add(Duration::from_nanos(ns)));
        })
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        fixed(names::RTC)
    }
}

/// The bytes by which a BIOS tells how much memory there is.
fn memory_bytes(memory_size: u64) -> Vec<(u8, u8)> {
    let low = memory_size.min(MMIO_HOLE_START);
    let high = memory_size - low;
    let conventional = (low / KIB).min(640);
    let above_1m = (low.saturating_sub(MIB) / KIB).min(0xffff);
    let above_16m = (low.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff);
    let above_4g = (high / (64 * KIB)).min(0xff_ffff);
    // First index, how many bytes, value; lowest byte first. 0x30 repeats 0x17: there a BIOS puts what it found.
    [(0x15, 2, conventional), (0x17, 2, above_1m), (0x30, 2, above_1m), (0x34, 2, above_16m), (0x5b, 3, above_4g)]
        .into_iter()
        .flat_map(|(index, count, value)| (0..count).map(move |i| (index + i, (value >> (8 * i)) as u8)))
        .collect()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. A month or day out of range counts on into the next.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year + (month - 1).div_euclid(12);
    let month = (month - 1).rem_euclid(12) + 1;
    // Years begin in March here, so that the leap day is the last one.
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    // 719,468 days from 0000-03-01 to 1970-01-01.
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
#[path = "rtc_test.rs"]
mod tests;
