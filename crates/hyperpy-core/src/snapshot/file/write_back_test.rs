//! What the disk is asked to begin with, and that the file is none the worse for it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;

use super::super::format::PAGE;
use super::super::tests::{Book, Folder, region};
use super::super::{Compress, Contents, SnapshotFile, save};
use super::*;
use crate::snapshot::Value;

#[test]
fn test_progress_is_told_by_strides() {
    let (mut progress, told) = progress();
    for end in [1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE - 1, 2 * STRIDE + 5, 3 * STRIDE, 9 * STRIDE] {
        progress.reached(end);
    }
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [STRIDE, 2 * STRIDE + 5, 9 * STRIDE]);
    drop(told);
    progress.reached(20 * STRIDE);
}

#[test]
fn test_follow_ends_with_the_file_and_changes_nothing_of_it() {
    let folder = Folder::new("follow");
    let path = folder.0.join("file");
    fs::write(&path, [7; 10_000]).unwrap();
    let (mut progress, told) = progress();
    // Also for what is not there.
    [STRIDE, 2 * STRIDE, u64::MAX].into_iter().for_each(|end| progress.reached(end));
    drop(progress);
    follow(&File::open(&path).unwrap(), &told);
    assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
}

#[test]
fn test_file_of_several_strides_has_every_page() {
    let folder = Folder::new("strides");
    let (path, count) = (folder.0.join("long.hps"), 5 * STRIDE / PAGE as u64 / 2);
    let mut book = Book::new(&[&[]]);
    book.pages[0] = (0..count).map(|page| (page, page.to_le_bytes().repeat(PAGE / 8))).collect();
    book.pages[0].remove(&0);
    let (state, regions) = (Value::Nothing, [region(0, count)]);
    for compress in [Compress::No, Compress::Zstd] {
        let contents =
            Contents { made_by: "test", created_ns: 0, schema: 1, state: &state, regions: &regions, pages: &book };
        save(&path, &contents, compress).unwrap();
        let file = SnapshotFile::open(&path).unwrap();
        assert_eq!(file.info().stored, count - 1);
        let mut read = Book::new(&[&[]]);
        file.pour(&mut read).unwrap();
        assert!(read.pages == book.pages, "other pages");
    }
}
