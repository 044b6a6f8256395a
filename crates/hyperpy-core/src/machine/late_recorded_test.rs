//! Writes that a recorded device is told of later: on a machine events of their own, and on a bench told one by one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::bench::{Answer, Bench, Play};
use crate::clock::Clock;
use crate::record::{Deed, Recorded, Recorder, What, Wire, raised};

fn wrote(offset: u64, value: u64, waits: bool) -> What {
    What::Write { offset, size: 4, value, waits }
}

fn told(offset: u64, value: u64) -> What {
    What::Told { offset, size: 4, value }
}

/// What a machine records of a script.
fn recorded(script: Vec<Step>, inside: impl Fn(&Recorder) + Send + Sync + 'static) -> Vec<crate::record::Event> {
    let (rig, _, place) = attached(vec![script]);
    let recorder = Recorder::new(Arc::new(Clock::manual()), 100, vec![Wire::default()]);
    let device = rig.machine.mmio.map().regions()[0].device.clone();
    let does = Arc::new(Does { device, recorder: recorder.clone(), inside });
    rig.machine.replace(place, Arc::new(Recorded { inner: does, recorder: recorder.clone() })).unwrap();
    while !matches!(rig.run().unwrap(), Exit::Halt { .. }) {}
    recorder.events(0).0
}

/// A device that does something more whenever it is told of what has waited.
struct Does<F> {
    device: Arc<dyn Device>,
    recorder: Arc<Recorder>,
    inside: F,
}

impl<F: Fn(&Recorder) + Send + Sync> Device for Does<F> {
    fn read(&self, at: Access) -> u64 {
        self.device.read(at)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.device.write(at, value)
    }
    fn quick_read(&self, at: Access) -> Option<u64> {
        self.device.quick_read(at)
    }
    fn quick_write(&self, at: Access, value: u64) -> bool {
        self.device.quick_write(at, value)
    }
    fn defer(&self, at: Access, value: u64) -> Action {
        self.device.defer(at, value)
    }
    fn has_late(&self) -> bool {
        self.device.has_late()
    }
    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        self.device.flush(most, spot, asked);
        (self.inside)(&self.recorder);
    }
}

#[test]
fn test_recorded_writes_say_that_they_wait_and_when_they_are_told() {
    let script = vec![write(0, 1), write(12, 5), write(0, 2), read(0), write(4, 3), streamed(&[7]), write(0, 99)];
    let events = recorded(script, |_| ());
    let whats: Vec<_> = events.iter().map(|event| event.what).collect();
    let expected = [
        wrote(0, 1, true),
        wrote(12, 5, false),
        wrote(0, 2, true),
        What::Read { offset: 0, size: 4, value: 2 },
        told(0, 1),
        told(0, 2),
        wrote(4, 3, false),
        wrote(8, 7, true),
        told(8, 7),
        wrote(0, 99, true),
        told(0, 99),
    ];
    assert_eq!(whats, expected);
    assert_eq!(events.last().unwrap().asked(), Some(&Action::Stop(StopReason::Text("enough".into()))));
    assert!(events.iter().all(|event| event.vcpu == 0));
}

#[test]
fn test_deed_after_a_write_that_was_told_is_elsewhere() {
    let events = recorded(vec![write(0, 1)], |recorder| {
        recorder.line(0, true);
        raised("nobody's");
    });
    assert_eq!(events.iter().map(|event| event.what).collect::<Vec<_>>(), [wrote(0, 1, true), told(0, 1), What::Deed]);
    assert_eq!(events[2].deeds(), [Deed::Line { wire: 0, high: true }]);
    assert!(events[1].deeds().is_empty() && events[1].raised().is_none());
}

#[test]
fn test_bench_defers_writes_and_tells_of_them_one_by_one() {
    let (device, log) = Told::new();
    let bench = Bench::new(device, "told", 0x10, Arc::new(Clock::manual()));
    let play = |offset, value| Play { offset, size: 4, written: Some(value) };
    for value in [1, 99, 3] {
        assert!(bench.defer(play(0, value)));
    }
    assert_eq!(bench.play(Play { offset: 0, size: 4, written: None }).unwrap(), Answer::Value(3));
    assert_eq!((bench.tell().unwrap(), seen(&log)), (Action::Continue, vec![("posted", 1)]));
    assert_eq!(bench.tell().unwrap(), Action::Stop(StopReason::Text("enough".into())));
    assert_eq!(bench.play(play(4, 5)).unwrap(), Answer::Asked(Action::Continue));
    assert_eq!(bench.tell().unwrap(), Action::Continue);
    assert_eq!(bench.tell().unwrap(), Action::Continue, "there is nothing more");
    assert_eq!(seen(&log), [("posted", 1), ("posted", 99), ("now", 5), ("posted", 3)]);
    let plain = Bench::new(Arc::new(crate::testing::stopper("x")), "x", 4, Arc::new(Clock::manual()));
    assert!(!plain.defer(play(0, 1)), "it keeps none");
}
