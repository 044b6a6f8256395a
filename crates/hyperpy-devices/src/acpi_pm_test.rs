use std::sync::atomic::Ordering;

use hyperpy_core::bus::Exclusive;
use hyperpy_core::irq::Unconnected;
use proptest::prelude::*;

use super::*;
use crate::testing::{ManualClock, play, read, steps, sweep, write};

fn power_off() -> Action {
    Action::Stop(StopReason::PowerOff)
}

#[test]
fn test_power_button_raises_the_sci_until_its_status_is_cleared() {
    let sci = Unconnected::new();
    let event = Pm1Event::new(sci.clone());
    event.press_power_button();
    assert_eq!((read(&event, 0, 2), sci.is_high()), (0x100, false), "not enabled");
    write(&event, 2, 2, 0xffff);
    assert_eq!((read(&event, 0, 4), sci.is_high()), (0x0721_0100, true));
    write(&event, 0, 2, !0x100);
    assert!(sci.is_high(), "a written 0 clears nothing");
    write(&event, 0, 1, 0xff);
    assert!(sci.is_high(), "the lower byte is not the button's");
    write(&event, 1, 1, 0x01);
    assert_eq!((read(&event, 0, 4), sci.is_high(), sci.edges()), (0x0721_0000, false, 1));
    event.press_power_button();
    write(&event, 3, 1, 0);
    assert_eq!((read(&event, 0, 4), sci.is_high()), (0x0021_0100, false));
    write(&event, 2, 2, 0x100);
    event.reset();
    assert_eq!((read(&event, 0, 4), sci.is_high()), (0, false));
}

#[test]
fn test_sleep_types_only_s5_switches_off() {
    for sleep_type in 0..8_u64 {
        let control = Exclusive::new(Pm1Control::default());
        // As ACPICA does it: the type, then the type with SLP_EN.
        assert_eq!(write(&control, 0, 2, sleep_type << 10), Action::Continue);
        let expected = if sleep_type == 5 { power_off() } else { Action::Continue };
        assert_eq!(write(&control, 0, 2, sleep_type << 10 | 1 << 13), expected, "type {sleep_type}");
        assert_eq!(read(&control, 0, 2), sleep_type << 10 | 1, "SLP_EN reads 0, SCI_EN reads 1");
    }
    let by_bytes = Exclusive::new(Pm1Control::default());
    assert_eq!(write(&by_bytes, 0, 1, 0x01), Action::Continue);
    assert_eq!(write(&by_bytes, 1, 1, 0x34), power_off());
}

#[test]
fn test_control_starts_and_stays_in_acpi_mode() {
    let control = Exclusive::new(Pm1Control::default());
    assert_eq!(read(&control, 0, 2), 1);
    write(&control, 0, 2, 0);
    assert_eq!(read(&control, 0, 2), 1);
    write(&control, 0, 2, 0x1fff);
    assert_eq!(read(&control, 0, 2), 0x1c03, "GBL_RLS and reserved bits are not kept");
    Device::reset(&control);
    assert_eq!(read(&control, 0, 8), 0xffff_ffff_ffff_0001);
}

#[test]
fn test_timer_counts_at_its_frequency_and_wraps_at_32_bits() {
    let clock = Arc::new(ManualClock::default());
    let timer = PmTimer::new(clock.clone());
    for (ns, ticks) in [
        (0, 0),
        (279, 0),
        (280, 1),
        (1_000_000_000, TIMER_HZ),
        (3600 * 1_000_000_000, (3600 * TIMER_HZ) & 0xffff_ffff),
        (u64::MAX, (u128::from(u64::MAX) * u128::from(TIMER_HZ) / 1_000_000_000) as u64 & 0xffff_ffff),
    ] {
        clock.monotonic.store(ns, Ordering::SeqCst);
        assert_eq!(read(&timer, 0, 4), ticks, "{ns} ns");
        assert_eq!(write(&timer, 0, 4, 0), Action::Continue);
        assert_eq!(read(&timer, 0, 4), ticks, "it cannot be written");
        for offset in 0..4 {
            assert_eq!(read(&timer, offset, 1), ticks >> (8 * offset) & 0xff);
            let above = u64::MAX << (8 * (4 - offset));
            assert_eq!(read(&timer, offset, 8), ticks >> (8 * offset) | above, "offset {offset}");
        }
    }
}

#[test]
fn test_reset_register_acts_on_the_rising_edge_of_bit_2() {
    for (writes, resets) in [
        (vec![u64::from(RESET_VALUE)], 1),
        (vec![0x02, 0x06], 1),
        (vec![0x04], 1),
        (vec![0x06, 0x06], 1),
        (vec![0x06, 0x02, 0x0e], 2),
        (vec![0x02, 0x0a, 0xfb], 0),
    ] {
        let register = Exclusive::new(ResetRegister::default());
        let actions = writes.iter().map(|&value| write(&register, 0, 1, value)).collect::<Vec<_>>();
        assert_eq!(actions.iter().filter(|&action| *action == Action::Reset).count(), resets, "{writes:?}");
        assert_eq!(Some(read(&register, 0, 1)), writes.last().copied());
        Device::reset(&register);
        assert_eq!(write(&register, 0, 1, 0x06), Action::Reset, "after a reset it starts low");
    }
}

/// Every register block with its window.
fn blocks() -> Vec<(Box<dyn Device>, u64)> {
    vec![
        (Box::new(Pm1Event::new(Unconnected::new())), EVENT_PORTS),
        (Box::new(Exclusive::new(Pm1Control::default())), CONTROL_PORTS),
        (Box::new(PmTimer::new(ManualClock::at_second(1))), TIMER_PORTS),
        (Box::new(Exclusive::new(ResetRegister::default())), RESET_PORTS),
    ]
}

// fault row 13
#[test]
fn test_every_access_is_survived_and_reads_nobody_past_the_end() {
    for (device, window) in blocks() {
        sweep(&*device, window);
        for size in 1..=8 {
            assert_eq!(read(&*device, window, size), ones(size));
            assert_eq!(write(&*device, window, size, u64::MAX), Action::Continue);
        }
    }
}

#[test]
fn test_wide_read_is_its_bytes() {
    for (device, window) in blocks() {
        write(&*device, 0, 8, 0x0102_0304_0506_0708);
        for offset in 0..window {
            for size in 1..=8 {
                let bytes = (0..u64::from(size)).map(|i| read(&*device, offset + i, 1) << (8 * i));
                assert_eq!(read(&*device, offset, size), bytes.sum::<u64>());
            }
        }
    }
}

proptest! {
    #[test]
    fn test_any_guest_keeps_the_sci_and_the_registers_right(guest in steps(EVENT_PORTS), presses in 0_usize..3) {
        let sci = Unconnected::new();
        let event = Pm1Event::new(sci.clone());
        for (i, step) in guest.iter().enumerate() {
            if i % 40 < presses {
                event.press_power_button();
            }
            prop_assert_eq!(play(&event, *step).1, Action::Continue);
            let registers = read(&event, 0, 4);
            prop_assert_eq!(sci.is_high(), registers & registers >> 16 & 0xffff != 0);
            prop_assert_eq!(registers & !0x0721_0100, 0, "only bits that exist");
        }
        for (device, window) in blocks() {
            for &(is_write, offset, size, value) in guest.iter().filter(|step| step.1 < window) {
                let (_, action) = play(&*device, (is_write, offset, size, value));
                prop_assert!(is_write || action == Action::Continue);
            }
        }
    }
}
