//! Images of registers: put back after anything, the same as plain data, and nothing of one that does not fit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use proptest::prelude::*;

use super::super::pair::layouts::{KINDS, Named};
use super::super::{Rule, pair::Log};
use super::*;
use crate::bus::Access;
use crate::clock::Clock;

/// Registers on a clock that only steps move.
struct Kit {
    file: RegisterFile,
    clock: Arc<Clock>,
    log: Log,
}

impl Kit {
    fn new(layout: &Arc<Layout>) -> Self {
        let (file, clock) = (RegisterFile::new(layout.clone()), Arc::new(Clock::manual()));
        file.set_clock(clock.clone());
        Self { file, clock, log: Log::default() }
    }

    /// What guests and the owner see.
    fn play(&self, steps: &[Step], size: u64) -> Vec<u64> {
        let one = |&(kind, offset, width, value): &Step| {
            let at = Access { offset: offset % size, size: width, vcpu: 0 };
            match kind {
                0..=3 => self.file.read(at, &self.log),
                4..=7 => {
                    let _ = self.file.write(at, value, &self.log);
                    0
                }
                8 => self.clock.step(value % 1_000_000_000).map_or(1, |()| 0),
                _ => {
                    let id = (offset % self.file.layout().cells().len() as u64) as u32;
                    self.file.set_threshold(id, (value % 3) as usize);
                    u64::from(self.file.push(id, value)) + self.file.get(id).unwrap()
                }
            }
        };
        steps.iter().map(one).collect()
    }

    fn value(&self) -> Value {
        self.file.save().value()
    }
}

/// What is done, offset or register, width, value.
type Step = (u8, u64, u8, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..10_u8, 0..64_u64, 1..=8_u8, any::<u64>()), 0..60)
}

fn layout(named: &Named, rule: Rule) -> Arc<Layout> {
    let names = (0..named.cells.len()).map(|id| format!("r{id}").into()).collect();
    Arc::new(Layout::new(named.cells.clone(), named.size, rule, false).unwrap().named(names).of_schema(3))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn test_registers_put_back_do_what_they_did_from_there_on(
        (before, after, then) in (steps(), steps(), steps()), rule in 0..4_usize,
    ) {
        for kind in KINDS {
            let named = kind();
            let rule = [Rule::Exact, Rule::Split, Rule::Widen, Rule::Refuse][rule];
            let layout = layout(&named, rule);
            let kit = Kit::new(&layout);
            kit.play(&before, named.size);
            let (image, time) = (kit.file.save(), kit.clock.save());
            let value = image.value();
            let expected = kit.play(&then, named.size);
            kit.play(&after, named.size);
            kit.clock.load(&time);
            kit.file.load(&image).unwrap();
            prop_assert_eq!(kit.value(), value.clone(), "{}", named.name);
            prop_assert_eq!(kit.play(&then, named.size), expected.clone(), "{}", named.name);
            // Of the same declaration made again, as in another process: by names.
            let other = Kit::new(&self::layout(&named, rule));
            let _ = other.clock.step(time.now());
            other.file.load(&image).unwrap();
            prop_assert_eq!(other.value(), value, "{}", named.name);
            prop_assert_eq!(other.play(&then, named.size), expected, "{}", named.name);
        }
    }
}

#[test]
fn test_counter_put_back_with_its_clock_shows_what_it_showed_and_counts_on() {
    let named = KINDS.into_iter().map(|kind| kind()).find(|it| it.name == "counters").unwrap();
    let kit = Kit::new(&layout(&named, Rule::Split));
    let id = named.cells.iter().position(|cell| matches!(cell.kind, Kind::Counter { .. })).unwrap() as u32;
    let _ = kit.clock.step(3_000_000_000);
    let (shown, image, time) = (kit.file.get(id), kit.file.save(), kit.clock.save());
    let _ = kit.clock.step(1_000_000_000);
    kit.file.set(id, 5, u64::MAX);
    kit.clock.load(&time);
    kit.file.load(&image).unwrap();
    assert_eq!(kit.file.get(id), shown);
}

#[test]
fn test_state_that_does_not_fit_is_refused_and_changes_nothing() {
    for kind in KINDS {
        let named = kind();
        let kit = Kit::new(&layout(&named, Rule::Split));
        kit.play(&[(9, 1, 1, 7), (9, 0, 1, 9), (8, 0, 1, 12_345)], named.size);
        let before = kit.value();
        let Value::Map(registers) = before.get("registers").unwrap().clone() else { unreachable!() };
        let state = |schema: i64, registers: Vec<_>| {
            Value::map([("schema", Plain::value(&schema)), ("registers", Value::Map(registers))])
        };
        let mut wrong = vec![Value::Nothing, state(2, registers.clone()), Value::map([("schema", 3_u8.into())])];
        wrong.push(state(3, [registers.clone(), vec![("more".into(), 0_u8.into())]].concat()));
        for at in 0..registers.len() {
            let mut without = registers.clone();
            let taken = without.remove(at);
            wrong.push(state(3, without));
            wrong.push(state(3, [registers.clone(), vec![taken]].concat()));
            let large = Value::List(vec![Value::Int(0); 1 << 10]);
            let queue = |items, lost: i128, threshold: i128| {
                Value::map([("items", items), ("lost", Value::Int(lost)), ("threshold", Value::Int(threshold))])
            };
            let none = || Value::List(Vec::new());
            for value in [
                Value::Int(-1),
                Value::Int(1 << 64),
                Value::Text("0".into()),
                Value::Bytes(Box::default()),
                large.clone(),
                queue(large, 0, 0),
                queue(Value::List(vec![Value::Int(1 << 64)]), 0, 0),
                queue(none(), -1, 0),
                queue(none(), 0, 1 << 40),
            ] {
                let mut changed = registers.clone();
                changed[at].1 = value;
                wrong.push(state(3, changed));
            }
        }
        for state in wrong {
            let refused = kit.file.load_value(&state);
            assert!(matches!(refused, Err(StateFault::Misfit(_))), "{}: {state:?}", named.name);
            assert_eq!(kit.value(), before);
        }
        kit.file.load_value(&before).unwrap();
        assert_eq!(kit.value(), before);
    }
}

#[test]
fn test_threshold_set_above_the_depth_is_the_depth_and_is_put_back() {
    let cells = vec![super::super::pair::layouts::queue(0, 1, true, crate::regfile::Overflow::Drop)];
    let file = RegisterFile::new(Arc::new(Layout::new(cells, 1, Rule::Split, false).unwrap()));
    file.set_threshold(0, usize::MAX);
    assert_eq!(file.threshold(0), 3);
    file.load_value(&file.save().value()).unwrap();
    assert_eq!(file.threshold(0), 3);
}
