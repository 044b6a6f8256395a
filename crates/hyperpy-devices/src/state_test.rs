//! Every stock device put back: after anything that guests do it does again what it did after it was saved, from its own form and
//! from plain data; and a state that is damaged anywhere is refused whole, or one that the device could have had.

use std::sync::Arc;

use hyperpy_core::bus::{Device, Exclusive};
use hyperpy_core::irq::{Line, Unconnected};
use hyperpy_core::snapshot::{Keeper, Saved, StateFault, Value};
use proptest::prelude::*;

use crate::acpi_pm::{self, Pm1Control, Pm1Event, PmTimer, ResetRegister};
use crate::console::Console;
use crate::debugcon::DebugConsole;
use crate::debugexit::{self, DebugExit};
use crate::fw_cfg::{self, FwCfg};
use crate::i8042::I8042;
use crate::rtc::{self, Rtc};
use crate::testing::{ManualClock, Step, play, steps};
use crate::uart::{self, Uart};

/// A device and what it drives, on a clock that stands.
struct Kit {
    device: Arc<dyn Device>,
    line: Arc<Unconnected>,
    console: Arc<Console>,
}

type Make = fn(Arc<ManualClock>, Arc<Unconnected>, Arc<Console>) -> Arc<dyn Device>;

fn fw_cfg() -> Arc<dyn Device> {
    Arc::new(FwCfg::new(2, vec![("etc/table".to_owned(), vec![1, 2, 3])]).unwrap())
}

/// Each, with the bytes of its window.
const ALL: [(&str, u64, Make); 11] = [
    ("uart", uart::PORTS, |_, line, console| Uart::new(line, console)),
    ("rtc", rtc::PORTS, |clock, _, _| Arc::new(Exclusive::new(Rtc::new(clock, 1 << 32)))),
    ("i8042 data", 1, |_, _, _| I8042::windows().0),
    ("i8042 command", 1, |_, _, _| I8042::windows().1),
    ("pm1 event", acpi_pm::EVENT_PORTS, |_, line, _| Arc::new(Pm1Event::new(line))),
    ("pm1 control", acpi_pm::CONTROL_PORTS, |_, _, _| Arc::new(Exclusive::new(Pm1Control::default()))),
    ("pm timer", acpi_pm::TIMER_PORTS, |clock, _, _| Arc::new(PmTimer::new(clock))),
    ("reset", acpi_pm::RESET_PORTS, |_, _, _| Arc::new(Exclusive::new(ResetRegister::default()))),
    ("debug console", 1, |_, _, console| Arc::new(DebugConsole::new(console))),
    ("debug exit", debugexit::PORTS, |_, _, _| Arc::new(DebugExit)),
    ("fw_cfg", fw_cfg::PORTS, |_, _, _| fw_cfg()),
];

impl Kit {
    fn new(make: Make, clock: &Arc<ManualClock>) -> Self {
        let (line, console) = (Unconnected::new(), Arc::<Console>::default());
        Self { device: make(clock.clone(), line.clone(), console.clone()), line, console }
    }

    /// What a guest sees of these steps, and what they drive.
    fn play(&self, steps: &[Step]) -> Vec<(u64, String, bool)> {
        let step = |step: &Step| {
            let (read, action) = play(&*self.device, *step);
            (read, format!("{action:?}"), self.line.is_high())
        };
        steps.iter().map(step).collect()
    }

    fn send(&self, input: &[u8]) {
        let _ = self.console.send(input);
    }

    fn state(&self) -> Value {
        self.device.save().unwrap().value()
    }
}

/// A state with one thing of it changed: missing, of another kind, out of range, negative, huge, twice, or more than there is.
fn damaged(value: &Value) -> Vec<Value> {
    let bytes = |len: usize| Value::Bytes(vec![0xff; len].into());
    let mut wrong = vec![Value::Nothing, Value::Bool(true), Value::Float(f64::NAN), Value::Float(1.0)];
    wrong.extend(
        [-1, 0, 0xff, 0xffff, 0xffff_ffff, i64::MAX.into(), u64::MAX.into(), 1 << 90, i128::MIN].map(Value::Int),
    );
    wrong.extend([Value::Text("x".into()), Value::List(Vec::new()), Value::Map(Vec::new())]);
    wrong.extend([0, 1, 65, 128, 200, 1 << 17].map(bytes));
    let mut all = wrong.clone();
    if let Value::Map(entries) = value {
        for at in 0..entries.len() {
            for wrong in &wrong {
                let mut changed = entries.clone();
                changed[at].1 = wrong.clone();
                all.push(Value::Map(changed));
            }
            let mut without = entries.clone();
            all.push(Value::Map([entries.as_slice(), &[without.remove(at)]].concat()));
            all.push(Value::Map(without));
        }
        all.push(Value::Map([entries.as_slice(), &[("more".into(), Value::Nothing)]].concat()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn test_device_put_back_does_what_it_did_from_there_on(
        input in prop::collection::vec(any::<u8>(), 0..80),
        (before, after, then) in (steps(8), steps(8), steps(8)),
    ) {
        for (name, window, make) in ALL {
            let clock = ManualClock::at_second(1_000_000_000);
            let inside = |steps: &[Step]| -> Vec<Step> {
                steps.iter().map(|&(is_write, offset, size, value)| (is_write, offset % window, size, value)).collect()
            };
            let (before, after, then) = (inside(&before), inside(&after), inside(&then));
            let kit = Kit::new(make, &clock);
            kit.send(&input);
            kit.play(&before);
            let (state, console) = (kit.device.save().unwrap(), kit.console.save());
            let (value, was_high) = (state.value(), kit.line.is_high());
            let expected = kit.play(&then);
            kit.send(&input);
            kit.play(&after);
            // What stands for the guest's input is put back first, as in a machine.
            kit.console.load(&console).unwrap();
            kit.device.load(&*state).unwrap();
            prop_assert_eq!((kit.state(), kit.line.is_high()), (value.clone(), was_high), "{}", name);
            prop_assert_eq!(kit.play(&then), expected.clone(), "{}", name);
            // Another one, from plain data.
            let other = Kit::new(make, &clock);
            other.console.load(&console).unwrap();
            other.device.load(&value).unwrap();
            prop_assert_eq!((other.state(), other.line.is_high()), (value.clone(), was_high), "{}", name);
            prop_assert_eq!(other.play(&then), expected, "{}", name);
        }
    }

    #[test]
    fn test_damaged_state_is_refused_whole_or_is_one_that_could_be(played in steps(8)) {
        for (name, window, make) in ALL {
            let clock = ManualClock::at_second(1_000_000_000);
            let kit = Kit::new(make, &clock);
            let steps: Vec<_> = played.iter().map(|&(w, offset, size, value)| (w, offset % window, size, value)).collect();
            kit.play(&steps);
            let before = kit.state();
            // Whether writes to THR wait in a ring is the ring's to say, and there is none.
            let is_posted = |state: &Value| state.get("posted") == Some(&Value::Bool(true));
            for state in damaged(&before).into_iter().filter(|state| !is_posted(state)) {
                let checked = kit.device.check(&state);
                prop_assert_eq!(kit.state(), before.clone(), "{}", name);
                let loaded = kit.device.load(&state);
                prop_assert_eq!(&loaded, &checked, "{}: {:?}", name, state);
                match loaded {
                    Ok(()) => {
                        prop_assert_eq!(kit.state(), state, "{}", name);
                        kit.device.load(&before).unwrap();
                    }
                    Err(fault) => {
                        prop_assert!(matches!(fault, StateFault::Misfit(_)), "{}: {:?}", name, fault);
                        prop_assert_eq!(kit.state(), before.clone(), "{}", name);
                    }
                }
            }
        }
    }
}

#[test]
fn test_damaged_state_of_a_console_is_refused_whole_or_is_one_that_could_be() {
    let console = Console::new(16);
    console.write(b"said");
    assert_eq!(console.send(b"to be fetched"), 13);
    let state = || console.save().value();
    let before = state();
    for damaged in damaged(&before) {
        let checked = Keeper::check(&console, &damaged);
        assert_eq!(state(), before);
        let loaded = Keeper::load(&console, &damaged);
        assert_eq!(loaded, checked, "{damaged:?}");
        assert_eq!(state(), if loaded.is_ok() { damaged } else { before.clone() });
        console.load(&before).unwrap();
    }
}

#[test]
fn test_windows_of_one_controller_are_one_device() {
    let (data, command) = I8042::windows();
    let (other, _) = I8042::windows();
    assert_eq!(data.identity(), command.identity());
    assert_ne!(data.identity(), other.identity());
}

#[test]
fn test_pm_timer_put_back_counts_on_from_there() {
    let clock = Arc::new(ManualClock::default());
    let timer = PmTimer::new(clock.clone());
    clock.advance_ns(1_000_000_000);
    let state = timer.save().unwrap();
    clock.advance_ns(5_000_000_000);
    timer.load(&*state).unwrap();
    assert_eq!(crate::testing::read(&timer, 0, 4), acpi_pm::TIMER_HZ);
    clock.advance_ns(1_000_000_000);
    assert_eq!(crate::testing::read(&timer, 0, 4), 2 * acpi_pm::TIMER_HZ);
}

#[test]
fn test_power_button_that_was_pressed_is_pressed_again() {
    let line = Unconnected::new();
    let events = Pm1Event::new(line.clone());
    crate::testing::write(&events, 2, 2, 0x100);
    events.press_power_button();
    let state = events.save().unwrap();
    crate::testing::write(&events, 0, 2, 0x100);
    assert!(!line.is_high());
    events.load(&*state).unwrap();
    assert!(line.is_high());
}
