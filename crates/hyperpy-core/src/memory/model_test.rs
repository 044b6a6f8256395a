//! Memory against a plain model of it: whatever is written by whom, imaged, restored and forked in whatever order, every byte
//! and every told page is the model's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::accel::{Accelerator, Vm, VmConfig};
use crate::memory::dma::Dma;
use crate::memory::marks::PAGE;
use crate::scripted::Scripted;

/// Two blocks and an alias of each: the second is large enough to be zeroed by a mapping.
const SMALL: u64 = 80;
const LARGE: u64 = 600;
const HIGH: u64 = 0x1_0000 * PAGE_SIZE;
const ALIAS: u64 = 0x2_0000 * PAGE_SIZE;

#[derive(Clone, Debug)]
enum Step {
    Host { page: u64, at: u64, value: u8 },
    Guest { page: u64, value: u8, by_alias: bool },
    Device { page: u64, value: u8 },
    Through { page: u64, value: u8, lives: bool },
    Zero { page: u64, pages: u64 },
    Many { page: u64, pages: u64, value: u8 },
    Image,
    Drop { image: usize },
    Restore { image: usize, spared: Option<(u64, u64)> },
    Fork,
    Swap { memory: usize },
    Foreign { page: u64, value: u8 },
    Track(bool),
    Dirty,
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || 0..SMALL + LARGE;
    let step = prop_oneof![
        4 => (page(), 0..PAGE_SIZE, any::<u8>()).prop_map(|(page, at, value)| Step::Host { page, at, value }),
        4 => (page(), any::<u8>(), any::<bool>())
            .prop_map(|(page, value, by_alias)| Step::Guest { page, value, by_alias }),
        2 => (page(), any::<u8>()).prop_map(|(page, value)| Step::Device { page, value }),
        2 => (page(), any::<u8>(), any::<bool>()).prop_map(|(page, value, lives)| Step::Through { page, value, lives }),
        1 => (page(), 1..LARGE).prop_map(|(page, pages)| Step::Zero { page, pages }),
        1 => (page(), 1..LARGE, any::<u8>()).prop_map(|(page, pages, value)| Step::Many { page, pages, value }),
        4 => Just(Step::Image),
        1 => any::<usize>().prop_map(|image| Step::Drop { image }),
        4 => (any::<usize>(), proptest::option::of((page(), 1_u64..40)))
            .prop_map(|(image, spared)| Step::Restore { image, spared }),
        1 => Just(Step::Fork),
        1 => any::<usize>().prop_map(|memory| Step::Swap { memory }),
        1 => (page(), any::<u8>()).prop_map(|(page, value)| Step::Foreign { page, value }),
        1 => any::<bool>().prop_map(Step::Track),
        2 => Just(Step::Dirty),
        1 => Just(Step::Reset),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A memory, what is to be in it, and what is to be told of it at least.
struct Rig {
    memory: Arc<Memory>,
    scripted: Scripted,
    vm: Arc<dyn Vm>,
    bytes: Vec<u8>,
    told: Option<BTreeSet<u64>>,
    views: Vec<(u64, View)>,
}

fn gpa(page: u64) -> u64 {
    if page < SMALL { page * PAGE_SIZE } else { HIGH + (page - SMALL) * PAGE_SIZE }
}

fn layout() -> Memory {
    let memory = Memory::with_ram(SMALL * PAGE_SIZE).unwrap();
    memory.add(HIGH, LARGE * PAGE_SIZE, Kind::Ram, "high").unwrap();
    memory.alias(ALIAS, 0, SMALL * PAGE_SIZE, "again").unwrap();
    memory.alias(ALIAS + HIGH, HIGH, LARGE * PAGE_SIZE, "high again").unwrap();
    memory
}

impl Rig {
    fn new(memory: Memory, bytes: Vec<u8>) -> Self {
        let scripted = Scripted::default();
        let vm = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
        memory.connect(&vm).unwrap();
        Self { memory: Arc::new(memory), scripted, vm, bytes, told: None, views: Vec::new() }
    }

    fn tell(&mut self, pages: impl IntoIterator<Item = u64>) {
        if let Some(told) = &mut self.told {
            told.extend(pages);
        }
    }

    fn write(&mut self, page: u64, at: u64, bytes: &[u8]) {
        let start = (page * PAGE_SIZE + at) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.tell(page..page + (at + bytes.len() as u64).div_ceil(PAGE_SIZE));
    }

    fn check(&self) {
        let mut seen = vec![0; self.bytes.len()];
        let (low, high) = seen.split_at_mut(SMALL as usize * PAGE);
        self.memory.read(ALIAS, low).unwrap();
        self.memory.read(HIGH, high).unwrap();
        let wrong = seen.chunks(PAGE).zip(self.bytes.chunks(PAGE)).position(|(seen, expected)| seen != expected);
        assert_eq!(wrong, None, "the page that is wrong");
    }

    /// What a guest writes: its pages are in the log alone.
    fn guest(&mut self, page: u64, value: u8, by_alias: bool) {
        let (slot, index) = if page < SMALL { (0, page) } else { (1, page - SMALL) };
        let view = self.memory.view(gpa(page), PAGE, false).unwrap();
        // SAFETY: the view keeps the page mapped, and nobody else looks.
        unsafe { (view.hva() as *mut u8).write_volatile(value) };
        let slots = self.memory.layout();
        let place = if by_alias { ALIAS + if slot == 0 { 0 } else { HIGH } } else { gpa(0) + slot * HIGH };
        let id = slots.at(place).unwrap().1.backed.as_ref().unwrap().slot;
        let mut words = vec![0; LARGE.div_ceil(64) as usize];
        words[(index / 64) as usize] |= 1 << (index % 64);
        // Only what is logged is marked; the log holds one call's.
        self.scripted.set_dirty(id, words);
        self.vm.mark_written().unwrap();
        self.bytes[page as usize * PAGE] = value;
        self.tell([page]);
    }

    fn dirty(&mut self) {
        let Some(expected) = &mut self.told else { return };
        let told: BTreeSet<u64> = self
            .memory
            .dirty(true)
            .unwrap()
            .into_iter()
            .flat_map(|(at, len)| (0..len / PAGE_SIZE).map(move |page| at + page * PAGE_SIZE))
            .collect();
        let missing: Vec<u64> = expected.iter().copied().filter(|page| !told.contains(&gpa(*page))).collect();
        assert_eq!(missing, [] as [u64; 0], "pages that were written and not told");
        expected.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn test_memory_is_what_a_plain_model_of_it_is(steps in steps()) {
        let size = (SMALL + LARGE) as usize * PAGE;
        let mut rigs = vec![Rig::new(layout(), vec![0; size])];
        let mut images: Vec<(Arc<Image>, Vec<u8>)> = Vec::new();
        for step in steps {
            let last = rigs.len() - 1;
            let rig = &mut rigs[last];
            match step {
                Step::Host { page, at, value } => {
                    rig.memory.write(gpa(page) + at, &[value]).unwrap();
                    rig.write(page, at, &[value]);
                }
                Step::Guest { page, value, by_alias } => rig.guest(page, value, by_alias),
                Step::Device { page, value } => {
                    Dma::new(&rig.memory, u64::MAX).scatter(&[(gpa(page), 2)], &[value, 1]).unwrap();
                    rig.write(page, 0, &[value, 1]);
                }
                Step::Through { page, value, lives } => {
                    let view = rig.memory.view(gpa(page), 8, true).unwrap();
                    // SAFETY: the view keeps its bytes mapped, and nobody else looks.
                    unsafe { (view.hva() as *mut u8).write_volatile(value) };
                    rig.write(page, 0, &[value]);
                    if lives && rig.views.len() < 3 {
                        rig.views.push((page, view));
                    }
                }
                Step::Zero { page, pages } => {
                    let end = if page < SMALL { SMALL } else { SMALL + LARGE };
                    let pages = pages.min(end - page);
                    rig.memory.zero(gpa(page) + 8, pages * PAGE_SIZE - 8).unwrap();
                    rig.write(page, 8, &vec![0; pages as usize * PAGE - 8]);
                }
                Step::Many { page, pages, value } => {
                    let end = if page < SMALL { SMALL } else { SMALL + LARGE };
                    let bytes = vec![value; pages.min(end - page) as usize * PAGE];
                    rig.memory.write(gpa(page), &bytes).unwrap();
                    rig.write(page, 0, &bytes);
                }
                Step::Image => images.push((rig.memory.image().unwrap(), rig.bytes.clone())),
                Step::Drop { image } => {
                    if images.len() > 1 {
                        images.swap_remove(image % images.len());
                    }
                }
                Step::Restore { image, spared } => {
                    let Some((image, bytes)) = images.get(image % images.len().max(1)) else { continue };
                    let spared = spared.map(|(page, pages)| {
                        let end = if page < SMALL { SMALL } else { SMALL + LARGE };
                        (page, pages.min(end - page))
                    });
                    let ranges: Vec<Written> =
                        spared.iter().map(|&(page, pages)| (gpa(page), pages * PAGE_SIZE)).collect();
                    rig.memory.restore(image, &ranges).unwrap();
                    let mut bytes = bytes.clone();
                    if let Some((page, pages)) = spared {
                        let range = page as usize * PAGE..(page + pages) as usize * PAGE;
                        bytes[range.clone()].copy_from_slice(&rig.bytes[range]);
                    }
                    let changed = (0..SMALL + LARGE).filter(|&page| {
                        let range = page as usize * PAGE..(page as usize + 1) * PAGE;
                        bytes[range.clone()] != rig.bytes[range]
                    });
                    let changed: Vec<u64> = changed.collect();
                    rig.tell(changed);
                    rig.bytes = bytes;
                }
                Step::Fork => {
                    if rigs.len() < 5 {
                        let child = rigs[last].memory.fork().unwrap().0;
                        let bytes = rigs[last].bytes.clone();
                        rigs.push(Rig::new(child, bytes));
                    } else {
                        rigs.remove(0);
                    }
                }
                Step::Swap { memory } => rigs.swap(memory % (last + 1), last),
                Step::Foreign { page, value } => {
                    let other = layout();
                    other.write(gpa(page), &[value; 3]).unwrap();
                    let mut bytes = vec![0; size];
                    bytes[page as usize * PAGE..page as usize * PAGE + 3].fill(value);
                    images.push((other.image().unwrap(), bytes));
                }
                Step::Track(on) => {
                    rig.memory.track(on).unwrap();
                    rig.told = if on { rig.told.take().or_else(|| Some(BTreeSet::new())) } else { None };
                }
                Step::Dirty => rig.dirty(),
                Step::Reset => {
                    rig.memory.reset();
                    rig.memory.connect(&rig.vm).unwrap();
                    rig.bytes.fill(0);
                }
            }
            rigs.iter().for_each(Rig::check);
        }
        for rig in &mut rigs {
            rig.dirty();
        }
        for (image, bytes) in &images {
            let made = Memory::from_image(image).unwrap();
            Rig::new(made, bytes.clone()).check();
        }
    }
}
