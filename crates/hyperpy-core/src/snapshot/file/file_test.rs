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
fn test_snapshot_written_and_read_is_the_same() {
    let folder = Folder::new("same");
    let regions = [region(0, 1000), region(1 << 32, 1 << 40)];
    let mut book = Book::new(&[&[(0, 1), (5, 2), (6, 1), (999, 3)], &[(1 << 20, 2), ((1 << 40) - 1, 9)]]);
    // More than two blocks of pages that all differ, and a page of random bytes.
    for page in 100..100 + 2 * BLOCK_PAGES + 3 {
        let bytes: Vec<u8> = (0..PAGE).map(|at| ((at as u64 * page) >> 3) as u8).collect();
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
fn test_file_without_memory_is_read() {
    let folder = Folder::new("empty");
    let path = folder.0.join("a.hps");
    save(&path, &contents(&Value::Nothing, &[], &Book::default()), Compress::Zstd).unwrap();
    let file = SnapshotFile::open(&path).unwrap();
    file.verify().unwrap();
    assert_eq!(file.info().pages, 0);
    assert!(file.info().file_len < 2 * HEADER as u64);
}

/// Two pages with one checksum, as a guest can make them: XXH3 multiplies the halves of a word with the secret mixed in, so that one half
/// being zero hides the other; what is left is a sum of words, in which two changes cancel out.
fn twins() -> [Vec<u8>; 2] {
    const SECRET: [u64; 2] = [0xbe4b_a423_396c_feb8, 0x1cad_21f7_2c81_017c];
    let page = |high: [u64; 2]| {
        let mut page = vec![0; PAGE];
        for (stripe, (secret, high)) in SECRET.iter().zip(high).enumerate() {
            let word = high << 32 | secret & 0xffff_ffff;
            page[stripe * 64..stripe * 64 + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    };
    [page([5, 9]), page([6, 8])]
}

#[test]
fn test_different_pages_of_one_checksum_are_two() {
    let folder = Folder::new("twins");
    let [one, other] = twins();
    assert_ne!(one, other);
    assert_eq!(super::format::checksum(&one), super::format::checksum(&other));
    let mut book = Book::new(&[&[]]);
    for (page, bytes) in [(0, &one), (1, &other), (2, &one), (3, &other)] {
        book.pages[0].insert(page, bytes.clone());
    }
    let path = folder.0.join("a.hps");
    save(&path, &contents(&Value::Nothing, &[region(0, 4)], &book), Compress::No).unwrap();
    let file = SnapshotFile::open(&path).unwrap();
    assert_eq!(poured(&file), book.pages);
    // The second of the two is not found again: it is there twice, which is right if not short.
    assert_eq!(file.info().stored, 3);
}

#[test]
fn test_page_that_another_region_has_is_there_once() {
    let folder = Folder::new("once");
    let path = folder.0.join("a.hps");
    let book = Book::new(&[&[(1, 7)], &[(0, 7), (3, 7), (4, 7)]]);
    save(&path, &contents(&Value::Nothing, &[region(0, 2), region(1 << 20, 5)], &book), Compress::No).unwrap();
    let info = SnapshotFile::open(&path).unwrap().info();
    assert_eq!((info.stored, info.identical, info.zero), (1, 3, 3));
    assert_eq!(info.data_len, PAGE_SIZE);
}

#[test]
fn test_zero_pages_that_are_read_are_not_stored() {
    let folder = Folder::new("zero");
    let path = folder.0.join("a.hps");
    let book = Book::new(&[&[(0, 0), (1, 4), (2, 0), (3, 5)]]);
    save(&path, &contents(&Value::Nothing, &[region(0, 4)], &book), Compress::No).unwrap();
    let file = SnapshotFile::open(&path).unwrap();
    assert_eq!(poured(&file), Book::new(&[&[(1, 4), (3, 5)]]).pages);
    assert_eq!((file.info().stored, file.info().zero), (2, 2));
}

#[test]
fn test_holes_are_not_read() {
    let folder = Folder::new("holes");
    let book = Book::new(&[&[(3, 1), (1 << 30, 2)]]);
    save(&folder.0.join("a"), &contents(&Value::Nothing, &[region(0, 1 << 31)], &book), Compress::No).unwrap();
    assert_eq!(*book.reads.borrow(), [(0, 3), (0, 1 << 30)]);
}

/// Memory of which a page cannot be read.
struct Torn;

impl PageSource for Torn {
    fn next(&self, _: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((from < 200).then_some((from, 200 - from)))
    }
    fn read(&self, _: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(1);
        if first >= 64 { Err(io::Error::other("torn")) } else { Ok(()) }
    }
}

#[test]
fn test_save_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = Folder::new("fails");
    let path = folder.0.join("a.hps");
    let regions = [region(0, 200)];
    let book = Book::default();
    let torn = Contents { pages: &Torn, ..contents(&Value::Nothing, &regions, &book) };
    std::fs::write(&path, "old").unwrap();
    let error = save(&path, &torn, Compress::No).unwrap_err();
    assert_eq!(error.to_string(), "snapshot's memory cannot be read: torn");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(folder.names(), ["a.hps"]);
}

#[test]
fn test_save_to_where_no_file_can_be_is_told() {
    let folder = Folder::new("nowhere");
    let book = Book::default();
    let save = |path: PathBuf| save(&path, &contents(&Value::Nothing, &[], &book), Compress::No).unwrap_err();
    let error = save(folder.0.join("no/a.hps"));
    assert!(matches!(&error, SaveError::Host { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error}");
    assert!(matches!(save(folder.0.clone()), SaveError::NotAFile));
    assert!(matches!(save("/dev/null".into()), SaveError::NotAFile));
    assert!(matches!(save("/".into()), SaveError::NotAFile));
    assert!(matches!(save("".into()), SaveError::NotAFile));
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn test_save_by_a_link_replaces_what_it_leads_to() {
    let folder = Folder::new("link");
    std::fs::write(folder.0.join("real"), "old").unwrap();
    std::os::unix::fs::symlink("real", folder.0.join("link")).unwrap();
    save(&folder.0.join("link"), &contents(&Value::Nothing, &[], &Book::default()), Compress::No).unwrap();
    assert!(folder.0.join("link").is_symlink());
    SnapshotFile::open(&folder.0.join("real")).unwrap();
    assert_eq!(folder.names(), ["link", "real"]);
}

#[test]
fn test_save_by_the_longest_name_works() {
    let folder = Folder::new("long");
    let path = folder.0.join("n".repeat(255));
    save(&path, &contents(&Value::Nothing, &[], &Book::default()), Compress::No).unwrap();
    SnapshotFile::open(&path).unwrap();
}

#[test]
fn test_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("mode");
    let path = folder.0.join("a");
    save(&path, &contents(&Value::Nothing, &[], &Book::default()), Compress::No).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn test_state_that_no_reader_would_take_is_refused() {
    let folder = Folder::new("refused");
    let book = Book::new(&[&[], &[]]);
    let save =
        |state: Value, regions: &[Region]| save(&folder.0.join("a"), &contents(&state, regions, &book), Compress::No);
    let nested = |levels: usize| (1..levels).fold(Value::List(vec![]), |inner, _| Value::List(vec![inner]));
    // The state is a level below the top.
    save(nested(63), &[]).unwrap();
    assert!(matches!(SnapshotFile::open(&folder.0.join("a")).unwrap().state(), Value::List(_)));
    assert!(matches!(save(nested(64), &[]), Err(SaveError::TooDeep { most: 64 })));
    let twice = Value::Map(vec![("a".into(), 1_u8.into()), ("b".into(), 1_u8.into()), ("a".into(), 2_u8.into())]);
    assert!(matches!(save(twice, &[]), Err(SaveError::Twice { name }) if *name == *"a"));
    let at = |gpa, len| Region { len, ..region(gpa, 1) };
    for wrong in [
        vec![at(0, 0)],
        vec![at(1, PAGE_SIZE)],
        vec![at(0, PAGE_SIZE + 1)],
        vec![at(u64::MAX - 0xfff, 2 * PAGE_SIZE)],
        vec![at(0, 2 * PAGE_SIZE), at(PAGE_SIZE, PAGE_SIZE)],
        vec![at(PAGE_SIZE, PAGE_SIZE), at(0, PAGE_SIZE)],
    ] {
        assert!(matches!(save(Value::Nothing, &wrong), Err(SaveError::Region { .. })), "{wrong:?}");
    }
}

/// Memory that says the same of every region and page.
struct Says(u64, u64);

impl PageSource for Says {
    fn next(&self, _: usize, _: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(Some((self.0, self.1)))
    }
    fn read(&self, _: usize, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(1);
        Ok(())
    }
}

#[test]
fn test_memory_that_counts_wrong_is_not_saved() {
    let folder = Folder::new("counts-wrong");
    let regions = [region(0, 10)];
    let book = Book::default();
    for (first, count) in [(0, 11), (10, 1), (3, 0), (u64::MAX, 2), (0, 5)] {
        let says = Says(first, count);
        let contents = Contents { pages: &says, ..contents(&Value::Nothing, &regions, &book) };
        let error = save(&folder.0.join("a"), &contents, Compress::No).unwrap_err();
        assert!(matches!(error, SaveError::Pages { .. }), "{first} {count}: {error}");
    }
    assert_eq!(folder.names(), Vec::<String>::new());
}
