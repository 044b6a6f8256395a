//! Clocks put back: the time, and which timers are set.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::clock::{Fired, Raised, When};
use crate::exit::StopReason;

/// Logs its number; counted by who still has it.
struct Logs {
    number: u64,
    log: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl Callback for Logs {
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised> {
        self.log.lock().unwrap().push((self.number, fired.deadline));
        Ok(None)
    }
}

#[derive(Default)]
struct Rig {
    clock: Option<Arc<Clock>>,
    log: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl Rig {
    fn new() -> Self {
        Self { clock: Some(Arc::new(Clock::manual())), ..Self::default() }
    }
    fn clock(&self) -> &Arc<Clock> {
        self.clock.as_ref().unwrap()
    }
    fn logs(&self, number: u64) -> Arc<Logs> {
        Arc::new(Logs { number, log: self.log.clone() })
    }
    fn arm(&self, when: When, number: u64) -> Timer {
        self.clock().arm(when, number, self.logs(number)).unwrap()
    }
    fn step(&self, ns: u64) -> Vec<(u64, u64)> {
        assert_eq!(self.clock().step(ns), Ok(()));
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[test]
fn test_timers_that_fired_or_were_taken_off_since_are_set_again_and_later_ones_are_off() {
    let rig = Rig::new();
    let (fires, often, cancelled) = (rig.arm(When::At(10), 1), rig.arm(When::Every(7), 2), rig.arm(When::After(30), 3));
    rig.step(5);
    let kept = rig.clock().save();
    for _ in 0..3 {
        assert_eq!(rig.step(10), [(2, 7), (1, 10), (2, 14)]);
        assert!(rig.clock().cancel(&cancelled));
        let later = rig.arm(When::At(20), 4);
        assert!(rig.clock().set_scale(2.0));
        rig.clock().load(&kept);
        assert_eq!((rig.clock().now(), rig.clock().scale(), rig.clock().timers()), (5, 1.0, 3));
        assert!(fires.is_active() && often.is_active() && cancelled.is_active() && !later.is_active());
        assert_eq!((fires.deadline(), often.deadline(), cancelled.deadline()), (10, 7, 30));
    }
    assert_eq!(rig.step(30), [(2, 7), (1, 10), (2, 14), (2, 21), (2, 28), (3, 30), (2, 35)]);
}

#[test]
fn test_what_a_timer_calls_stays_as_long_as_a_snapshot_has_it_and_no_longer() {
    let rig = Rig::new();
    let (callback, later) = (rig.logs(1), rig.logs(2));
    rig.clock().arm(When::At(1), 0, callback.clone()).unwrap();
    let (one, two) = (rig.clock().save(), rig.clock().save());
    rig.step(5);
    assert_eq!(Arc::strong_count(&callback), 2, "it has fired, and can be set again");
    rig.clock().arm(When::At(9), 0, later.clone()).unwrap();
    rig.clock().load(&one);
    assert_eq!(Arc::strong_count(&later), 1);
    drop(one);
    rig.step(5);
    assert_eq!(Arc::strong_count(&callback), 2);
    let mut seen = 0;
    rig.clock().visit(&mut |_| seen += 1);
    assert_eq!(seen, 1, "whoever looks for references finds it once");
    drop(two);
    assert_eq!(Arc::strong_count(&callback), 1);
    // One that is set goes on without a snapshot, and one of a clock that is cleared is gone for the snapshot too.
    rig.clock().arm(When::At(20), 0, callback.clone()).unwrap();
    let kept = rig.clock().save();
    rig.clock().cancel_all();
    assert_eq!(Arc::strong_count(&callback), 1);
    rig.clock().load(&kept);
    assert_eq!(rig.clock().timers(), 0);
}

#[test]
fn test_clock_of_another_machine_takes_the_time_and_the_timers_that_are_carried() {
    let (rig, copy) = (Rig::new(), Rig::new());
    let timer = rig.arm(When::Every(10), 1);
    rig.arm(When::At(20), 2);
    rig.step(12);
    let kept = rig.clock().save();
    let before = copy.arm(When::At(13), 9);
    copy.clock().load(&kept);
    assert_eq!((copy.clock().now(), copy.clock().timers(), before.is_active()), (12, 0, false));
    for it in kept.timers() {
        let KeptTimer { id, deadline, period, owner, .. } = *it;
        let number = kept.with_callback(it, |any| any.downcast_ref::<Logs>().unwrap().number).unwrap();
        copy.clock().carry(Carried { id, deadline, period }, owner, copy.logs(10 * number)).unwrap();
    }
    assert_eq!(copy.step(10), [(10, 20), (20, 20)]);
    let there = copy.clock().timer(timer.id());
    assert_eq!((there.deadline(), there.is_active(), timer.deadline()), (30, true, 20));
    assert!(copy.clock().cancel(&there) && timer.is_active());
    assert!(!copy.clock().timer(u64::MAX).is_active());
    assert_eq!(rig.step(10), [(1, 20), (2, 20)], "the first one goes its own way");
}

#[test]
fn test_machine_time_put_back_goes_on_from_there_when_it_runs() {
    let clock = Arc::new(Clock::of_machine());
    let _ = clock.step(1_000);
    let kept = clock.save();
    let _ = clock.step(1_000_000_000);
    clock.load(&kept);
    assert_eq!(clock.now(), 1_000);
    clock.run(true);
    while clock.now() == 1_000 {
        std::hint::spin_loop();
    }
    clock.run(false);
    assert!(clock.now() < 1_000_000_000);
}

/// What is done to a clock between being saved and put back.
#[derive(Clone, Debug)]
enum Do {
    Arm(u64),
    Repeat(u64),
    Cancel(usize),
    CancelOf(u64),
    Step(u64),
    Save,
    Load(usize),
    Forget(usize),
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        4 => (0..40_u64).prop_map(Do::Arm),
        2 => (1..20_u64).prop_map(Do::Repeat),
        2 => any::<usize>().prop_map(Do::Cancel),
        1 => (0..3_u64).prop_map(Do::CancelOf),
        4 => (0..30_u64).prop_map(Do::Step),
        2 => Just(Do::Save),
        3 => any::<usize>().prop_map(Do::Load),
        1 => any::<usize>().prop_map(Do::Forget),
    ];
    prop::collection::vec(step, 0..80)
}

/// The timers of a clock as a list that is searched.
#[derive(Clone, Default)]
struct Model {
    now: u64,
    /// Deadline, number in order of creation, period.
    timers: Vec<(u64, u64, u64)>,
}

impl Model {
    fn step(&mut self, ns: u64) -> Vec<(u64, u64)> {
        let until = self.now + ns;
        let mut fired = Vec::new();
        while let Some(at) = (0..self.timers.len()).min_by_key(|&at| self.timers.get(at)) {
            let (deadline, number, period) = self.timers.remove(at);
            if deadline > until {
                self.timers.push((deadline, number, period));
                break;
            }
            self.now = self.now.max(deadline);
            fired.push((number, deadline));
            if period > 0 {
                self.timers.push((deadline + period, number, period));
            }
        }
        self.now = until;
        fired
    }
}

proptest! {
    #[test]
    fn test_clock_put_back_at_random_does_what_a_list_of_timers_does(steps in steps()) {
        let (rig, mut model) = (Rig::new(), Model::default());
        let (mut kept, mut timers) = (Vec::<(Kept, Model)>::new(), Vec::<Timer>::new());
        for step in steps {
            let number = timers.len() as u64;
            match step {
                Do::Arm(ns) => {
                    model.timers.push((model.now + ns, number, 0));
                    timers.push(rig.clock().arm(When::After(ns), number % 3, rig.logs(number)).unwrap());
                }
                Do::Repeat(ns) => {
                    model.timers.push((model.now + ns, number, ns));
                    timers.push(rig.clock().arm(When::Every(ns), number % 3, rig.logs(number)).unwrap());
                }
                Do::Cancel(at) if !timers.is_empty() => {
                    let at = at % timers.len();
                    let was_set = model.timers.iter().any(|timer| timer.1 == at as u64);
                    model.timers.retain(|timer| timer.1 != at as u64);
                    prop_assert_eq!(rig.clock().cancel(timers.get(at).unwrap()), was_set);
                }
                Do::CancelOf(owner) => {
                    model.timers.retain(|timer| timer.1 % 3 != owner);
                    rig.clock().cancel_of(owner);
                }
                Do::Step(ns) => prop_assert_eq!(rig.step(ns), model.step(ns)),
                Do::Save => kept.push((rig.clock().save(), model.clone())),
                Do::Load(at) if !kept.is_empty() => {
                    let (state, then) = kept.get(at % kept.len()).unwrap();
                    rig.clock().load(state);
                    model = then.clone();
                }
                Do::Forget(at) if !kept.is_empty() => drop(kept.swap_remove(at % kept.len())),
                _ => {}
            }
            prop_assert_eq!((rig.clock().now(), rig.clock().timers()), (model.now, model.timers.len()));
            for (timer, number) in timers.iter().zip(0..) {
                let set = model.timers.iter().find(|it| it.1 == number).map(|it| it.0);
                prop_assert_eq!(timer.is_active().then(|| timer.deadline()), set);
            }
        }
    }
}
