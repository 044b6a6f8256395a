//! No allocation between two exits. A file, and so a process, of its own: the allocator is the process's.
#![allow(clippy::unwrap_used, missing_docs)]

use hyperpy_benches::alloc::{Counting, allocations};
use hyperpy_benches::{declared, dispatch, state};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn test_dispatch_many_exits_allocate_no_more_than_one() {
    for case in dispatch::CASES {
        let during = |exits| {
            let machine = dispatch::machine(case, exits).unwrap();
            let before = allocations();
            dispatch::run(&machine, exits).unwrap();
            allocations() - before
        };
        assert_eq!(during(100_000), during(1), "{case:?}");
    }
    for case in declared::DEVICES {
        let during = |exits| {
            let machine = declared::machine(case, exits).unwrap();
            let before = allocations();
            declared::run(&machine, exits).unwrap();
            allocations() - before
        };
        assert_eq!(during(100_000), during(1), "{case:?}");
    }
    // The counter counts: what the two have in common would else be nothing at all.
    let before = allocations();
    drop(Box::new(std::hint::black_box(7)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn test_load_of_a_state_allocates_nothing() {
    for irqchip in [false, true] {
        let mut hyperpy = state::Hyperpy::open(irqchip).unwrap();
        let before = allocations();
        for _ in 0..3 {
            hyperpy.load().unwrap();
        }
        assert_eq!(allocations() - before, 0, "{irqchip}");
        hyperpy.save().unwrap();
        assert!(allocations() - before > 0);
    }
}
