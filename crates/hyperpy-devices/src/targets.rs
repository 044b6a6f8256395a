//! What the stock devices are fuzzed with, by name, as in the core: `fuzz/` makes a program of each.

#[path = "targets_fuzz.rs"]
mod devices;
#[path = "../../hyperpy-core/src/targets/input.rs"]
mod input;

use hyperpy_core::snapshot::Value;

pub(crate) use self::input::{any_of, changed, near, sorted, targets, with};

targets! {
    uart = crate::targets::devices::uart;
    rtc = crate::targets::devices::rtc;
    i8042 = crate::targets::devices::i8042;
    fw_cfg = crate::targets::devices::fw_cfg;
    acpi_pm = crate::targets::devices::acpi_pm;
    device_state = crate::targets::devices::device_state;
    console = crate::targets::devices::console;
}
