//! Files: what is written is what is read, each page once, and nothing is left of what failed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::format::{BLOCK_PAGES, HEADER, PAGE};
use super::*;

/// Memory as a list of pages by region; what is not there is zero.
#[derive(Default)]
pub(super) struct Book {
    pub pages: Vec<BTreeMap<u64, Vec<u8>>>,
    pub reads: RefCell<Vec<(usize, u64)>>,
}

impl Book {
    pub fn new(regions: &[&[(u64, u8)]]) -> Self {
        let pages = |list: &&[(u64, u8)]| list.iter().map(|(page, fill)| (*page, vec![*fill; PAGE])).collect();
        Self { pages: regions.iter().map(pages).collect(), ..Self::default() }
    }
}

impl PageSource for Book {
    fn next(&self, region: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        let mut later = self.pages[region].range(from..).map(|(page, _)| *page);
        let Some(first) = later.next() else { return Ok(None) };
        let count = 1 + later.zip(first + 1..).take_while(|(page, expected)| page == expected).count();
        Ok(Some((first, count as u64)))
    }

    fn read(&self, region: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        for (page, bytes) in (first..).zip(into.chunks_exact_mut(PAGE)) {
            self.reads.borrow_mut().push((region, page));
            bytes.copy_from_slice(self.pages[region].get(&page).ok_or(io::ErrorKind::NotFound)?);
        }
        Ok(())
    }
}

impl PageSink for Book {
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE)) {
            assert_eq!(self.pages[region].insert(page, bytes.into()), None, "page {page} is put twice");
        }
        Ok(())
    }
}

/// A folder of its own, which goes away.
pub(super) struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hyperpy-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn region(gpa: u64, pages: u64) -> Region {
    Region {
        name: format!("at {gpa:#x}").into(),
        gpa,
        len: pages * PAGE_SIZE,
        about: Value::map([("kind", "ram".into())]),
    }
}

pub(super) fn state() -> Value {
    Value::map([
        ("nothing", Value::Nothing),
        ("yes", true.into()),
        (
            "numbers",
            Value::List([0, -1, i64::MIN.into(), i64::MAX.into(), i128::MIN, i128::MAX].map(Value::Int).into()),
        ),
        ("half", Value::Float(0.5)),
        ("words", "gr\u{fc}n".into()),
        ("bytes", [0_u8, 1, 255].as_slice().into()),
        ("empty", Value::List(vec![Value::map([]), Value::List(vec![]), "".into(), [].as_slice().into()])),
    ])
}

pub(super) fn contents<'a>(state: &'a Value, regions: &'a [Region], pages: &'a Book) -> Contents<'a> {
    Contents { made_by: "a test", created_ns: 1_700_000_000_123_456_789, schema: 7, state, regions, pages }
}

fn poured(file: &SnapshotFile) -> Vec<BTreeMap<u64, Vec<u8>>> {
    let mut book = Book::new(&vec![[].as_slice(); file.regions().len()]);
    file.pour(&mut book).unwrap();
    book.pages
}

#[test]
fn snapshot_written_and_read_is_the_same() {
    let folder = Folder::new("same");
    let regions = [region(0, 1000), region(1 << 32, 1 << 40)];
    let mut book = Book::new(&[&[(0, 1), (5, 2), (6, 1), (999, 3)], &[(1 << 20, 2), ((1 << 40) - 1, 9)]]);
    // More than two blocks of pages that all differ, and a page of random bytes.
    for page in 100..100 + 2 * BLOCK_PAGES + 3 {
        let bytes: Vec<u8> = (0..PAGE).map(|at| (at as u64 * page >> 3) as u8).collect();
        book.pages[0].insert(page, bytes);
    }
    for compress in [Compress::No, Compress::Zstd] {
        let path = folder.0.join("a.hps");
        save(&path, &contents(&state(), &regions, &book), compress).unwrap();
        let file = SnapshotFile::open(&path).unwrap();
        file.verify().unwrap();
        assert_eq!(*file.state(), state());
        assert_eq!(file.regions(), regions);
        assert_eq!(poured(&file), book.pages);
        let info = file.info();
        assert_eq!((info.version, info.schema, &*info.made_by), (1, 7, "a test"));
        assert_eq!(info.created_ns, 1_700_000_000_123_456_789);
        assert_eq!(info.is_compressed, compress == Compress::Zstd);
        assert_eq!((info.stored, info.identical), (4 + 2 * BLOCK_PAGES + 3, 2));
        assert_eq!(info.zero + info.stored + info.identical, info.pages);
        assert_eq!(info.file_len, std::fs::metadata(&path).unwrap().len());
        assert_eq!(folder.names(), ["a.hps"]);
    }
}

#[test]
fn file_without_memory_is_read() {
    let folder = Folder::new("empty");
    let path = folder.0.join("a.hps");
    save(&path, &contents(&Value::Nothing, &[], &Book::default()), Compress::Zstd).unwrap();
    let file = SnapshotFile::open(&path).unwrap();
    file.verify().unwrap();
    assert_eq!(file.info().pages, 0);
    assert!(file.info().file_len < 2 * HEADER as u64);
}
