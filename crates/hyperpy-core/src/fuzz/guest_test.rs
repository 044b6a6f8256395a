#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::accel::AccelExit;
use crate::fuzz::havoc::Words;
use crate::scripted::Step;
use crate::testing::Rig;

fn halts(times: usize) -> Vec<Step> {
    (0..times).map(|_| Step::Exit(AccelExit::Halt, vec![])).collect()
}

fn fuzzer(rig: &Rig, plan: Plan) -> Result<GuestLoop, GuestError> {
    let base = rig.machine.snapshot(rig).unwrap();
    GuestLoop::new(rig.machine.clone(), &base, plan, 1, Words::default(), rig)
}

fn at(at: u64, most: u64) -> Place {
    Place::Memory { at, is_linear: false, most, length: None }
}

#[test]
fn test_turn_of_a_guest_that_halts_is_no_finding_and_counts() {
    let rig = Rig::new(vec![halts(3)]);
    let plan = Plan { places: vec![at(0x8000, 16)], comparisons: false, ..Plan::default() };
    let mut fuzzer = fuzzer(&rig, plan).unwrap();
    for _ in 0..3 {
        let turn = fuzzer.turn(&rig).unwrap();
        assert!(turn.finding.is_none() && !turn.is_kept && fuzzer.input().len() <= 16);
    }
    assert_eq!(fuzzer.statistics().executions, 3);
}

#[test]
fn test_turn_that_ends_in_a_shutdown_is_found_once() {
    let down = || Step::Exit(AccelExit::Shutdown, vec![]);
    let rig = Rig::new(vec![vec![down(), down()]]);
    let mut fuzzer = fuzzer(&rig, Plan { places: vec![at(0x8000, 16)], ..Plan::default() }).unwrap();
    let finding = fuzzer.turn(&rig).unwrap().finding.unwrap();
    assert_eq!(finding.what, triage::What::Exit(ExitKind::Shutdown));
    assert!(fuzzer.turn(&rig).unwrap().finding.is_none());
    assert_eq!(fuzzer.statistics().executions, 2);
}

#[test]
fn test_turn_that_the_host_ends_counts_for_nothing() {
    let rig = Rig::new(vec![vec![Step::Spin; 1000]]);
    let mut fuzzer = fuzzer(&rig, Plan { places: vec![at(0x8000, 16)], ..Plan::default() }).unwrap();
    rig.wanted.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(fuzzer.turn(&rig).is_err());
    assert_eq!(fuzzer.statistics().executions, 0);
    rig.wanted.store(false, std::sync::atomic::Ordering::SeqCst);
}

#[test]
fn test_plan_that_does_not_fit_the_guest_is_refused() {
    let refused = |plan: Plan| fuzzer(&Rig::new(vec![vec![]]), plan).unwrap_err().to_string();
    let outside = Plan { places: vec![at((1 << 20) - 8, 16)], ..Plan::default() };
    assert!(refused(outside).starts_with("no memory for an input of 16 bytes at"));
    let long = Plan { places: vec![at(0, 1 << 16), at(0, 1)], ..Plan::default() };
    assert_eq!(refused(long), "input is too long: 65537");
    let nowhere = Wanted { stops: vec![1 << 30], ..Wanted::default() };
    assert_eq!(refused(Plan { wanted: nowhere, ..Plan::default() }), "no memory behind the code at 0x40000000");
    let many = Rig::with_irqchip(vec![vec![], vec![]], true);
    let steps = Plan { steps: true, ..Plan::default() };
    assert_eq!(fuzzer(&many, steps).unwrap_err().to_string(), "steps are of one vcpu, and this machine has 2");
}

#[test]
fn test_patches_are_in_the_base_and_out_of_what_is_looked_at() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.memory.write(0x1000, &[0x90, 0x90]).unwrap();
    let wanted = Wanted { stops: vec![0x1000], blocks: vec![0x1001], ..Wanted::default() };
    let fuzzer = fuzzer(&rig, Plan { wanted, ..Plan::default() }).unwrap();
    let read = || {
        let mut code = [0; 2];
        rig.machine.memory.read(0x1000, &mut code).unwrap();
        code
    };
    assert_eq!((read(), fuzzer.blocks()), ([0xf4, 0xf4], (1, 1)));
    // What the guest has written there itself stays.
    rig.machine.memory.write(0x1001, &[0x55]).unwrap();
    fuzzer.take_patches_out().unwrap();
    assert_eq!(read(), [0x90, 0x55]);
}

#[test]
fn test_blocks_that_others_have_hit_are_out_of_the_base_at_once() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.memory.write(0x1000, &[0x90; 3]).unwrap();
    let wanted = Wanted { stops: vec![0x1000], blocks: vec![0x1001, 0x1002], ..Wanted::default() };
    let plan = Plan { wanted, places: vec![at(0x8000, 4)], ..Plan::default() };
    let mut fuzzer = fuzzer(&rig, plan).unwrap();
    assert!(fuzzer.news().is_empty());
    let news = [(b"input".to_vec(), vec![0x1001, 0x1000, 0x5000]), (b"none".to_vec(), vec![0x1001])];
    fuzzer.learn(&news, &rig).unwrap();
    let mut code = [0; 3];
    rig.machine.memory.read(0x1000, &mut code).unwrap();
    // Where inputs end the byte stays, whoever names it.
    assert_eq!((code, fuzzer.blocks(), fuzzer.stops()), ([0xf4, 0x90, 0xf4], (1, 2), 0));
    assert_eq!(fuzzer.corpus(0).collect::<Vec<_>>(), [b"inpu"]);
    assert!(fuzzer.news().is_empty());
}
