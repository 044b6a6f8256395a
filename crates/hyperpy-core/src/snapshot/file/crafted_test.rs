//! Files whose checksums are right and whose contents cannot be: each kind is refused by name.

use super::error::Part;
use super::format::{Header, PAGE, Run};
use super::hostile_tests::{Parts, folder_and_path, read};
use super::value_codec;
use super::*;

// fault row 27
#[test]
fn test_runs_that_cannot_be_are_refused() {
    let (_folder, path) = folder_and_path("runs");
    let parts = Parts::new(Compress::No);
    let run = |region, page, stored, count| Run { page, stored, region, count };
    let all = run(0, 0, 0, 4);
    read(&path, &parts.with_runs(&[all]).file()).unwrap();
    read(&path, &parts.with_runs(&[all, run(0, 4, 1, 2), run(1, 0, 0, 4)]).file()).unwrap();
    for (runs, what) in [
        (vec![all, run(0, 64, 0, 1)], "a page is outside of its region"),
        (vec![all, run(0, 63, 0, 2)], "a page is outside of its region"),
        (vec![all, run(2, 0, 0, 1)], "a page is outside of its region"),
        (vec![all, run(1, u64::MAX, 0, 1)], "a run of no pages"),
        (vec![all, run(1, 0, 0, 0)], "a run of no pages"),
        (vec![all, run(0, 3, 0, 1)], "a page is there twice, or out of order"),
        (vec![run(0, 4, 0, 4), run(0, 2, 0, 1)], "a page is there twice, or out of order"),
        (vec![run(1, 0, 0, 4), run(0, 0, 0, 1)], "a page is there twice, or out of order"),
        (vec![all, run(1, 0, 3, 2)], "a page is of none in the file"),
        (vec![all, run(1, 0, u64::MAX, 1)], "a page is of none in the file"),
        (vec![run(0, 0, 1, 3), run(0, 3, 0, 1)], "a page is of none in the file"),
        (vec![run(0, 0, 0, 3)], "a page in the file is of no region"),
        (vec![], "a page in the file is of no region"),
    ] {
        match read(&path, &parts.with_runs(&runs).file()) {
            Err(LoadError::Malformed { part: Part::Runs, what: told }) => assert_eq!(told, what, "{runs:?}"),
            other => panic!("{runs:?}: {other:?}"),
        }
    }
}

// fault row 27
#[test]
fn test_blocks_that_cannot_be_are_refused() {
    let (_folder, path) = folder_and_path("blocks");
    let parts = Parts::new(Compress::No);
    let noise: Vec<u8> = (0..4 * PAGE as u32).map(|at| (at.wrapping_mul(at) >> 7) as u8 & 0x0f).collect();
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    read(&path, &parts.with_block(&noise, 0, 4).file()).unwrap();
    read(&path, &parts.with_block(&packed(&noise), 1, 4).file()).unwrap();
    let bomb = packed(&vec![7; 64 * PAGE]);
    assert!(bomb.len() * 1024 < 64 * PAGE);
    let table = "a block of another kind or length";
    let content = "it does not unpack to whole pages";
    for (data, kind, pages, what) in [
        (&noise[..], 0, 3, table),
        (&noise[..], 2, 4, table),
        (&noise[..], 1, 4, table),
        (&[][..], 1, 1, table),
        (&bomb, 1, 64, table),
        (&bomb, 1, 4, content),
        (&packed(&noise), 1, 3, content),
        (&packed(&noise[..3 * PAGE]), 1, 4, content),
        (&noise[..PAGE], 1, 4, content),
    ] {
        match read(&path, &parts.with_block(data, kind, pages).file()) {
            Err(LoadError::Malformed { what: told, .. }) => {
                assert_eq!(told, what, "{} bytes, {pages} pages", data.len())
            }
            other => panic!("{} bytes, {pages} pages: {other:?}", data.len()),
        }
    }
    let mut unflagged = parts.with_block(&packed(&noise), 1, 4);
    unflagged.header.flags = 0;
    assert!(matches!(read(&path, &unflagged.file()), Err(LoadError::Malformed { part: Part::Blocks, .. })));
}

fn node(tag: u64, number: u64) -> Vec<u8> {
    [tag.to_le_bytes(), number.to_le_bytes()].concat()
}

/// Plain data of a file without regions and with a state of these bytes.
fn tree_with_state(state: &[u8]) -> Vec<u8> {
    let mut tree = Vec::new();
    value_codec::map(&mut tree, 4);
    for (name, value) in
        [("made_by", node(5, 0)), ("created_ns", node(2, 0)), ("regions", node(7, 0)), ("state", vec![])]
    {
        value_codec::text(&mut tree, name);
        tree.extend_from_slice(&value);
    }
    tree.extend_from_slice(state);
    tree
}

// fault row 27
#[test]
fn test_plain_data_that_cannot_be_is_refused() {
    let (_folder, path) = folder_and_path("tree");
    let parts = Parts {
        header: Header { stored: 0, ..Parts::new(Compress::No).header },
        data: vec![],
        runs: vec![],
        blocks: vec![],
        ..Parts::new(Compress::No)
    };
    let with_state = |state: &[u8]| Parts { tree: tree_with_state(state), ..parts.clone() }.file();
    read(&path, &with_state(&node(0, 0))).unwrap();
    let nested = |levels| [node(7, 1).repeat(levels), node(0, 0)].concat();
    read(&path, &with_state(&nested(62))).unwrap();
    let name = |text: &str| [node(5, text.len() as u64), text.into()].concat();
    let entry = |text: &str| [name(text), node(0, 0)].concat();
    let many: Vec<u8> = (0..1000).flat_map(|number| entry(&format!("{number}"))).collect();
    for (state, what) in [
        (vec![], "it ends too early"),
        (node(9, 0), "a value of no kind"),
        (node(u64::MAX, 0), "a value of no kind"),
        (node(0, 1), "a value of no kind"),
        (node(1, 2), "a value of no kind"),
        (node(3, 0), "it ends too early"),
        ([node(3, 0), node(1, 0)].concat(), "a number is longer than it needs to be"),
        (node(5, 1), "something is longer than the rest"),
        (node(6, u64::MAX), "something is longer than the rest"),
        ([node(5, 1), vec![0xff]].concat(), "text is not UTF-8"),
        (node(7, 1), "a count is larger than the rest"),
        (node(7, u64::MAX), "a count is larger than the rest"),
        (node(7, 1 << 60), "a count is larger than the rest"),
        (node(8, u64::MAX), "a count is larger than the rest"),
        // What the outer one needs, the inner one cannot have.
        ([node(7, 3), node(7, 1), node(0, 0), node(0, 0)].concat(), "a count is larger than the rest"),
        ([node(7, 2), node(7, 2), node(0, 0), node(0, 0)].concat(), "a count is larger than the rest"),
        ([node(7, 2), node(6, 17), node(0, 0), node(0, 0)].concat(), "something is longer than the rest"),
        ([node(8, 1), node(0, 0), node(0, 0)].concat(), "a name is no text"),
        ([node(8, 2), entry("a"), entry("a")].concat(), "a name is there twice"),
        ([node(8, 1001), many, entry("7")].concat(), "a name is there twice"),
        ([node(0, 0), node(0, 0)].concat(), "something comes after it"),
        (nested(63), "it is nested too deeply"),
        (nested(100_000), "it is nested too deeply"),
    ] {
        match read(&path, &with_state(&state)) {
            Err(LoadError::Malformed { part: Part::Tree, what: told }) => assert_eq!(told, what, "{state:?}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

// fault row 27
#[test]
fn test_tree_that_is_no_snapshots_is_refused() {
    let (_folder, path) = folder_and_path("names");
    let parts = Parts { data: vec![], runs: vec![], blocks: vec![], ..Parts::new(Compress::No) };
    let parts = Parts { header: Header { stored: 0, ..parts.header }, ..parts };
    let region = |gpa: i128, len: i128| {
        Value::map([
            ("name", "r".into()),
            ("gpa", Value::Int(gpa)),
            ("len", Value::Int(len)),
            ("about", Value::Nothing),
        ])
    };
    let whole = |regions: Vec<Value>| {
        let names = [
            ("made_by", "x".into()),
            ("created_ns", 1_u8.into()),
            ("regions", Value::List(regions)),
            ("state", true.into()),
        ];
        Value::map(names)
    };
    let file = |tree: &Value| {
        let mut bytes = Vec::new();
        value_codec::value(&mut bytes, tree, 0).unwrap();
        Parts { tree: bytes, ..parts.clone() }.file()
    };
    // Memory that no host has is no harm while nobody makes it.
    let huge = file(&whole(vec![region(0, 1 << 63)]));
    assert_eq!(read(&path, &huge).unwrap().info().zero, 1 << 51);
    let without = |name: &str| {
        let Value::Map(entries) = whole(vec![]) else { unreachable!() };
        Value::Map(entries.into_iter().filter(|(key, _)| **key != *name).collect())
    };
    let mut wrong = vec![Value::Nothing, Value::List(vec![]), Value::map([])];
    wrong.extend(["made_by", "created_ns", "regions", "state"].map(without));
    wrong.push(whole(vec![Value::Nothing]));
    for (gpa, len) in [(-1, 4096), (1, 4096), (0, 0), (0, 5), (0, 1 << 64), (1 << 63, 1 << 63), (-4096, 4096)] {
        wrong.push(whole(vec![region(gpa, len)]));
    }
    wrong.push(whole(vec![region(0, 8192), region(4096, 4096)]));
    wrong.push(whole(vec![region(4096, 4096), region(0, 4096)]));
    for tree in wrong {
        let error = read(&path, &file(&tree)).expect_err("what is no snapshot was read");
        assert!(matches!(error, LoadError::Malformed { part: Part::Tree, .. }), "{tree:?}: {error}");
    }
}
