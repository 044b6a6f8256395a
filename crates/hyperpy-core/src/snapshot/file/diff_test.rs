//! Differences: every page and every value that differs, and no other.

use super::super::tests::{Book, Folder, contents, region};
use super::super::{Compress, SnapshotFile, save};
use super::*;

fn file(folder: &Folder, name: &str, state: &Value, book: &Book, compress: Compress) -> SnapshotFile {
    let path = folder.0.join(name);
    save(&path, &contents(state, &[region(0, 300), region(1 << 21, 8)], book), compress).unwrap();
    SnapshotFile::open(&path).unwrap()
}

fn range(region: &str, gpa: u64, count: u64) -> PageRange {
    PageRange { region: region.into(), gpa, count }
}

#[test]
fn test_pages_that_differ_are_told_by_range() {
    let folder = Folder::new("diff-pages");
    let old = Book::new(&[&[(0, 1), (1, 2), (2, 2), (3, 3), (10, 4), (299, 5)], &[(7, 1)]]);
    let new = Book::new(&[&[(0, 1), (1, 3), (2, 4), (3, 3), (4, 9), (5, 0), (299, 5)], &[(0, 1), (7, 2)]]);
    let old = file(&folder, "old", &Value::Nothing, &old, Compress::No);
    let new = file(&folder, "new", &Value::Nothing, &new, Compress::Zstd);
    let low = "at 0x0";
    let high = "at 0x200000";
    let expected = [
        range(low, 0x1000, 2),
        range(low, 0x4000, 1),
        range(low, 0xa000, 1),
        range(high, 0x20_0000, 1),
        range(high, 0x20_7000, 1),
    ];
    assert_eq!(diff(&old, &new).unwrap(), Diff { pages: expected.into(), ..Diff::default() });
    assert_eq!(diff(&old, &old).unwrap(), Diff::default());
}

#[test]
fn test_page_stored_as_zero_is_no_difference_to_one_that_is_not_there() {
    let old = Side { runs: &[Run { page: 1, stored: 0, region: 0, count: 1 }], sums: &[77], zero: 77 };
    let new = Side { runs: &[], sums: &[], zero: 77 };
    pages([old, new], &mut |page, _| panic!("page {page} differs"));
}

fn named(name: &str, value: u64) -> Value {
    Value::map([("name", name.into()), ("value", value.into())])
}

#[test]
fn test_items_with_names_are_told_by_them_and_held_against_their_like() {
    let list = |items: &[(&str, u64)]| Value::List(items.iter().map(|(name, value)| named(name, *value)).collect());
    let told = |old: &[(&str, u64)], new: &[(&str, u64)]| {
        changes(&list(old), &list(new)).into_iter().map(|change| change.path.to_string()).collect::<Vec<_>>()
    };
    let old = [("uart", 1), ("bell", 2), ("a timer", 3)];
    assert_eq!(
        told(&old, &[("nic", 9), ("uart", 1), ("bell", 4), ("a timer", 5)]),
        ["[bell].value", "[\"a timer\"].value", "[nic]"]
    );
    assert_eq!(told(&old, &[("uart", 1), ("a timer", 3)]), ["[bell]"]);
    // The order is one more thing to differ in, and a name that is there twice tells nothing.
    assert_eq!(told(&old, &[("bell", 2), ("uart", 1), ("a timer", 3)]).len(), 4);
    assert_eq!(told(&[("bell", 1), ("bell", 2)], &[("bell", 1), ("bell", 3)]), ["[1].value"]);
    assert!(told(&old, &old).is_empty());
}

#[test]
fn test_values_that_differ_are_told_by_path() {
    let folder = Folder::new("diff-state");
    let cpu = |rip: u64| Value::map([("rip", rip.into()), ("cr 3", 0_u8.into())]);
    let old = Value::map([
        ("vcpus", Value::List(vec![cpu(1), cpu(2)])),
        ("gone", "x".into()),
        ("nan", Value::Float(f64::NAN)),
        ("other kind", 1_u8.into()),
        ("same", Value::map([])),
    ]);
    let new = Value::map([
        ("same", Value::map([])),
        ("vcpus", Value::List(vec![cpu(1), cpu(3), Value::Nothing])),
        ("nan", Value::Float(f64::NAN)),
        ("other kind", Value::List(vec![1_u8.into()])),
        ("come", false.into()),
    ]);
    let book = Book::new(&[&[], &[]]);
    let files = [("old", &old), ("new", &new)].map(|(name, state)| file(&folder, name, state, &book, Compress::No));
    let change = |path: &str, old: Option<Value>, new: Option<Value>| Change { path: path.into(), old, new };
    let expected = [
        change("vcpus[1].rip", Some(2_u8.into()), Some(3_u8.into())),
        change("vcpus[2]", None, Some(Value::Nothing)),
        change("gone", Some("x".into()), None),
        change("[\"other kind\"]", Some(1_u8.into()), Some(Value::List(vec![1_u8.into()]))),
        change("come", None, Some(false.into())),
    ];
    assert_eq!(diff(&files[0], &files[1]).unwrap(), Diff { state: expected.into(), ..Diff::default() });
}

#[test]
fn test_regions_that_only_one_has_are_told() {
    let folder = Folder::new("diff-regions");
    let [old, new] = [("old", 1 << 20), ("new", 2 << 20)].map(|(name, gpa)| {
        let path = folder.0.join(name);
        let book = Book::new(&[&[], &[(0, 1)]]);
        save(&path, &contents(&Value::Nothing, &[region(0, 1), region(gpa, 8)], &book), Compress::No).unwrap();
        SnapshotFile::open(&path).unwrap()
    });
    let found = diff(&old, &new).unwrap();
    assert_eq!(found.regions[0], [("at 0x100000".into(), 1 << 20, 8 * PAGE_SIZE)]);
    assert_eq!(found.regions[1], [("at 0x200000".into(), 2 << 20, 8 * PAGE_SIZE)]);
    assert_eq!(found.pages, []);
}
