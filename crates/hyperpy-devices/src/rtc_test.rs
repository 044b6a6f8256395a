use std::sync::atomic::{AtomicU64, Ordering};

use hyperpy_core::bus::{Device, Exclusive};
use proptest::prelude::*;

use super::*;
use crate::testing::{ManualClock, play, read, steps, sweep, write};

const GIB: u64 = 1 << 30;
/// 2000-02-29 23:59:58 UTC, a Tuesday.
const LEAP_EVE: u64 = 951_868_798;

type Chip = Exclusive<Rtc>;

fn chip(clock: &Arc<ManualClock>) -> Chip {
    Exclusive::new(Rtc::new(clock.clone(), 512 * MIB))
}

fn get(chip: &Chip, index: u8) -> u8 {
    write(chip, 0, 1, index.into());
    read(chip, 1, 1) as u8
}

fn put(chip: &Chip, index: u8, value: u8) {
    assert_eq!(write(chip, 0, 1, index.into()), Action::Continue);
    assert_eq!(write(chip, 1, 1, value.into()), Action::Continue);
}

/// Century, year, month, day, weekday, hours, minutes, seconds.
fn time(chip: &Chip) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| get(chip, index))
}

#[test]
fn test_registers_after_bios() {
    let chip = chip(&ManualClock::at_second(0));
    let registers = [REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D].map(|index| get(&chip, index));
    assert_eq!(registers, [0x26, 0x02, 0x00, 0x80]);
    assert_eq!(read(&chip, 0, 1), 0xff, "the index port cannot be read");
}

#[test]
fn test_time_in_each_format() {
    let clock = ManualClock::at_second(LEAP_EVE);
    let chip = chip(&clock);
    for (b, before, after) in [
        (B_24_HOURS, [0x20, 0, 2, 0x29, 3, 0x23, 0x59, 0x58], [0x20, 0, 3, 1, 4, 0, 0, 0]),
        (B_24_HOURS | B_BINARY, [20, 0, 2, 29, 3, 23, 59, 58], [20, 0, 3, 1, 4, 0, 0, 0]),
        (0, [0x20, 0, 2, 0x29, 3, 0x91, 0x59, 0x58], [0x20, 0, 3, 1, 4, 0x12, 0, 0]),
        (B_BINARY, [20, 0, 2, 29, 3, 0x8b, 59, 58], [20, 0, 3, 1, 4, 12, 0, 0]),
    ] {
        clock.wall.store(LEAP_EVE * 1_000_000_000, Ordering::SeqCst);
        put(&chip, REGISTER_B, b);
        assert_eq!(time(&chip), before, "format {b:#x}");
        clock.advance_ns(2_000_000_000);
        assert_eq!(time(&chip), after, "format {b:#x}");
    }
}

#[test]
fn test_hours_of_the_12_hour_format() {
    for (hour, shown) in [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)] {
        let clock = ManualClock::at_second(hour * 3600);
        let chip = chip(&clock);
        put(&chip, REGISTER_B, 0);
        assert_eq!(get(&chip, HOURS), shown);
        put(&chip, HOURS, shown);
        put(&chip, REGISTER_B, B_24_HOURS | B_BINARY);
        assert_eq!(u64::from(get(&chip, HOURS)), hour, "written as {shown:#x}");
    }
}

#[test]
fn test_calendar_against_counting_day_by_day() {
    // 1600 to 2500: every rule of the Gregorian calendar occurs.
    let (mut year, mut month, mut day) = (1600, 1, 1);
    let first = days_from_civil(year, month, day);
    assert_eq!(first, -135_140);
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    for days in first..first + 328_000 {
        assert_eq!(civil_from_days(days), (year, month, day));
        assert_eq!(days_from_civil(year, month, day), days);
        day += 1;
        let length = match month {
            2 => 28 + i64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day > length {
            (month, day) = (month + 1, 1);
        }
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    assert_eq!(civil_from_days(0), (1970, 1, 1));
}

#[test]
fn test_weekdays() {
    // Sunday is 1: the epoch (Thursday), 2024-02-29 (Thursday), 2026-01-04 (Sunday), 2100-03-01 (Monday).
    for (second, weekday) in [(0, 5), (1_709_164_800, 5), (1_767_484_800, 1), (4_107_542_400, 2)] {
        assert_eq!(get(&chip(&ManualClock::at_second(second)), WEEKDAY), weekday, "{second}");
    }
}

#[test]
fn test_set_time_as_linux_does_keeps_running_from_there() {
    // drivers/rtc/rtc-mc146818-lib.c, mc146818_set_time.
    let clock = ManualClock::at_second(LEAP_EVE);
    let chip = chip(&clock);
    let (b, a) = (get(&chip, REGISTER_B), get(&chip, REGISTER_A));
    put(&chip, REGISTER_B, b | B_SET);
    put(&chip, REGISTER_A, a | 0x70);
    for (index, value) in [(YEAR, 0x31), (MONTH, 0x12), (DAY, 0x31), (HOURS, 0x23), (MINUTES, 0x59), (SECONDS, 0x59)] {
        put(&chip, index, value);
    }
    clock.advance_ns(5_000_000_000);
    assert_eq!(time(&chip)[1..4], [0x31, 0x12, 0x31], "it stands still while SET is 1");
    put(&chip, REGISTER_B, b);
    put(&chip, REGISTER_A, a);
    assert_eq!(time(&chip), [0x20, 0x31, 0x12, 0x31, 4, 0x23, 0x59, 0x59]);
    clock.advance_ns(1_000_000_000);
    assert_eq!(time(&chip), [0x20, 0x32, 1, 1, 5, 0, 0, 0]);
}

#[test]
fn test_single_register_written_counts_at_once() {
    let chip = chip(&ManualClock::at_second(LEAP_EVE));
    put(&chip, CENTURY, 0x19);
    assert_eq!(time(&chip), [0x19, 0, 3, 1, 5, 0x23, 0x59, 0x58], "1900 had no 29 February");
    put(&chip, MONTH, 0);
    assert_eq!(time(&chip)[..4], [0x18, 0x99, 0x12, 1], "month 0 is the December before");
}

#[test]
fn test_uip_is_clear_and_the_time_whole_for_244_us() {
    let clock = ManualClock::at_second(LEAP_EVE);
    clock.advance_ns(1_999_900_000);
    let chip = chip(&clock);
    put(&chip, REGISTER_A, 0xff);
    assert_eq!(get(&chip, REGISTER_A), 0x7f);
    assert_eq!(get(&chip, SECONDS), 0x59);
    clock.advance_ns(243_000);
    assert_eq!(time(&chip), [0x20, 0, 2, 0x29, 3, 0x23, 0x59, 0x59], "the second that A promised");
    clock.advance_ns(1_000);
    assert_eq!(time(&chip), [0x20, 0, 3, 1, 4, 0, 0, 0]);
}

// fault row 45
#[test]
fn test_clock_set_back_or_before_1970_is_followed() {
    struct Before;
    impl Clock for Before {
        fn wall(&self) -> SystemTime {
            UNIX_EPOCH - Duration::from_millis(500)
        }
        fn monotonic_ns(&self) -> u64 {
            0
        }
    }
    let before = Exclusive::new(Rtc::new(Arc::new(Before), 0));
    assert_eq!(time(&before), [0x19, 0x69, 0x12, 0x31, 4, 0x23, 0x59, 0x59]);

    let clock = ManualClock::at_second(LEAP_EVE);
    let chip = chip(&clock);
    get(&chip, REGISTER_A);
    clock.wall.store(0, Ordering::SeqCst);
    assert_eq!(time(&chip), [0x19, 0x70, 1, 1, 5, 0, 0, 0]);
}

#[test]
fn test_memory_size_bytes() {
    #[rustfmt::skip]
    let table = [
        // memory, then KiB below 640 KiB, KiB above 1 MiB, 64 KiB above 16 MiB, 64 KiB above 4 GiB
        (0,            0,   0,      0,      0),
        (512 * KIB,    512, 0,      0,      0),
        (8 * MIB,      640, 0x1c00, 0,      0),
        (64 * MIB,     640, 0xfc00, 0x300,  0),
        (512 * MIB,    640, 0xffff, 0x1f00, 0),
        (3 * GIB,      640, 0xffff, 0xbf00, 0),
        (8 * GIB,      640, 0xffff, 0xbf00, 0x14000),
        (u64::MAX,     640, 0xffff, 0xbf00, 0xff_ffff),
    ];
    for (memory, conventional, above_1m, above_16m, above_4g) in table {
        let chip = Exclusive::new(Rtc::new(ManualClock::at_second(0), memory));
        let word = |index: u8| u32::from(get(&chip, index)) | u32::from(get(&chip, index + 1)) << 8;
        let found = (word(0x15), word(0x17), word(0x34), word(0x5b) | u32::from(get(&chip, 0x5d)) << 16);
        assert_eq!(found, (conventional, above_1m, above_16m, above_4g), "{memory:#x}");
        assert_eq!(word(0x30), above_1m);
    }
}

#[test]
fn test_other_bytes_keep_what_is_written() {
    let chip = chip(&ManualClock::at_second(LEAP_EVE));
    let fixed: Vec<u8> = TIME.into_iter().chain([REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D]).collect();
    for index in (0..=0x7f).filter(|index| !fixed.contains(index)) {
        put(&chip, index | 0x80, !index);
        assert_eq!(get(&chip, index), !index, "index {index:#x}, written with NMI masked");
    }
    put(&chip, REGISTER_C, 0xff);
    put(&chip, REGISTER_D, 0);
    assert_eq!((get(&chip, REGISTER_C), get(&chip, REGISTER_D)), (0, 0x80));
    // Both ports in one access: index, then data.
    write(&chip, 0, 2, 0xa540);
    assert_eq!(get(&chip, 0x40), 0xa5);
    assert_eq!(read(&chip, 0, 4), 0xffff_a5ff);
}

#[test]
fn test_reset_keeps_time_and_memory_and_disables_interrupts() {
    let chip = chip(&ManualClock::at_second(LEAP_EVE));
    put(&chip, YEAR, 0x42);
    put(&chip, 0x40, 0x77);
    put(&chip, REGISTER_B, 0x7a);
    Device::reset(&chip);
    assert_eq!((get(&chip, REGISTER_B), get(&chip, YEAR), get(&chip, 0x40)), (0x02, 0x42, 0x77));
}

// fault row 13
#[test]
fn test_every_access_is_survived() {
    sweep(&chip(&ManualClock::at_second(LEAP_EVE)), PORTS);
}

/// A clock that shows anything, before and after 1970, up to the ends of what `SystemTime` holds.
struct Wild(AtomicU64);

impl Clock for Wild {
    fn wall(&self) -> SystemTime {
        let seconds = self.0.load(Ordering::SeqCst).cast_signed();
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        time.unwrap_or(UNIX_EPOCH)
    }
    fn monotonic_ns(&self) -> u64 {
        0
    }
}

proptest! {
    #[test]
    fn test_any_guest_sees_registers_that_hold(
        guest in steps(PORTS),
        second in prop_oneof![any::<u64>(), 0_u64..5_000_000_000, Just(i64::MIN as u64), Just(i64::MAX as u64)],
        later in any::<u64>(),
    ) {
        let clock = Arc::new(Wild(AtomicU64::new(second)));
        let chip = Exclusive::new(Rtc::new(clock.clone(), second));
        for (i, step) in guest.into_iter().enumerate() {
            if i == 50 {
                clock.0.store(later, Ordering::SeqCst);
            }
            prop_assert_eq!(play(&chip, step).1, Action::Continue);
            chip.with(|rtc| assert!(rtc.index < 128));
        }
        prop_assert_eq!(get(&chip, REGISTER_A) & A_UIP, 0);
        prop_assert_eq!((get(&chip, REGISTER_C), get(&chip, REGISTER_D)), (0, D_VALID));
        // Whatever was written: a running clock shows a time.
        put(&chip, REGISTER_B, B_24_HOURS | B_BINARY);
        let [_, year, month, day, weekday, hours, minutes, seconds] = time(&chip);
        prop_assert!(year < 100 && (1..=12).contains(&month) && (1..=31).contains(&day));
        prop_assert!((1..=7).contains(&weekday) && hours < 24 && minutes < 60 && seconds < 60);
    }

    #[test]
    fn test_any_time_set_is_the_time_shown(
        days in days_from_civil(1900, 1, 1)..days_from_civil(2399, 12, 31), second in 0_i64..DAY_SECONDS,
        format in 0_u8..4,
    ) {
        let chip = chip(&ManualClock::at_second(LEAP_EVE));
        let format = format << 1;
        put(&chip, REGISTER_B, format | B_SET);
        let (year, month, day) = civil_from_days(days);
        let fields = [year / 100, year % 100, month, day, second / 3600, second / 60 % 60, second % 60];
        let fields: Vec<(u8, u8)> = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS]
            .into_iter()
            .zip(fields)
            .map(|(index, field)| (index, chip.with(|rtc| rtc.encode(index, field as u8))))
            .collect();
        fields.iter().for_each(|&(index, value)| put(&chip, index, value));
        put(&chip, REGISTER_B, format);
        for (index, value) in fields {
            prop_assert_eq!(get(&chip, index), value, "index {:#x}", index);
        }
    }
}
