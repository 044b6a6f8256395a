"""Bugs that were planted on purpose: what a fuzzer is measured by, and worked material for the guides.

Each module is one device with one bug, and beside it the device without; `PLANTED` of this package has them all.
"""

from . import (
    atapi,
    blitter,
    chain,
    cipher,
    codec,
    disk,
    floppy,
    gpio,
    lines,
    lockbox,
    log,
    loopback,
    mailbox,
    ne2000,
    offload,
    queues,
    reader,
    rtc,
    scripts,
    sdhost,
    sdslot,
    sender,
    serial,
    slots,
    sound,
    surface,
    tape,
    usb,
    watchdog,
)
from .table import Planted

__all__ = ["PLANTED", "Planted"]

PLANTED: tuple[Planted, ...] = tuple(
    module.PLANTED
    for module in (
        gpio,
        floppy,
        ne2000,
        queues,
        serial,
        mailbox,
        scripts,
        chain,
        blitter,
        sound,
        lines,
        reader,
        slots,
        sdslot,
        sender,
        log,
        sdhost,
        codec,
        watchdog,
        tape,
        lockbox,
        disk,
        surface,
        cipher,
        offload,
        loopback,
        rtc,
        atapi,
        usb,
    )
)
