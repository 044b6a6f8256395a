use proptest::prelude::*;

use super::*;
use crate::testing::{play, read, steps, sweep, write};

type Ports = (Arc<dyn Device>, Arc<dyn Device>);

fn status(ports: &Ports) -> u8 {
    read(&*ports.1, 0, 1) as u8
}

fn command(ports: &Ports, byte: u8) -> Action {
    write(&*ports.1, 0, 1, byte.into())
}

fn data(ports: &Ports, byte: u8) -> Action {
    write(&*ports.0, 0, 1, byte.into())
}

/// What a polling guest gets: `None` where it would wait for its time-out.
fn answer(ports: &Ports) -> Option<u8> {
    (status(ports) & STATUS_OUTPUT_FULL != 0).then(|| read(&*ports.0, 0, 1) as u8)
}

#[test]
fn test_commands_that_reset() {
    for byte in 0..=0xff_u8 {
        let ports = I8042::windows();
        let expected = if byte >= 0xf0 && byte & 1 == 0 { Action::Reset } else { Action::Continue };
        assert_eq!(command(&ports, byte), expected, "command {byte:#x}");
        assert_eq!(data(&I8042::windows(), byte), Action::Continue);
    }
    let ports = I8042::windows();
    command(&ports, WRITE_OUTPUT_PORT);
    assert_eq!(data(&ports, 0x02), Action::Reset, "the output port's reset line is active low");
}

#[test]
fn test_answers_to_commands() {
    for (byte, expected) in [
        (READ_COMMAND_BYTE, Some(COMMAND_BYTE_AFTER_BIOS)),
        (SELF_TEST, Some(0x55)),
        (TEST_KEYBOARD, Some(1)),
        (TEST_MOUSE, Some(1)),
        (READ_OUTPUT_PORT, Some(3)),
        (DISABLE_KEYBOARD, None),
        (0xff, None),
    ] {
        let ports = I8042::windows();
        command(&ports, byte);
        assert_eq!(answer(&ports), expected, "command {byte:#x}");
        assert_eq!(answer(&ports), None, "only once");
    }
}

#[test]
fn test_probe_of_linux_waits_for_nothing() {
    let ports = I8042::windows();
    // i8042_flush: nothing is there.
    assert_eq!(answer(&ports), None);
    // i8042_controller_init: the command byte, read twice and the same; then written with the ports off.
    for _ in 0..2 {
        command(&ports, READ_COMMAND_BYTE);
        assert_eq!(answer(&ports), Some(0x74));
    }
    command(&ports, WRITE_COMMAND_BYTE);
    data(&ports, 0x35);
    command(&ports, READ_COMMAND_BYTE);
    assert_eq!(answer(&ports), Some(0x35));
    // i8042_check_aux: the loop comes back without the mouse's flag (bit 5), and the test is not 0x00, 0xfa or 0xff.
    command(&ports, LOOP_MOUSE);
    data(&ports, 0x5a);
    assert_eq!(status(&ports) & (STATUS_OUTPUT_FULL | 1 << 5), STATUS_OUTPUT_FULL);
    assert_eq!(answer(&ports), Some(0x5a));
    command(&ports, TEST_MOUSE);
    assert_eq!(answer(&ports), Some(1));
    // atkbd: identify the keyboard.
    data(&ports, 0xf2);
    assert_eq!(status(&ports) & STATUS_TIMEOUT, STATUS_TIMEOUT);
    assert_eq!(answer(&ports), Some(0xfe));
    assert_eq!(status(&ports) & STATUS_TIMEOUT, 0);
    // native_machine_emergency_restart: kb_wait, then the pulse.
    assert_eq!(status(&ports) & 1 << 1, 0);
    assert_eq!(command(&ports, 0xfe), Action::Reset);
}

#[test]
fn test_ports_turned_on_and_off_show_in_the_command_byte() {
    let ports = I8042::windows();
    for (byte, expected) in
        [(ENABLE_KEYBOARD, 0x64), (ENABLE_MOUSE, 0x44), (DISABLE_KEYBOARD, 0x54), (DISABLE_MOUSE, 0x74)]
    {
        command(&ports, byte);
        command(&ports, READ_COMMAND_BYTE);
        assert_eq!(answer(&ports), Some(expected), "command {byte:#x}");
    }
}

#[test]
fn test_command_ends_an_unfinished_one() {
    let ports = I8042::windows();
    command(&ports, WRITE_COMMAND_BYTE);
    assert_eq!(status(&ports) & STATUS_COMMAND, STATUS_COMMAND);
    command(&ports, DISABLE_KEYBOARD);
    data(&ports, 0xff);
    assert_eq!(answer(&ports), Some(NO_ANSWER), "it went to the keyboard");
    assert_eq!(status(&ports) & STATUS_COMMAND, 0);
    command(&ports, READ_COMMAND_BYTE);
    assert_eq!(answer(&ports), Some(0x74));
}

#[test]
fn test_reset_forgets() {
    let ports = I8042::windows();
    command(&ports, WRITE_COMMAND_BYTE);
    data(&ports, 0x01);
    command(&ports, SELF_TEST);
    ports.0.reset();
    assert_eq!((answer(&ports), status(&ports)), (None, STATUS_SYSTEM | STATUS_UNLOCKED));
    command(&ports, READ_COMMAND_BYTE);
    assert_eq!(answer(&ports), Some(0x74));
}

// fault row 13
#[test]
fn test_every_access_is_survived_and_only_offset_0_is_there() {
    let ports = I8042::windows();
    assert_eq!(read(&*ports.1, 0, 4), 0xffff_ff14);
    assert_eq!(write(&*ports.1, 1, 1, 0xfe), Action::Continue);
    sweep(&*ports.0, 1);
    sweep(&*ports.1, 1);
}

proptest! {
    #[test]
    fn test_any_guest_finds_the_controller_ready(guest in prop::collection::vec((any::<bool>(), steps(2)), 0..4)) {
        let ports = I8042::windows();
        for (to_command_port, steps) in guest {
            for step in steps {
                let (_, action) = play(if to_command_port { &*ports.1 } else { &*ports.0 }, step);
                prop_assert!(matches!(action, Action::Continue | Action::Reset));
                prop_assert_eq!(status(&ports) & 1 << 1, 0, "the input buffer is never full");
            }
        }
        read(&*ports.0, 0, 1);
        prop_assert_eq!(answer(&ports), None, "there is one byte at most");
        command(&ports, SELF_TEST);
        prop_assert_eq!(answer(&ports), Some(0x55));
    }
}
