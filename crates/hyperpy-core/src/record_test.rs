//! What is kept of a device's traffic, in which order, at which moments, and how much.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::bus::{Access, Device, Rung, Space};
use crate::clock::{Callback, Raised, When};
use crate::exit::{Exit, StopReason};
use crate::names::Names;
use crate::testing::{Closures, Event as Signal, Rig, outs, stopper};

fn recorder(limit: usize) -> Arc<Recorder> {
    Recorder::new(Arc::new(Clock::manual()), limit, vec![Wire::default(); 2])
}

fn recorded(recorder: &Arc<Recorder>, inner: impl Device + 'static) -> Recorded {
    Recorded { inner: Arc::new(inner), recorder: recorder.clone() }
}

fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 3 }
}

fn drove(high: bool) -> Deed {
    Deed::Line { wire: 0, high }
}

fn whats(recorder: &Recorder) -> Vec<What> {
    recorder.events(0).0.iter().map(|event| event.what).collect()
}

/// Serves everything at offset 0 quickly, and the rest slowly.
struct Quick;

impl Device for Quick {
    fn quick_read(&self, at: Access) -> Option<u64> {
        (at.offset == 0).then_some(u64::MAX)
    }
    fn quick_write(&self, at: Access, _: u64) -> bool {
        at.offset == 0
    }
    fn read(&self, _: Access) -> u64 {
        u64::MAX - 1
    }
    fn write(&self, _: Access, value: u64) -> Action {
        if value == 9 { Action::Reset } else { Action::Continue }
    }
}

#[test]
fn test_accesses_are_kept_as_the_guest_sees_them_whoever_serves_them() {
    let recorder = recorder(10);
    let device = recorded(&recorder, Quick);
    assert_eq!((device.quick_read(at(0, 2)), device.quick_read(at(1, 2))), (Some(u64::MAX), None));
    assert_eq!((device.quick_write(at(0, 1), 0x1FF), device.quick_write(at(1, 1), 0)), (true, false));
    assert_eq!(device.read(at(1, 2)), u64::MAX - 1);
    assert_eq!(device.write(at(1, 1), 9), Action::Reset);
    let (events, lost) = recorder.events(0);
    let expected = [
        What::Read { offset: 0, size: 2, value: 0xFFFF },
        What::Write { offset: 0, size: 1, value: 0xFF, waits: false },
        What::Read { offset: 1, size: 2, value: 0xFFFE },
        What::Write { offset: 1, size: 1, value: 9, waits: false },
    ];
    assert_eq!((whats(&recorder), lost), (expected.to_vec(), 0));
    assert!(events.iter().all(|event| event.vcpu == 3 && event.deeds().is_empty() && event.raised().is_none()));
    let asked: Vec<_> = events.iter().map(|event| event.asked().cloned()).collect();
    assert_eq!(asked, [None, None, None, Some(Action::Reset)]);
}

/// Has one number of state.
struct Number(AtomicU64);

impl Device for Number {
    fn read(&self, _: Access) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn write(&self, _: Access, value: u64) -> Action {
        self.0.store(value, Ordering::SeqCst);
        Action::Continue
    }
    fn save(&self) -> Result<crate::snapshot::State, crate::snapshot::StateFault> {
        Ok(Arc::new(crate::snapshot::Value::from(self.0.load(Ordering::SeqCst))))
    }
    fn load(&self, state: &dyn crate::snapshot::Saved) -> Result<(), crate::snapshot::StateFault> {
        let number = state.value().int().ok_or(crate::snapshot::StateFault::NotSaved)?;
        self.0.store(number, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn test_recording_ends_where_its_device_is_put_back() {
    let recorder = recorder(10);
    let device = recorded(&recorder, Number(AtomicU64::new(5)));
    let state = device.save().unwrap();
    device.write(at(0, 1), 6);
    assert!(device.load(&crate::snapshot::Value::Nothing).is_err());
    assert_eq!((device.read(at(0, 1)), recorder.events(0).1), (6, 0), "what was refused ends nothing");
    device.load(&*state).unwrap();
    assert_eq!(device.read(at(0, 1)), 5);
    assert_eq!((recorder.events(0).0.len(), recorder.events(0).1), (2, 2));
}

#[test]
fn test_line_changes_belong_to_the_access_in_which_they_come_and_else_stand_alone() {
    let recorder = recorder(10);
    let inside = recorder.clone();
    let device = recorded(
        &recorder,
        Closures(
            |_| 0,
            move |_, value| {
                for high in [value == 1, value == 1, true, false] {
                    inside.line(0, high);
                }
                raised("KeyError");
                raised("ValueError");
                Action::Continue
            },
        ),
    );
    recorder.line(0, false); // it is low
    recorder.line(0, true);
    device.write(at(0, 1), 1);
    device.write(at(0, 1), 0);
    raised("nobody's");
    let (events, _) = recorder.events(0);
    assert_eq!((events[0].what, events[0].deeds()), (What::Deed, &[drove(true)][..]));
    assert_eq!((events[1].deeds(), events[1].raised()), (&[drove(false)][..], Some("KeyError")));
    assert_eq!(events[2].deeds(), [drove(true), drove(false)]);
    assert_eq!(events.len(), 3);
}

#[test]
fn test_clock_stands_still_in_an_access_and_moments_never_go_back() {
    let clock = Arc::new(Clock::of_machine());
    let recorder = Recorder::new(clock.clone(), 10, vec![Wire::default()]);
    clock.run(true);
    let (inner, seen) = (clock.clone(), Arc::new(AtomicU64::new(0)));
    let saw = seen.clone();
    let device = recorded(
        &recorder,
        Closures(
            move |_| {
                let first = inner.now();
                assert_eq!(inner.step(1_000_000), Ok(()));
                saw.store(inner.now(), Ordering::SeqCst);
                first
            },
            |_, _| Action::Continue,
        ),
    );
    let moment = device.read(at(0, 8));
    assert_eq!(seen.load(Ordering::SeqCst), moment);
    assert!(clock.now() > moment + 1_000_000);
    recorder.line(0, true);
    let (events, _) = recorder.events(0);
    assert_eq!(events[0].ns, moment);
    assert!(events[1].ns > moment + 1_000_000);
}

#[test]
fn test_what_begins_inside_of_an_event_comes_of_it_and_is_not_kept() {
    let recorder = recorder(10);
    let inner = Arc::new(recorded(&recorder, Quick));
    let (device, again) = (inner.clone(), recorder.clone());
    let outer = recorded(
        &recorder,
        Closures(
            move |_| {
                assert!(again.timer(Fired { deadline: 1, now: 1, is_last: true }).is_none());
                device.quick_read(at(0, 1)).unwrap();
                device.read(at(1, 1))
            },
            |_, _| Action::Continue,
        ),
    );
    outer.read(at(2, 1));
    assert_eq!(whats(&recorder), [What::Read { offset: 2, size: 1, value: 0xFE }]);
}

fn moved(ranges: usize, bytes: usize) -> Deed {
    let ranges = vec![(0x1000, 1); ranges];
    Deed::Memory(Arc::new(Moved { is_write: true, ranges, data: vec![7; bytes], refused: None }))
}

#[test]
fn test_deeds_of_an_event_are_kept_in_order_and_one_elsewhere_is_an_event() {
    let recorder = recorder(10);
    let inside = recorder.clone();
    let message = |is_taken| Deed::Message { wire: 1, address: 0xfee0_0000, data: 0x41, is_taken };
    let device = recorded(
        &recorder,
        Closures(
            |_| 0,
            move |_, _| {
                inside.line(1, true);
                inside.did(moved(1, 4));
                inside.did(message(false));
                inside.line(2, true); // there is none
                inside.line(0, true);
                Action::Continue
            },
        ),
    );
    device.write(at(0, 1), 1);
    recorder.did(message(true));
    let (events, lost) = recorder.events(0);
    assert_eq!(events[0].deeds(), [Deed::Line { wire: 1, high: true }, moved(1, 4), message(false), drove(true)]);
    assert_eq!((events[1].what, events[1].deeds(), lost), (What::Deed, &[message(true)][..], 0));
    let (later, lost) = recorder.events(1);
    assert_eq!((&later[..], lost), (&events[1..], 0));
    assert_eq!(recorder.events(usize::MAX), (Vec::new(), 0));
}

#[test]
fn test_line_that_sends_a_message_sends_one_whenever_it_is_driven_high() {
    let clock = Arc::new(Clock::manual());
    let wire = Wire { is_high: false, message: Some((0xfee0_0000, 0x41)) };
    let recorder = Recorder::new(clock, 10, vec![wire]);
    let inside = recorder.clone();
    let drive = move |_: Access| {
        [true, true, false].into_iter().for_each(|high| inside.line(0, high));
        0
    };
    let device = recorded(&recorder, Closures(drive, |_, _| Action::Continue));
    device.read(at(0, 1));
    [true, false, false].into_iter().for_each(|high| recorder.line(0, high));
    let sent = Deed::Message { wire: 0, address: 0xfee0_0000, data: 0x41, is_taken: true };
    let (events, _) = recorder.events(0);
    let deeds: Vec<_> = events.iter().map(|event| event.deeds().to_vec()).collect();
    assert_eq!(deeds, [vec![sent.clone(), sent.clone()], vec![sent], vec![drove(false)]]);
}

#[test]
fn test_memory_counts_by_its_bytes_and_ranges_and_what_is_too_much_ends_the_recording() {
    assert_eq!([moved(0, 0), moved(1, 63), moved(3, 128)].map(|deed| deed.cost()), [1, 1, 5]);
    let recorder = recorder(10);
    recorder.did(moved(1, 8 * 64));
    let inside = recorder.clone();
    let large = move |_: Access| {
        inside.did(moved(1, 64));
        0
    };
    let device = recorded(&recorder, Closures(large, |_, _| Action::Continue));
    device.read(at(0, 1));
    device.write(at(0, 1), 1);
    // The event without its deed is not played, nor what comes after.
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (1, 3));
}

#[test]
fn test_deed_that_there_is_no_memory_for_ends_the_recording() {
    let recorder = recorder(10);
    let inside = recorder.clone();
    let device = recorded(
        &recorder,
        Closures(
            move |_| {
                inside.end_full();
                0
            },
            |_, _| Action::Continue,
        ),
    );
    device.write(at(0, 1), 1);
    device.read(at(0, 1));
    device.write(at(0, 1), 1);
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (1, 3));
}

#[test]
fn test_what_does_not_fit_ends_it_and_is_counted() {
    let recorder = recorder(3);
    let device = recorded(&recorder, Quick);
    for _ in 0..5 {
        assert_eq!(device.quick_read(at(0, 1)), Some(u64::MAX));
        assert_eq!(device.read(at(1, 1)), u64::MAX - 1);
    }
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (3, 7));
}

#[test]
fn test_event_that_is_not_all_there_is_left_out_with_all_after_it() {
    let recorder = recorder(3);
    let inside = recorder.clone();
    let flood = move |_: Access| {
        for _ in 0..50 {
            inside.line(0, true);
            inside.line(0, false);
        }
        0
    };
    let device = recorded(&recorder, Closures(flood, |_, _| Action::Continue));
    device.write(at(0, 1), 1);
    device.read(at(0, 1));
    assert_eq!(whats(&recorder), [What::Write { offset: 0, size: 1, value: 1, waits: false }]);
    assert_eq!(recorder.events(0).1, 100);
}

#[test]
fn test_access_that_has_not_returned_is_left_out_with_all_after_it() {
    let recorder = recorder(10);
    let (entered, go) = (Signal::new(), Signal::new());
    let (tell, wait) = (entered.clone(), go.clone());
    let slow = move |_: Access| {
        tell.set();
        wait.wait();
        7
    };
    let device = recorded(&recorder, Closures(slow, |_, _| Action::Continue));
    device.write(at(0, 1), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| device.read(at(0, 1)));
        entered.wait();
        device.write(at(0, 1), 2);
        let (events, lost) = recorder.events(0);
        assert_eq!((events.len(), lost), (1, 2));
        go.set();
    });
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (3, 0));
    assert_eq!(events[1].what, What::Read { offset: 0, size: 1, value: 7 });
}

#[test]
fn test_device_that_panics_leaves_no_event_behind_that_is_served() {
    let recorder = recorder(10);
    let device = recorded(&recorder, Closures(|_| panic!("why"), |_, _| Action::Continue));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.read(at(0, 1)))).is_err());
    recorder.line(0, true);
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (0, 2));
    assert_eq!(recorder.lock().events[1].what, What::Deed);
}

#[test]
fn test_stopped_recorder_keeps_and_counts_nothing() {
    let recorder = recorder(10);
    let device = recorded(&recorder, Quick);
    device.quick_read(at(0, 1));
    recorder.stop();
    device.quick_read(at(0, 1));
    device.read(at(1, 1));
    recorder.line(0, true);
    let (events, lost) = recorder.events(0);
    assert_eq!((events.len(), lost), (1, 0));
}

struct Drives(Arc<Recorder>);

impl Callback for Drives {
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised> {
        let serving = self.0.timer(fired).unwrap();
        self.0.line(0, true);
        serving.end(Some(Action::Stop(StopReason::PowerOff)));
        Ok(None)
    }
}

#[test]
fn test_timer_is_kept_with_its_deadline_and_a_reset_begins_time_anew() {
    let clock = Arc::new(Clock::manual());
    let recorder = Recorder::new(clock.clone(), 10, vec![Wire::default()]);
    clock.arm(When::At(50), 0, Arc::new(Drives(recorder.clone()))).unwrap();
    clock.move_to(70);
    assert_eq!(clock.fire_first(), Ok(true));
    clock.reset();
    recorded(&recorder, Quick).reset();
    recorder.line(0, true); // it was low after the reset
    let (events, _) = recorder.events(0);
    let told: Vec<_> = events.iter().map(|event| (event.ns, event.what)).collect();
    assert_eq!(told, [(70, What::Timer { deadline: 50 }), (0, What::Reset), (0, What::Deed)]);
    assert_eq!((events[0].deeds(), events[0].asked()), (&[drove(true)][..], Some(&Action::Stop(StopReason::PowerOff))));
}

#[test]
fn test_device_on_a_machine_is_recorded_where_it_is_and_is_itself_again_afterwards() {
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), outs(0x81, &[2]), outs(0x80, &[3])]]);
    let device: Arc<dyn Device> = Arc::new(stopper("x"));
    let place = rig.machine.attach(Space::Pio, 0x80, 2, "it", Rung::Native, device.clone()).unwrap();
    let recorder = recorder(10);
    let put = Arc::new(Recorded { inner: device.clone(), recorder: recorder.clone() });
    let before = rig.machine.replace(place, put.clone()).unwrap();
    assert!(Arc::ptr_eq(&before, &device));
    assert!(matches!(rig.run().unwrap(), Exit::Stopped { .. }));
    assert!(matches!(rig.run().unwrap(), Exit::Stopped { .. }));
    rig.machine.reset(&rig, || Ok(())).unwrap();
    let expected = [
        What::Write { offset: 0, size: 1, value: 1, waits: false },
        What::Write { offset: 1, size: 1, value: 2, waits: false },
        What::Reset,
    ];
    assert_eq!(whats(&recorder), expected);
    rig.machine.replace(place, device.clone()).unwrap();
    rig.machine.detach(place).unwrap();
    assert!(rig.machine.replace(place, put).is_err());
    drop(before);
    assert_eq!(Arc::strong_count(&device), 1);
}

#[test]
fn test_recorded_device_at_two_places_is_one_device() {
    let inner: Arc<dyn Device> = Arc::new(Quick);
    let at = |_| Recorded { inner: inner.clone(), recorder: recorder(1) };
    assert_eq!(at(0).identity(), at(1).identity());
    assert_ne!(at(0).identity(), recorded(&recorder(1), Quick).identity());
}

#[test]
fn test_registers_of_a_recorded_device_have_their_names() {
    struct Named;
    impl Names for Named {
        fn register(&self, offset: u64, _: u8, _: bool) -> Option<String> {
            Some(format!("r{offset}"))
        }
    }
    impl Device for Named {
        fn read(&self, _: Access) -> u64 {
            0
        }
        fn write(&self, _: Access, _: u64) -> Action {
            Action::Continue
        }
        fn names(&self) -> Option<Arc<dyn Names>> {
            Some(Arc::new(Self))
        }
    }
    let names = recorded(&recorder(1), Named).names().unwrap();
    assert_eq!(names.register(4, 4, false).as_deref(), Some("r4"));
}
