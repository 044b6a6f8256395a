//! Measures, and prints one JSON object a line; `run.py` makes the table. The other commands give the tools that
//! count something to hold on to: callgrind (`script`) and strace (`drive`).
#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::path::Path;
use std::process::ExitCode;

use hyperpy_benches::alloc::{Counting, allocations};
use hyperpy_benches::create;
use hyperpy_benches::declared::{self, DEVICES, Touch};
use hyperpy_benches::dispatch::{self, CASES, Case, Order};
use hyperpy_benches::exits::{self, GUESTS, Hyperpy};
use hyperpy_benches::{Failure, fuzz, pin, restore, snapshot_file, state};
use hyperpy_core::snapshot::file::Compress;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USAGE: &str = "usage: hyperpy-bench dispatch ROUNDS EXITS | exits ROUNDS EXITS | create ROUNDS LIVES | \
                     declared ROUNDS EXITS | fuzz-guest ROUNDS N | fuzz-loop SECONDS | declared-exits ROUNDS EXITS | state ROUNDS TIMES | restore ROUNDS RESTORES | \
                     fork ROUNDS FORKS | script REGIONS same|spread on|off EXITS | \
                     script declared REGISTERS read|write|fields EXITS | drive EXITS | snapshot-file ROUNDS MIB FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match command(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn command(words: &[&str]) -> Result<(), Failure> {
    match *words {
        ["dispatch", rounds, exits] => measure_dispatch(rounds.parse()?, exits.parse()?),
        ["exits", rounds, exits] => measure_exits(rounds.parse()?, exits.parse()?),
        ["create", rounds, lives] => measure_create(rounds.parse()?, lives.parse()?),
        ["restore", rounds, restores] => measure_restore(rounds.parse()?, restores.parse()?),
        ["fork", rounds, forks] => measure_fork(rounds.parse()?, forks.parse()?),
        ["fuzz-guest", rounds, executions] => measure_fuzz_guest(rounds.parse()?, executions.parse()?),
        ["fuzz-loop", seconds] => {
            println!("{}", fuzz::floor_rate(seconds.parse()?)?);
            Ok(())
        }
        ["fuzz-drive", executions] => fuzz::drive(executions.parse()?),
        ["declared", rounds, exits] => measure_declared(rounds.parse()?, exits.parse()?),
        ["declared-exits", rounds, exits] => measure_declared_exits(rounds.parse()?, exits.parse()?),
        ["snapshot-file", rounds, mib, folder] => {
            measure_snapshot_file(rounds.parse()?, mib.parse()?, Path::new(folder))
        }
        ["state", rounds, times] => measure_state(rounds.parse()?, times.parse()?),
        ["script", "declared", registers, access, exits] => {
            let access = Touch::named(access).ok_or(USAGE)?;
            let case = declared::Case { registers: registers.parse()?, access };
            let exits = exits.parse()?;
            declared::run(&declared::machine(case, exits)?, exits)
        }
        ["script", regions, order, trace, exits] => {
            let order = if order == "spread" { Order::Spread } else { Order::Same };
            let case = Case { regions: regions.parse()?, order, traced: trace == "on" };
            let exits = exits.parse()?;
            dispatch::run(&dispatch::machine(case, exits)?, exits)
        }
        ["drive", exits] => {
            let mut hyperpy = Hyperpy::open(&GUESTS[0])?;
            hyperpy.run(exits.parse()?)?;
            println!("{}", hyperpy.exits());
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

fn measure_dispatch(rounds: usize, exits: u64) -> Result<(), Failure> {
    pin()?;
    let mut samples = CASES.map(|_| Vec::new());
    for round in 0..=rounds {
        for (case, into) in CASES.iter().zip(&mut samples) {
            let sample = dispatch::ns_per_exit(*case, exits)?;
            if round > 0 {
                into.push(sample); // the first round is the warm-up
            }
        }
    }
    for (case, samples) in CASES.iter().zip(&samples) {
        let Case { regions, order, traced } = *case;
        let allocations = allocations_per_exit(*case, exits)?;
        println!(
            r#"{{"regions": {regions}, "order": "{order:?}", "traced": {traced}, "allocations": {allocations}, "ns": {samples:?}}}"#
        );
    }
    Ok(())
}

/// Allocations during a run, less those during a run of one exit, which are the price of starting and ending one.
fn allocations_per_exit(case: Case, exits: u64) -> Result<u64, Failure> {
    let during = |exits| {
        let machine = dispatch::machine(case, exits)?;
        let before = allocations();
        dispatch::run(&machine, exits)?;
        Ok::<_, Failure>(allocations() - before)
    };
    Ok(during(exits)?.saturating_sub(during(1)?))
}

fn measure_declared(rounds: usize, exits: u64) -> Result<(), Failure> {
    pin()?;
    let mut samples = DEVICES.map(|_| Vec::new());
    for round in 0..=rounds {
        for (case, into) in DEVICES.iter().zip(&mut samples) {
            let sample = declared::ns_per_exit(*case, exits)?;
            if round > 0 {
                into.push(sample); // the first round is the warm-up
            }
        }
    }
    for (case, samples) in DEVICES.iter().zip(&samples) {
        let during = |exits| {
            let machine = declared::machine(*case, exits)?;
            let before = allocations();
            declared::run(&machine, exits)?;
            Ok::<_, Failure>(allocations() - before)
        };
        let allocations = during(exits)?.saturating_sub(during(1)?);
        let (registers, access) = (case.registers, case.access.name());
        println!(
            r#"{{"registers": {registers}, "access": "{access}", "allocations": {allocations}, "ns": {samples:?}}}"#
        );
    }
    Ok(())
}

fn measure_declared_exits(rounds: usize, exits: u64) -> Result<(), Failure> {
    pin()?;
    for guest in declared::guests() {
        let (declared, floor): (Vec<f64>, Vec<f64>) =
            declared::compare(guest, rounds, exits)?.iter().map(|round| (round.declared, round.floor)).unzip();
        println!(r#"{{"guest": "{}", "declared_ns": {declared:?}, "floor_ns": {floor:?}}}"#, guest.name);
    }
    Ok(())
}

fn measure_create(rounds: usize, lives: usize) -> Result<(), Failure> {
    let rounds = create::compare(rounds, lives)?;
    let hyperpy: Vec<f64> = rounds.iter().map(|round| round.hyperpy).collect();
    let floor: Vec<f64> = rounds.iter().map(|round| round.floor).collect();
    println!(r#"{{"hyperpy_us": {hyperpy:?}, "floor_us": {floor:?}}}"#);
    Ok(())
}

fn measure_snapshot_file(rounds: usize, mib: usize, folder: &Path) -> Result<(), Failure> {
    for (name, compress) in [("none", Compress::No), ("zstd", Compress::Zstd)] {
        let (hyperpy, floor): (Vec<f64>, Vec<f64>) = snapshot_file::compare(folder, mib, compress, rounds)?
            .iter()
            .map(|round| (round.hyperpy, round.floor))
            .unzip();
        println!(r#"{{"compress": "{name}", "hyperpy_s": {hyperpy:?}, "floor_s": {floor:?}}}"#);
    }
    Ok(())
}

fn measure_state(rounds: usize, times: usize) -> Result<(), Failure> {
    pin()?;
    for irqchip in [false, true] {
        for act in state::ACTS {
            let rounds = state::compare(irqchip, act, rounds, times)?;
            let (hyperpy, floor): (Vec<f64>, Vec<f64>) = rounds.iter().map(|r| (r.hyperpy, r.floor)).unzip();
            let name = act.name();
            println!(r#"{{"act": "{name}", "irqchip": {irqchip}, "hyperpy_us": {hyperpy:?}, "floor_us": {floor:?}}}"#);
        }
    }
    Ok(())
}

fn measure_restore(rounds: usize, restores: usize) -> Result<(), Failure> {
    pin()?;
    for (mib, pages, rings) in [64, 512]
        .into_iter()
        .flat_map(|mib| [1, 10, 100, 1_000].map(|pages| [(mib, pages, true), (mib, pages, false)]))
        .flatten()
    {
        let rounds = restore::compare(mib, pages, rings, rounds, restores)?;
        let column = |of: fn(&restore::Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
        let (hyperpy, floor) = (column(|r| r.hyperpy), column(|r| r.floor));
        let (turn, floor_turn) = (column(|r| r.hyperpy_turn), column(|r| r.floor_turn));
        let allocations: u64 = rounds.iter().map(|round| round.allocations).sum();
        println!(
            r#"{{"mib": {mib}, "pages": {pages}, "rings": {rings}, "allocations": {allocations}, "hyperpy_us": {hyperpy:?}, "floor_us": {floor:?}, "hyperpy_turn_us": {turn:?}, "floor_turn_us": {floor_turn:?}}}"#
        );
    }
    Ok(())
}

fn measure_fuzz_guest(rounds: usize, executions: usize) -> Result<(), Failure> {
    pin()?;
    for guest in fuzz::GUESTS {
        let (hyperpy, floor): (Vec<f64>, Vec<f64>) = fuzz::compare(guest, rounds, executions)?.into_iter().unzip();
        let name = guest.name();
        println!(r#"{{"guest": "{name}", "hyperpy_us": {hyperpy:?}, "floor_us": {floor:?}}}"#);
    }
    Ok(())
}

fn measure_fork(rounds: usize, forks: usize) -> Result<(), Failure> {
    pin()?;
    for (mib, pages) in [(64, 0), (64, 100), (64, 1_000), (512, 0), (512, 100), (512, 1_000)] {
        let (hyperpy, floor): (Vec<f64>, Vec<f64>) = restore::forks(mib, pages, rounds, forks)?.into_iter().unzip();
        println!(r#"{{"fork_mib": {mib}, "pages": {pages}, "hyperpy_us": {hyperpy:?}, "floor_us": {floor:?}}}"#);
    }
    let kib = restore::kib_per_child(512, 100)?;
    println!(r#"{{"kib_per_child": {kib}}}"#);
    Ok(())
}

fn measure_exits(rounds: usize, exits: u64) -> Result<(), Failure> {
    pin()?;
    for guest in &GUESTS {
        let rounds = exits::compare(guest, rounds, exits)?;
        let column = |of: fn(&exits::Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
        let (hyperpy, traced, floor) = (column(|r| r.hyperpy), column(|r| r.traced), column(|r| r.floor));
        let name = guest.name;
        println!(r#"{{"guest": "{name}", "hyperpy_ns": {hyperpy:?}, "traced_ns": {traced:?}, "floor_ns": {floor:?}}}"#);
    }
    Ok(())
}
