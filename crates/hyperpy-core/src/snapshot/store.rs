//! A snapshot in a file, and back: which of its parts goes where in the format (`file`), and what two snapshots differ in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::file::{
    self, Compress, Contents, Diff, LoadError, PAGE_SIZE, PageRange, PageSink, PageSource, Region, SaveError,
    SnapshotFile,
};
use super::{Fields, Parts, Snapshot, StateFault, Value, misfit};
use crate::error::MemoryError;
use crate::memory::{Filling, Image, ImageBlock, Kind, Pages, RegionInfo};

/// Of what the names in the state mean.
const SCHEMA: u32 = 1;

/// Says whether something that takes long is still wanted.
pub type GoesOn<'a> = &'a dyn Fn() -> io::Result<()>;

/// A file could not be made a snapshot.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    File(#[from] LoadError),
    /// Its state is of another version of the names.
    #[error("snapshot's state is of another schema: {schema}, not {SCHEMA}")]
    Schema {
        /// Its version.
        schema: u32,
    },
    /// Its state.
    #[error("snapshot's state is none of a machine: {0}")]
    State(StateFault),
    /// Its memory.
    #[error("snapshot's memory cannot be: {0}")]
    Memory(#[from] MemoryError),
    /// The host has no memory for it.
    #[error("the host has no memory for a snapshot: {0}")]
    Host(io::Error),
}

impl OpenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::File(error) => error.hint(),
            Self::Schema { .. } => "use the version of hyperpy that wrote it: `hyperpy snapshot info` tells".into(),
            Self::State(_) | Self::Memory(_) => "the file was not written by hyperpy: take the snapshot again".into(),
            Self::Host(_) => "close machines and snapshots, or use a host with more memory".into(),
        }
    }
}

impl Snapshot {
    /// Writes it to a file, at once or not at all. `goes_on` is asked between pages, and ends it by an error.
    ///
    /// # Errors
    /// The host refuses, or a device's state has a name twice or is nested too deeply. The file that was there is there still.
    pub fn save(&self, path: &Path, compress: Compress, made_by: &str, goes_on: GoesOn<'_>) -> Result<(), SaveError> {
        let pages = ImagePages::of(&self.memory, goes_on);
        let regions: Vec<_> = self.memory.regions().iter().map(region_of).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let state = self.parts.value();
        let contents =
            Contents { made_by, created_ns, schema: SCHEMA, state: &state, regions: &regions, pages: &pages };
        file::save(path, &contents, compress)
    }

    /// Reads one from a file, which may hold anything. `goes_on` is asked between pages, and ends it by an error.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of something that is no machine.
    pub fn open(path: &Path, goes_on: GoesOn<'_>) -> Result<Self, OpenError> {
        let file = SnapshotFile::open(path)?;
        let schema = file.info().schema;
        if schema != SCHEMA {
            return Err(OpenError::Schema { schema });
        }
        let parts = Parts::of(file.state()).map_err(OpenError::State)?;
        let infos = file.regions().iter().map(info_of).collect::<Result<Vec<_>, _>>().map_err(OpenError::State)?;
        let mut files = Vec::new();
        for info in &infos {
            let filling =
                if info.has_own_pages() { Some(Filling::new(info.len).map_err(OpenError::Host)?) } else { None };
            files.push(filling);
        }
        let mut filled = Filled { files, goes_on };
        file.pour(&mut filled)?;
        let image = Image::from_blocks(infos, filled.files.into_iter().flatten().collect())?;
        Ok(Self { parts, memory: Arc::new(image) })
    }

    /// In what another differs: pages, regions, and values of the state by path.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Diff {
        let mut found = Diff::default();
        let place = |block: &ImageBlock<'_>| (block.region.gpa, block.region.len);
        let told = |block: &ImageBlock<'_>| (block.region.name.as_ref().into(), block.region.gpa, block.region.len);
        let blocks = |of: &Self| of.memory.blocks().map(|block| place(&block)).collect::<Vec<_>>();
        let ours = blocks(self);
        for block in self.memory.blocks() {
            match other.memory.blocks().find(|other| place(other) == place(&block)) {
                Some(other) => pages_between(&block, &other, &mut found.pages),
                None => found.regions[0].push(told(&block)),
            }
        }
        let new = other.memory.blocks().filter(|block| !ours.contains(&place(block)));
        found.regions[1].extend(new.map(|block| told(&block)));
        for region in self.regions() {
            let there = other.regions().iter().find(|other| (other.gpa, other.len) == (region.gpa, region.len));
            found.state.extend(there.into_iter().flat_map(|there| file::about(&region_of(region), &region_of(there))));
        }
        found.state.extend(file::changes(&self.parts.value(), &other.parts.value()));
        found
    }
}

fn pages_between(old: &ImageBlock<'_>, new: &ImageBlock<'_>, found: &mut Vec<PageRange>) {
    const ZEROS: &[u8; PAGE_SIZE as usize] = &[0; PAGE_SIZE as usize];
    for page in 0..old.pages() {
        if old.shares(page, new) || old.page(page).unwrap_or(ZEROS) == new.page(page).unwrap_or(ZEROS) {
            continue;
        }
        let gpa = old.region.gpa + page as u64 * PAGE_SIZE;
        match found.last_mut() {
            Some(last) if last.gpa + last.count * PAGE_SIZE == gpa && *last.region == *old.region.name => {
                last.count += 1
            }
            _ => found.push(PageRange { region: old.region.name.as_ref().into(), gpa, count: 1 }),
        }
    }
}

const ABOUT: [&str; 4] = ["kind", "writable", "pages", "alias_of"];
const KINDS: [(Kind, &str); 3] = [(Kind::Ram, "ram"), (Kind::Rom, "rom"), (Kind::Mmio, "mmio")];
const SIZES: [(Pages, &str); 4] =
    [(Pages::Small, "4K"), (Pages::Transparent, "transparent"), (Pages::Huge2M, "2M"), (Pages::Huge1G, "1G")];

fn word<T: PartialEq>(words: &[(T, &'static str)], what: &T) -> Value {
    words.iter().find(|(known, _)| known == what).map_or(Value::Nothing, |(_, word)| (*word).into())
}

fn said<T: Copy>(words: &[(T, &'static str)], value: &Value, name: &str) -> Result<T, StateFault> {
    let text = Fields::new(value, &ABOUT)?.get::<Value>(name)?;
    let found = words.iter().find(|(_, word)| text.text() == Some(word)).map(|(known, _)| *known);
    found.ok_or_else(|| misfit(format!("a region has no such {name}")))
}

fn region_of(info: &RegionInfo) -> Region {
    let about = Value::map([
        ("kind", word(&KINDS, &info.kind)),
        ("writable", info.writable.into()),
        ("pages", word(&SIZES, &info.pages)),
        ("alias_of", info.alias_of.map_or(Value::Nothing, Value::from)),
    ]);
    Region { name: info.name.as_ref().into(), gpa: info.gpa, len: info.len, about }
}

fn info_of(region: &Region) -> Result<RegionInfo, StateFault> {
    let fields = Fields::new(&region.about, &ABOUT)?;
    Ok(RegionInfo {
        gpa: region.gpa,
        len: region.len,
        kind: said(&KINDS, &region.about, "kind")?,
        name: (*region.name).into(),
        writable: fields.get("writable")?,
        pages: said(&SIZES, &region.about, "pages")?,
        alias_of: fields.get("alias_of")?,
    })
}

/// The first of several pages, and how many there are.
type Runs = Vec<(u64, u64)>;

/// Pages of an image, by the numbers of its regions: those that may be other than zero, as runs.
struct ImagePages<'a> {
    blocks: Vec<Option<(ImageBlock<'a>, Runs)>>,
    goes_on: GoesOn<'a>,
}

impl<'a> ImagePages<'a> {
    fn of(image: &'a Image, goes_on: GoesOn<'a>) -> Self {
        let mut blocks = image.blocks();
        let of = |info: &RegionInfo| {
            let block = if info.has_own_pages() { blocks.next() } else { None }?;
            let mut runs = Runs::new();
            block.each_page(|page, _| {
                match runs.last_mut() {
                    Some((first, count)) if *first + *count == page as u64 => *count += 1,
                    _ => runs.push((page as u64, 1)),
                }
                true
            });
            Some((block, runs))
        };
        Self { blocks: image.regions().iter().map(of).collect(), goes_on }
    }
}

impl PageSource for ImagePages<'_> {
    fn next(&self, region: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        let Some(Some((_, runs))) = self.blocks.get(region) else { return Ok(None) };
        let at = runs.partition_point(|(first, count)| first + count <= from);
        Ok(runs.get(at).map(|&(first, count)| {
            let start = first.max(from);
            (start, count - (start - first))
        }))
    }

    fn read(&self, region: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        let Some(Some((block, _))) = self.blocks.get(region) else { return Err(io::ErrorKind::InvalidInput.into()) };
        (self.goes_on)()?;
        let first = usize::try_from(first).map_err(io::Error::other)?;
        for (page, into) in (first..).zip(into.chunks_exact_mut(PAGE_SIZE as usize)) {
            match block.page(page) {
                Some(bytes) => into.copy_from_slice(bytes),
                None => into.fill(0),
            }
        }
        Ok(())
    }
}

/// Files that a snapshot's pages are put into.
struct Filled<'a> {
    files: Vec<Option<Filling>>,
    goes_on: GoesOn<'a>,
}

impl PageSink for Filled<'_> {
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        (self.goes_on)()?;
        let Some(Some(filling)) = self.files.get(region) else {
            return Err(io::Error::other("a page of a region that has none"));
        };
        filling.write(first.saturating_mul(PAGE_SIZE), bytes)
    }
}
