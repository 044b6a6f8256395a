//! Calling a device for an access: at once where it is written in Rust, and with the access noted where its methods are
//! Python's, which may take any time.

use super::{Current, Pending, Shared, alone};
use crate::accel;
use crate::bus::{Access, Action, Place, Region, Rung};
use crate::machine::Machine;

/// Serves a value of an access by the device's methods, after what the device keeps.
#[inline(never)]
pub(super) fn by_method(
    accel: &mut dyn accel::Vcpu,
    shared: &Shared,
    machine: &Machine,
    region: &Region,
    at: Access,
    access: &Pending,
    index: u32,
) {
    let Pending { space, address, size, is_write, .. } = *access;
    let (id, vcpu, rip) = (machine.id, at.vcpu, accel.rip());
    shared.counters.hit(Rung::Method);
    shared.presence.go_to(Place::of(space, region.id));
    if region.device.has_late() {
        machine.flush(region, space);
    }
    let current = Current { machine: id, vcpu, rip, space: Some(space), address, size, is_write };
    let action = alone(current, || called(accel, region, at, is_write, index));
    shared.presence.back();
    shared.presence.leave();
    if action != Action::Continue {
        machine.control.device_asks(vcpu, action);
    }
}

/// Calls a device for a value of an access.
#[inline]
pub(super) fn called(accel: &mut dyn accel::Vcpu, region: &Region, at: Access, is_write: bool, index: u32) -> Action {
    if is_write {
        region.device.write(at, accel.io_value(index))
    } else {
        let value = region.device.read(at);
        accel.set_io_value(index, value);
        Action::Continue
    }
}
