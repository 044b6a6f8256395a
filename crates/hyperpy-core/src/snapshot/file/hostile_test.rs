//! Files that hold anything: each is an error of its own or a snapshot, never a panic, and never for long.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::error::Part;
use super::format::{BLOCK_ENTRY, FLAG_ZSTD, HEADER, Header, MAGIC, PAGE, RUN, Run, checksum};
use super::tests::{Book, Folder, contents, region, state};
use super::*;

/// A file in parts, which can be changed; its lengths and checksums are made right when it is put together.
#[derive(Clone)]
pub(super) struct Parts {
    pub header: Header,
    pub data: Vec<u8>,
    pub tree: Vec<u8>,
    pub runs: Vec<u8>,
    pub blocks: Vec<u8>,
}

impl Parts {
    /// Of a region of 64 pages, of which 5 have something, and one of those is there twice; and one of 4 empty pages.
    pub fn new(compress: Compress) -> Self {
        let folder = Folder::new("parts");
        let path = folder.0.join(format!("{:?}", std::thread::current().id()));
        let book = Book::new(&[&[(1, 1), (2, 2), (5, 1), (14, 3), (15, 4)], &[]]);
        save(&path, &contents(&state(), &[region(0, 64), region(1 << 20, 4)], &book), compress).unwrap();
        Self::of(&std::fs::read(&path).unwrap())
    }

    fn of(file: &[u8]) -> Self {
        let header = Header::decode(file[..HEADER].try_into().unwrap()).unwrap();
        let mut rest = &file[HEADER..];
        let mut take = |len: u64| {
            let (part, others) = rest.split_at(len as usize);
            rest = others;
            part.to_vec()
        };
        let (data, tree) = (take(header.data_len), take(header.tree_len));
        let (runs, blocks) = (take(header.runs * RUN as u64), take(header.blocks() * BLOCK_ENTRY as u64));
        Self { header, data, tree, runs, blocks }
    }

    /// The file, with right lengths and checksums of all but the blocks.
    pub fn file(&self) -> Vec<u8> {
        let mut header = self.header;
        header.data_len = self.data.len() as u64;
        header.tree_len = self.tree.len() as u64;
        header.runs = (self.runs.len() / RUN) as u64;
        header.tree_sum = checksum(&self.tree);
        header.runs_sum = checksum(&self.runs);
        header.blocks_sum = checksum(&self.blocks);
        header.file_len = header.parts_len().unwrap();
        [&header.encode()[..], &self.data, &self.tree, &self.runs, &self.blocks].concat()
    }

    pub fn with_runs(&self, runs: &[Run]) -> Self {
        let mut encoded = Vec::new();
        runs.iter().for_each(|run| run.encode(&mut encoded));
        Self { runs: encoded, ..self.clone() }
    }

    /// One block, of these bytes and with this number of pages.
    pub fn with_block(&self, data: &[u8], kind: u32, pages: u64) -> Self {
        let mut blocks = (data.len() as u32).to_le_bytes().to_vec();
        blocks.extend_from_slice(&kind.to_le_bytes());
        blocks.extend_from_slice(&checksum(data).to_le_bytes());
        let header = Header { stored: pages, flags: FLAG_ZSTD, ..self.header };
        let run = Run { page: 0, stored: 0, region: 0, count: pages as u32 };
        Self { header, data: data.into(), blocks, ..self.with_runs(&[run]) }
    }
}

/// Opens a file of these bytes, and reads it whole.
pub(super) fn read(path: &std::path::Path, bytes: &[u8]) -> Result<SnapshotFile, LoadError> {
    write(path, bytes);
    read_again(path)
}

/// Without making the file empty first: a file system may take that for a replacement, and wait for the disk.
fn write(path: &std::path::Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

fn read_again(path: &std::path::Path) -> Result<SnapshotFile, LoadError> {
    let file = SnapshotFile::open(path)?;
    file.verify()?;
    Ok(file)
}

pub(super) fn folder_and_path(name: &str) -> (Folder, std::path::PathBuf) {
    let folder = Folder::new(name);
    let path = folder.0.join("a.hps");
    (folder, path)
}

const BOTH: [Compress; 2] = [Compress::No, Compress::Zstd];

// fault row 27
#[test]
fn test_file_with_any_byte_flipped_is_refused() {
    let (_folder, path) = folder_and_path("flipped");
    for compress in BOTH {
        let bytes = Parts::new(compress).file();
        read(&path, &bytes).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let mask = if compress == Compress::No { 1 << (at % 8) } else { 0xff };
            file.write_all_at(&[byte ^ mask], at as u64).unwrap();
            let error = read_again(&path).expect_err("a file with a flipped byte was read");
            let is_right = match error {
                LoadError::NotASnapshot => at < MAGIC.len(),
                LoadError::Checksum { part: Part::Header } => (MAGIC.len()..HEADER).contains(&at),
                LoadError::Checksum { .. } => at >= HEADER,
                _ => false,
            };
            assert!(is_right, "byte {at}: {error}");
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
    }
}

// fault row 27
#[test]
fn test_file_cut_off_anywhere_is_refused() {
    let (_folder, path) = folder_and_path("cut");
    for compress in BOTH {
        let bytes = Parts::new(compress).file();
        read(&path, &bytes).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for len in (0..bytes.len()).rev() {
            file.set_len(len as u64).unwrap();
            let error = read_again(&path).expect_err("half a file was read");
            let is_right = match error {
                LoadError::NotASnapshot => len < MAGIC.len(),
                LoadError::CutOff { len: told, .. } => told == len as u64,
                _ => false,
            };
            assert!(is_right, "{len} bytes: {error}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(
            read(&path, &longer).unwrap_err().to_string(),
            "snapshot is damaged: its header cannot be: the file is longer"
        );
    }
}

// fault row 27
#[test]
fn test_file_of_another_version_or_kind_is_told() {
    let (folder, path) = folder_and_path("version");
    let parts = Parts::new(Compress::No);
    let of_version = |version| Parts { header: Header { version, ..parts.header }, ..parts.clone() }.file();
    let error = read(&path, &of_version(2)).unwrap_err();
    assert_eq!(error.to_string(), "snapshot is of a newer format: version 2");
    assert_eq!(error.hint(), "this hyperpy reads versions up to 1: use a newer one");
    assert!(matches!(read(&path, &of_version(u32::MAX)), Err(LoadError::Newer { version: u32::MAX })));
    assert!(matches!(read(&path, &of_version(0)), Err(LoadError::Malformed { part: Part::Header, .. })));
    let flagged = Parts { header: Header { flags: 2, ..parts.header }, ..parts.clone() }.file();
    assert!(matches!(read(&path, &flagged), Err(LoadError::Malformed { what: "unknown flags", .. })));
    for other in [&b""[..], b"\x7fELF and so on", &[0; 8192], &MAGIC[..7]] {
        assert!(matches!(read(&path, other), Err(LoadError::NotASnapshot)), "{other:?}");
    }
    assert!(matches!(SnapshotFile::open(&folder.0), Err(LoadError::NotAFile)));
    assert!(matches!(SnapshotFile::open("/dev/zero".as_ref()), Err(LoadError::NotAFile)));
    assert!(matches!(SnapshotFile::open(&folder.0.join("no")), Err(LoadError::Host(_))));
}

// fault row 27
#[test]
fn test_counts_and_lengths_of_any_size_are_refused() {
    let (_folder, path) = folder_and_path("counts");
    for compress in BOTH {
        let good = Parts::new(compress).file();
        // Each word of the header behind magic, version and flags, with its checksum made right.
        for at in (16..96).step_by(8) {
            let word = u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
            for other in [
                0,
                1,
                word.wrapping_sub(1),
                word.wrapping_add(1),
                word.wrapping_mul(2),
                1 << 32,
                1 << 52,
                1 << 63,
                u64::MAX,
            ] {
                if other == word || (at == 16 && other <= u32::MAX.into()) {
                    continue; // the schema is anybody's
                }
                let mut file = good.clone();
                file[at..at + 8].copy_from_slice(&other.to_le_bytes());
                let sum = checksum(&file[..HEADER - 8]);
                file[HEADER - 8..HEADER].copy_from_slice(&sum.to_le_bytes());
                let began = Instant::now();
                read(&path, &file).expect_err("a file with a wrong count was read");
                assert!(began.elapsed() < Duration::from_secs(1), "word {at} is {other:#x}");
            }
        }
    }
}

// fault row 27
#[test]
fn test_file_that_is_long_and_has_nothing_on_the_disk_is_refused() {
    let (_folder, path) = folder_and_path("long");
    let parts = Parts::new(Compress::No);
    let runs = (1 << 42) / RUN as u64;
    let mut header = Header { stored: 0, data_len: 0, runs, tree_len: parts.tree.len() as u64, ..parts.header };
    header.tree_sum = checksum(&parts.tree);
    header.file_len = header.parts_len().unwrap();
    write(&path, &[&header.encode()[..], &parts.tree].concat());
    OpenOptions::new().write(true).open(&path).unwrap().set_len(header.file_len).unwrap();
    let error = read_again(&path).unwrap_err();
    assert!(matches!(error, LoadError::Malformed { part: Part::Runs, what: "more runs than pages" }), "{error}");
    // What this host has no memory for, no host has.
    assert!(matches!(LoadError::room::<u64>(u64::MAX), Err(LoadError::Host(_))));
}

/// Counts pages, and refuses more than a guest of a test has.
struct Few(u64);

impl PageSink for Few {
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = (bytes.len() / PAGE) as u64;
        assert!(region < 4 && pages > 0 && bytes.len().is_multiple_of(PAGE), "{region} {first} {}", bytes.len());
        self.0 = self.0.checked_sub(pages).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(())
    }
}

// fault row 27
#[test]
fn test_mutated_files_with_right_checksums_are_read_or_refused() {
    let (_folder, path) = folder_and_path("mutated");
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % limit.max(1)
    };
    let (mut read_well, mut refused) = (0, 0);
    let good = BOTH.map(Parts::new);
    for turn in 0..20_000 {
        let mut parts = good[turn % 2].clone();
        let others = [0_u8, 1, 0x7f, 0x80, 0xff];
        for _ in 0..=below(3) {
            let part = match below(5) {
                0 => &mut parts.data,
                1 | 2 => &mut parts.tree,
                3 => &mut parts.runs,
                _ => &mut parts.blocks,
            };
            let at = below(part.len());
            match below(6) {
                0 if !part.is_empty() => part[at] = others[below(others.len())],
                1 if !part.is_empty() => part[at] ^= 1 << below(8),
                2 => part.truncate(at),
                3 => part.extend_from_within(at..),
                4 if part.len() >= 8 => {
                    let at = at.min(part.len() - 8);
                    let number = [0, 1, 2, 16, 64, 1 << 31, 1 << 32, 1 << 63, u64::MAX][below(9)];
                    part[at..at + 8].copy_from_slice(&number.to_le_bytes());
                }
                _ => part.rotate_left(at),
            }
        }
        if below(4) == 0 {
            parts.header.stored = [0, 1, 3, 64, 65, 128][below(6)];
        }
        if parts.data.len() as u64 == parts.header.data_len && below(2) == 0 {
            reseal_blocks(&mut parts);
        }
        let began = Instant::now();
        match read(&path, &parts.file()).and_then(|file| file.pour(&mut Few(1000)).map(|()| file)) {
            Ok(file) => {
                diff(&file, &file).unwrap();
                read_well += 1;
            }
            Err(error) => {
                assert!(!error.hint().is_empty() && !error.to_string().contains('\n'));
                refused += 1;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert!(read_well > 100 && refused > 1000, "{read_well} were read and {refused} refused");
}

/// Makes the checksums of blocks right, as far as there are blocks.
fn reseal_blocks(parts: &mut Parts) {
    let mut at = 0;
    for entry in parts.blocks.chunks_exact_mut(BLOCK_ENTRY) {
        let len = u32::from_le_bytes(entry[..4].try_into().unwrap()) as usize;
        let Some(data) = parts.data.get(at..at + len) else { break };
        entry[8..].copy_from_slice(&checksum(data).to_le_bytes());
        at += len;
    }
}
