"""What a machine can boot: flat code, kernels by the Linux, PVH and Multiboot protocols, and firmware.

An image is a value that says what to load; `Machine.load` puts it into memory and sets vcpu 0 to its entry. The loaders
are in Rust; `recognise` makes the image that a file is for. The cache of unpacked kernels is in `_unpacked`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from hyperpy import _hyperpy
from hyperpy._value import Value
from hyperpy.device import DebugConsole, _Stock
from hyperpy.errors import BootError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy.machine import Machine

__all__ = ["Firmware", "Flat", "Image", "Linux", "Multiboot", "Pvh", "recognise"]

Source: TypeAlias = str | os.PathLike[str] | bytes
Module: TypeAlias = Source | tuple[Source, str]
_PAYLOAD_LIMIT = 1 << 30
_FW_CFG_PORT = 0x510
# A bzImage's setup header lies in its first two sectors (Documentation/arch/x86/boot.rst).
_SETUP_BYTES = 1024


class Image(Protocol):
    """Something that `Machine.load` takes."""

    def load_into(self, machine: Machine) -> None:
        """Put the image into the machine's memory and set vcpu 0 to its entry; run nothing."""


class Flat(Value):
    """Code as it is, entered at its first byte.

    Arguments:
        code: the bytes.
        at: gpa to load them at; in real mode below 1 MiB.
        mode: real (16-bit), protected (32-bit, flat, no paging) or long (64-bit, the first 4 GiB mapped one to one).

    rsp is 0x8ff0, interrupts are off. In protected and long mode the descriptor tables are made for it; exceptions
    shut the machine down until the code has an interrupt table.
    """

    code: Buffer
    at: int = 0x1000
    mode: Literal["real", "protected", "long"] = "long"

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        if not isinstance(self.at, int):
            raise TypeError(f"not a guest-physical address: {self.at!r}\n\nhint: a number, as at=0x1000")
        if not 0 <= self.at < 1 << 64:
            raise ValueError(f"not a guest-physical address: {self.at:#x}\n\nhint: from 0 to 2**64 - 1")
        if isinstance(self.code, str):
            hint = "bytes.fromhex(...) makes code of digits in base 16, open(path, 'rb').read() of a file"
            raise TypeError(f"not code: {self.code!r}\n\nhint: {hint}")
        _hyperpy.load_flat(machine._native, self.code, self.at, self.mode)


class Linux(Value):
    """A Linux kernel: bzImage (vmlinuz) or ELF vmlinux; also other programs of its boot protocol, such as memtest86+.

    Arguments:
        kernel: path, or the bytes.
        initrd: path or bytes of the initial RAM disk, or None.
        cmdline: kernel command line.
        unpack: unpack a bzImage's payload on the host, once, into the cache.

    Loading gives the machine a PC's stock devices with COM1 as its console, ACPI tables, interrupt controllers, and
    `unclaimed = "ones"`.
    """

    kernel: Source
    initrd: Source | None = None
    cmdline: str = "console=ttyS0"
    unpack: bool = True

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        kernel = _read(self.kernel, "kernel")
        initrd = None if self.initrd is None else _read(self.initrd, "initrd")
        cmdline = _line(self.cmdline)
        payload = _unpacked(kernel) if self.unpack else None
        setup = None if payload is None else kernel[:_SETUP_BYTES]
        machine.attach_pc()
        _hyperpy.load_linux(machine._native, payload or kernel, setup, initrd, cmdline, machine._listed())
        machine.unclaimed = "ones"


class Pvh(Value):
    """A kernel with a PVH entry (Xen's x86/HVM direct boot ABI): an ELF file with its note, as most vmlinux are.

    Arguments:
        kernel: path, or the bytes; gzip is unpacked, and of a bzImage its vmlinux is taken.
        initrd: path or bytes of the first module, which is Linux's initial RAM disk, or None.
        cmdline: kernel command line.
        modules: further modules: a path or bytes each, or a pair of that and a line of text for it.

    Loading gives the machine what loading a `Linux` does. There is no Xen below the kernel, only its way in.

    Example:
        >>> import hyperpy
        >>> from hyperpy import packages
        >>> with hyperpy.Machine(memory="256M") as m:  # doctest: +SKIP
        ...     m.load(hyperpy.Pvh(packages.kernel().vmlinuz, initrd="initrd.img"))
    """

    kernel: Source
    initrd: Source | None = None
    cmdline: str = "console=ttyS0"
    modules: Sequence[Module] = ()

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        kernel = _read_kernel(self.kernel)
        modules = [] if self.initrd is None else [(_read(self.initrd, "initrd"), b"")]
        modules += [(_read(source, "module"), _line(line)) for source, line in map(_module, self.modules)]
        cmdline = _line(self.cmdline)
        machine.attach_pc()
        _hyperpy.load_pvh(
            machine._native,
            _unpacked(kernel) or kernel,
            modules,
            cmdline,
            machine._listed(),
        )
        machine.unclaimed = "ones"


class Multiboot(Value):
    """A Multiboot 1 kernel, such as Xen and GNU Mach: ELF of either class, or a file whose header has addresses.

    Arguments:
        kernel: path, or the bytes; gzip is unpacked.
        cmdline: arguments. The kernel finds `NAME ARGUMENTS`, where NAME is its file's, as GRUB 0.97 and QEMU have it:
            Xen drops the first word.
        modules: a path or bytes each, or a pair of that and arguments, which get a name in front likewise.

    Loading gives the machine what loading a `Linux` does. The kernel is given memory, command line, modules, memory
    map and the boot loader's name (Multiboot Specification 0.6.96, 3.3), no screen and no symbols.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="512M") as m:  # doctest: +SKIP
        ...     xen = "com1=115200,8n1 console=com1"
        ...     m.load(hyperpy.Multiboot("xen-4.17-amd64.gz", xen, [("vmlinuz", "console=hvc0")]))
    """

    kernel: Source
    cmdline: str = ""
    modules: Sequence[Module] = ()

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        kernel = _read_kernel(self.kernel)
        modules = [
            (_gunzipped(_read(source, "module")), _named(source, "module", line))
            for source, line in map(_module, self.modules)
        ]
        cmdline = _named(self.kernel, "kernel", self.cmdline)
        machine.attach_pc()
        _hyperpy.load_multiboot(machine._native, kernel, modules, cmdline, machine._listed())
        machine.unclaimed = "ones"


class Firmware(Value):
    r"""A raw firmware image, such as SeaBIOS, that ends at 4 GiB; the vcpu starts at its reset vector in real mode.

    Arguments:
        image: path, or the bytes: whole 4 KiB pages, at most 16 MiB.
        files: further fw_cfg files by name, such as `{"bootorder": b"HALT\0"}`.
        debug_port: port of a debug console whose output goes to `m.console`, or None. SeaBIOS writes its log to 0x402.

    Its last 128 KiB are also in RAM below 1 MiB. Loading gives the machine a PC's stock devices, and fw_cfg at port
    0x510 with the number of vcpus and the memory map; there is no PCI, no disk and no screen. To see SeaBIOS's
    messages on COM1 rather than its log, give `debug_port=None` and the file `etc/sercon-port` with the bytes of 0x3f8.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="64M") as m:  # doctest: +SKIP
        ...     m.load(hyperpy.Firmware("/usr/share/seabios/bios.bin"))
        ...     m.start()
        ...     m.console.expect("No bootable device", timeout=20)
    """

    image: Source
    files: Mapping[str, bytes] = {}
    debug_port: int | None = 0x402

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        image = _read(self.image, "firmware")
        files = [(name, bytes(data)) for name, data in self.files.items()]
        machine.attach_pc()
        if self.debug_port is not None:
            _attach_once(machine, DebugConsole(machine.console), self.debug_port, "firmware log")
        # Before, so that a port which is taken is told before anything is in memory; and after: the map that it gives
        # shows the image.
        _attach_fw_cfg(machine, files)
        _hyperpy.load_firmware(machine._native, image)
        _attach_fw_cfg(machine, files)
        machine.unclaimed = "ones"


def _attach_fw_cfg(machine: Machine, files: list[tuple[str, bytes]]) -> None:
    fw_cfg = _Stock(_hyperpy.StockDevice.fw_cfg(machine._native, files))
    _attach_once(machine, fw_cfg, _FW_CFG_PORT, "fw_cfg")


def _attach_once(machine: Machine, device: _Stock, port: int, name: str) -> None:
    """Attach, in place of what an earlier load has put there."""
    for place, (_, facts) in list(machine._attached.items()):
        is_pio, _ = place
        if place in machine._brought and is_pio and facts["base"] == port:
            machine._take_off([place])
    machine.attach(device, pio=port, name=name)
    # Known at once: the load may replace it itself.
    machine._brought |= {place for place, (mine, _) in list(machine._attached.items()) if mine is device}


def recognise(
    kernel: Source,
    *,
    initrd: Source | None = None,
    cmdline: str | None = None,
    modules: Sequence[Module] = (),
) -> Linux | Pvh | Multiboot:
    """Return the image that a kernel's file is for, by what the file itself says.

    Arguments:
        kernel: path, or the bytes; looked at when gzip is unpacked.
        initrd: for `Linux` and `Pvh`.
        cmdline: kernel command line; None is the default of the image's class.
        modules: for `Multiboot` and `Pvh`.

    A setup header makes it a `Linux`, a Multiboot 1 header a `Multiboot`, the PVH note a `Pvh`; any other ELF file of
    the 64-bit class is a `Linux`. Flat code and firmware have no mark.

    Raises:
        BootError: it is none of these, cannot be read, or is given what its kind does not take.

    Example:
        >>> recognise(bytes(0x202) + b"HdrS").cmdline
        'console=ttyS0'
        >>> recognise(b"MZ")
        Traceback (most recent call last):
        ...
        hyperpy.errors.BootError: not a kernel of any known kind: first bytes: [4d, 5a]
        ...
    """
    options: dict[str, Any] = {} if cmdline is None else {"cmdline": cmdline}
    match _hyperpy.recognise(_read_kernel(kernel)):
        case "multiboot":
            if initrd is not None:
                raise BootError("a Multiboot kernel takes no initrd", hint="give the file as a module")
            return Multiboot(kernel, modules=modules, **options)
        case "pvh":
            return Pvh(kernel, initrd, modules=modules, **options)
        case _:
            if modules:
                raise BootError(
                    "a Linux kernel takes no modules", hint="Multiboot and PVH kernels do; it takes an initrd"
                )
            return Linux(kernel, initrd, **options)


def _module(module: Module) -> tuple[Source, str]:
    return module if isinstance(module, tuple) else (module, "")


def _named(source: Source, name: str, arguments: str) -> bytes:
    """Put a file's name in front of its arguments."""
    name = name if isinstance(source, bytes) else os.path.basename(source)
    return name.encode() + b" " * bool(arguments) + _line(arguments).rstrip()


def _line(text: str) -> bytes:
    """A command line as bytes."""
    if not isinstance(text, str):
        raise TypeError(f'not a command line: {text!r}\n\nhint: text; cmdline="" for none')
    return text.encode()


def _read_kernel(source: Source) -> bytes:
    return _gunzipped(_read(source, "kernel"))


def _gunzipped(file: bytes) -> bytes:
    unpacked = _hyperpy.gunzip(file, _PAYLOAD_LIMIT)
    return file if unpacked is None else unpacked


def _read(source: Source, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    given: object = source
    if not isinstance(given, str | os.PathLike):
        hint = f"a path, or bytes; bytes(...) makes them of a {type(given).__name__} that holds the file"
        raise TypeError(f"{what} is a {type(given).__name__}\n\nhint: {hint}")
    try:
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        hint = "check the path; `ls -l` shows whether you may read it"
        raise BootError(f"{what} cannot be read: {error}", hint=hint) from error


def _unpacked(kernel: bytes) -> bytes | None:
    from hyperpy._unpacked import unpacked_kernel  # noqa: PLC0415 - what it imports costs more than all of this module

    return unpacked_kernel(kernel)
