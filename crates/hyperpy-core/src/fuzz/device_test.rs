//! A campaign on devices in Rust: what it finds, and that a seed decides all of it.

use super::*;
use crate::bus::{Access, Action, DeviceMut, Exclusive};
use crate::clock::Clock;
use crate::fuzz::shape::undeclared;
use crate::snapshot::{Saved, State, StateFault, Value};

/// A queue of eight bytes behind a key, which panics when a ninth one comes.
#[derive(Default)]
struct Queue {
    is_open: bool,
    level: u64,
}

impl DeviceMut for Queue {
    fn read(&mut self, at: Access) -> u64 {
        if at.offset == 0 { self.level } else { 0xFF }
    }
    fn write(&mut self, at: Access, value: u64) -> Action {
        match at.offset {
            0 => self.is_open = value == 0x5A,
            1 if self.is_open => self.level += 1,
            _ => {}
        }
        assert!(self.level <= 8, "queue overflows");
        Action::Continue
    }
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(Value::List(vec![u64::from(self.is_open).into(), self.level.into()])))
    }
    fn load(&mut self, _: &dyn Saved) -> Result<(), StateFault> {
        self.reset();
        Ok(())
    }
}

fn bench() -> Bench {
    Bench::new(Arc::new(Exclusive::new(Queue::default())), "queue", 4, Arc::new(Clock::manual()))
}

fn campaign(seed: u64, executions: usize) -> (DeviceLoop, Vec<Vec<u8>>) {
    let shape = Arc::new(Shape::new(4, undeclared(4)));
    let mut looped = DeviceLoop::new(shape, seed, Words::new(Vec::new(), vec![0x5A]));
    let (bench, mut found) = (bench(), Vec::new());
    let mut subject = OnBench::new(&bench, None);
    for _ in 0..executions {
        looped.prepare();
        if looped.run(&mut subject).0.trouble.is_some() {
            assert!(matches!(subject.error, Some(RunError::Panic { .. })));
            found.push(looped.input().to_vec());
        }
    }
    (looped, found)
}

#[test]
fn test_panic_behind_a_key_and_a_full_queue_is_found() {
    let (looped, found) = campaign(1, 5000);
    assert!(!found.is_empty(), "{:?}", looped.statistics());
}

#[test]
fn test_same_seed_gives_the_same_findings_and_corpus() {
    let [(mut one, found), (mut two, again)] = [campaign(2, 2000), campaign(2, 2000)];
    assert_eq!(found, again);
    assert_eq!(one.statistics(), two.statistics());
    assert_eq!(one.engine().corpus().entries(), two.engine().corpus().entries());
}

#[test]
fn test_every_input_begins_with_the_same_device_and_time() {
    let shape = Shape::new(4, undeclared(4));
    let bench = bench();
    let (mut subject, mut counters, mut ops) = (OnBench::new(&bench, None), Counters::default(), Ops::default());
    ops.push(Op::Write { offset: 0, size: 1, value: 0x5A });
    ops.push(Op::Write { offset: 1, size: 1, value: 0 });
    ops.push(Op::Step { ns: 500 });
    ops.push(Op::Read { offset: 0, size: 1 });
    for _ in 0..20 {
        let mut levels = Vec::new();
        let done = execute(&shape, &ops, &mut subject, &mut counters, |answer| levels.push(answer.clone()));
        assert_eq!(done, Execution { operations: 4, trouble: None });
        assert_eq!((levels, bench.clock().now()), (vec![Answer::Value(1)], 500));
    }
}

thread_local! {
    /// What counts in the code of a device that was built for it.
    static RAN: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

fn take(counters: Option<&mut Counters>) {
    let times = RAN.take();
    if let Some(counters) = counters {
        counters.add(1, times);
    }
}

/// Counts its writes, and panics at one of them.
struct Counting;

impl DeviceMut for Counting {
    fn read(&mut self, _: Access) -> u64 {
        0
    }
    fn write(&mut self, _: Access, value: u64) -> Action {
        RAN.set(RAN.get() + 1);
        assert!(value != 7, "seven");
        Action::Continue
    }
    fn reset(&mut self) {
        RAN.set(RAN.get() + 1);
    }
}

#[test]
fn test_what_a_failed_input_and_a_reset_covered_is_not_the_next_ones() {
    let shape = Shape::new(4, undeclared(4));
    let bench = Bench::new(Arc::new(Exclusive::new(Counting)), "counting", 4, Arc::new(Clock::manual()));
    let mut subject = OnBench::new(&bench, None);
    subject.covered = Some(take);
    let mut counted = |values: &[u64]| {
        let (mut counters, mut ops) = (Counters::default(), Ops::default());
        for &value in values {
            ops.push(Op::Write { offset: 0, size: 1, value });
        }
        let done = execute(&shape, &ops, &mut subject, &mut counters, |_| {});
        (done.trouble, counters.count(1))
    };
    assert_eq!(counted(&[1, 1, 7]), (Some(Trouble::Found), 0));
    assert_eq!(counted(&[1]), (None, 1));
    assert_eq!(counted(&[]), (None, 0));
}

#[test]
fn test_what_putting_a_device_back_takes_is_measured() {
    let mut looped = DeviceLoop::new(Arc::new(Shape::new(4, undeclared(4))), 1, Words::default());
    assert_eq!(looped.reset(), None);
    let bench = bench();
    looped.prepare();
    looped.run(&mut OnBench::new(&bench, None));
    assert!(looped.reset().is_some());
}

thread_local! {
    /// What the code of a device that was built for it compared.
    static COMPARED: std::cell::RefCell<Vec<(u64, u64)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Panics for a key that nobody is told of.
struct Locked;

impl DeviceMut for Locked {
    fn read(&mut self, _: Access) -> u64 {
        0
    }
    fn write(&mut self, _: Access, value: u64) -> Action {
        COMPARED.with_borrow_mut(|all| all.push((value, 0xC0DE_5EED)));
        assert!(value != 0xC0DE_5EED, "unlocked");
        Action::Continue
    }
}

#[test]
fn test_what_a_device_compares_is_in_later_inputs() {
    let bench = Bench::new(Arc::new(Exclusive::new(Locked)), "locked", 4, Arc::new(Clock::manual()));
    let found = |compared: Option<Compared>| {
        let mut looped = DeviceLoop::new(Arc::new(Shape::new(4, undeclared(4))), 1, Words::default());
        let mut subject = OnBench::new(&bench, None);
        subject.compared = compared;
        (0..3000).any(|_| {
            looped.prepare();
            looped.run(&mut subject).0.trouble.is_some()
        })
    };
    assert!(!found(None));
    assert!(found(Some(|| COMPARED.take())));
}
