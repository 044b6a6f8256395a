use std::sync::Mutex;

use hyperpy_core::bus::{Cursor, Map};
use hyperpy_core::irq::Unconnected;

use super::*;
use crate::debugexit::DebugExit;
use crate::testing::{ManualClock, at, sweep};

const PIO_LIMIT: u64 = 0xffff;

fn attach(pio: &Bus, debug_exit: Option<u16>) -> Result<(Board, Vec<u32>), BusError> {
    let gsis = Mutex::new(Vec::new());
    let lines = |gsi| {
        gsis.lock().unwrap().push(gsi);
        Unconnected::new() as Arc<dyn Line>
    };
    let clock = ManualClock::at_second(0);
    let board = Board::attach(
        pio,
        Parts {
            lines: &lines,
            clock,
            console: Arc::default(),
            memory_size: 1 << 29,
            posts: Arc::default(),
            debug_exit,
        },
    )?;
    Ok((board, gsis.into_inner().unwrap()))
}

fn places(map: &Map) -> Vec<(u64, u64, String)> {
    map.regions().iter().map(|region| (region.base, region.len, region.name.to_string())).collect()
}

#[test]
fn test_board_is_where_a_pc_has_it() {
    let pio = Bus::new(PIO_LIMIT);
    let (board, mut gsis) = attach(&pio, Some(0xf4)).unwrap();
    let expected = [
        (0x60, 1, "i8042 data"),
        (0x64, 1, "i8042 command"),
        (0x70, 2, "rtc"),
        (0xe9, 1, "debug console"),
        (0xf4, 4, "debug exit"),
        (0x3f8, 8, "uart com1"),
        (0x600, 4, "acpi pm1a event"),
        (0x604, 2, "acpi pm1a control"),
        (0x608, 4, "acpi pm timer"),
        (0xcf9, 1, "reset register"),
    ];
    assert_eq!(places(&pio.map()), expected.map(|(base, len, name)| (base, len, name.to_string())));
    assert!(pio.map().regions().iter().all(|region| region.rung == Rung::Native));
    gsis.sort_unstable();
    assert_eq!(gsis, [4, 9]);
    assert_eq!(board.regions().len(), 10);
    board.detach(&pio);
    assert_eq!(places(&pio.map()), []);
}

#[test]
fn test_board_leaves_out_what_a_device_on_the_bus_stands_for() {
    let pio = Bus::new(PIO_LIMIT);
    for (port, ports) in [(0x64, 1), (0x70, 8), (0x3f0, 16)] {
        pio.attach(port, ports, "mine".into(), Rung::Native, Arc::new(DebugExit)).unwrap();
    }
    let (board, _) = attach(&pio, None).unwrap();
    let mine = pio.map().regions().iter().filter(|region| &*region.name == "mine").count();
    assert_eq!((mine, board.regions().len(), pio.map().regions().len()), (3, 6, 9));
    assert_eq!((board.has(COM1), board.has(RTC), board.has(PM1_EVENT)), (false, false, true));
    assert_eq!(board.lines().collect::<Vec<_>>(), [(9, true, "acpi pm1a event")]);
    board.detach(&pio);
    assert_eq!(pio.map().regions().len(), 3);
}

#[test]
fn test_board_without_debug_exit_leaves_its_ports_free() {
    let pio = Bus::new(PIO_LIMIT);
    attach(&pio, None).unwrap();
    assert!(Cursor::default().find(&pio, 0xf4, 1).is_none());
}

#[test]
fn test_board_attach_over_any_taken_port_leaves_the_bus_as_it_was() {
    for (port, debug_exit) in [(0x3f8, None), (0x71, None), (0x600, None), (0x605, None), (0xf7, Some(0xf4))] {
        let pio = Bus::new(PIO_LIMIT);
        pio.attach(port, 1, "other".into(), Rung::Native, Arc::new(DebugExit)).unwrap();
        let error = attach(&pio, debug_exit).err().unwrap();
        assert!(matches!(&error, BusError::Overlap { other, .. } if other == "other"), "{error}");
        assert_eq!(places(&pio.map()), [(port, 1, "other".to_string())]);
    }
    let pio = Bus::new(PIO_LIMIT);
    assert!(matches!(attach(&pio, Some(0xfffd)).err(), Some(BusError::OutsideBus { .. })));
    assert_eq!(places(&pio.map()), []);
}

// fault row 13
#[test]
fn test_board_survives_every_access_to_every_device() {
    let pio = Bus::new(PIO_LIMIT);
    let (board, _) = attach(&pio, Some(0xf4)).unwrap();
    for region in pio.map().regions() {
        sweep(&*region.device, region.len);
        region.device.reset();
    }
    let console_was = board.console.end();
    let mut cursor = Cursor::default();
    let region = cursor.find(&pio, 0x3f8, 1).unwrap();
    region.device.write(at(0, 1), u64::from(b'!'));
    assert_eq!(board.console.read_from(console_was).1, b"!");
}

#[test]
fn test_board_devices_are_dropped_with_the_board_although_the_console_lives() {
    let console = Arc::new(Console::default());
    let line = Unconnected::new();
    let pio = Bus::new(PIO_LIMIT);
    let lines = |_| line.clone() as Arc<dyn Line>;
    let parts = Parts {
        lines: &lines,
        clock: ManualClock::at_second(0),
        console: console.clone(),
        memory_size: 0,
        posts: Arc::default(),
        debug_exit: None,
    };
    Board::attach(&pio, parts).unwrap().detach(&pio);
    assert_eq!(Arc::strong_count(&line), 1, "no device keeps its line");
    assert_eq!(Arc::strong_count(&console), 1);
}
