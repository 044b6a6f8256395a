"""`hyperpy run`: its arguments, and the machine's spec that they and a spec's file make together.

A spec's file says what there is, options say what is otherwise this time. Paths of options are relative to the current
folder, those in the file to its own. Nothing native is imported here.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from hyperpy._terminal import KEYS
from hyperpy._usage import Parser, checked, count, number, seconds
from hyperpy._words import nearest

if TYPE_CHECKING:
    from hyperpy._spec_image import ImageSpec
    from hyperpy.spec import DeviceSpec, MachineSpec

__all__ = ["SPECS", "device", "run_parser", "spec_from"]

_RUN_EPILOG = f"""\
keys, while a terminal is the guest's console:
  {KEYS}

exit status:
  0 after power-off or reset; value * 2 + 1, cut to 8 bits, after a write to the debug-exit port; 124 on timeout;
  130 after Ctrl-C; 1 on any other end and on errors. A script's status is its own.

examples:
  hyperpy run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2 --append "console=ttyS0 panic=-1"
  hyperpy run --kernel vmlinuz --device mydevices:Doorbell@mmio=0xfe000000,size=0x100,irq=10
  hyperpy run --kernel xen.gz --append "com1=115200,8n1 console=com1" --module vmlinuz console=hvc0
  hyperpy run machine.toml --memory 1G
  hyperpy run --kernel test.elf --debug-exit 0xf4 --serial file:log.txt --timeout 60
  hyperpy run script.py --its-own-option"""
# How the names of specs end.
SPECS = (".toml", ".json")
_MEMORY = "512M"
# Exits that are recorded where nobody says how many: an error shows the last ones. They cost about 40 ns each.
_TRACED = 16


def device(text: str) -> DeviceSpec:
    """A device as the command line names it: `module:Class@mmio=ADDRESS,size=BYTES,irq=GSI`, or `pio=` for `mmio=`.

    A line of several is named: `irq.rx=GSI`.

    Raises:
        ValueError: it is none; the message has a hint.

    Example:
        >>> device("bells:Doorbell@mmio=0xfe000000,irq=10").irq
        10
    """
    from hyperpy.spec import DeviceSpec, SpecError  # noqa: PLC0415 - help needs no specs

    example = "write it as module:Class@mmio=0xfe000000,irq=10"
    path, at, places = text.partition("@")
    match = re.fullmatch(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)", path)
    if match is None or match[1].endswith(".py"):
        if ".py:" in path:
            example = "name the module without .py; it is also found in the current folder"
        raise ValueError(f"not a module and class: {path!r}\n\nhint: {example}")
    if not at:
        raise ValueError(f"device has no address: {text}\n\nhint: {example}")
    values: dict[str, Any] = {}
    for place in places.split(","):
        key, _, value = place.partition("=")
        key, dot, line = key.partition(".") if key.startswith("irq.") else (key, "", "")
        if key not in {"pio", "mmio", "size", "irq"}:
            known = nearest(key, ["pio", "mmio", "size", "irq"]) or "pio, mmio, size and irq are known"
            raise ValueError(f"unknown key of a device: {key!r}\n\nhint: {known}")
        mine, name = (values.setdefault(key, {}), line) if dot else (values, key)
        if not isinstance(mine, dict) or name in mine:
            raise ValueError(
                f"key is given twice: {key}{dot}{line}\n\nhint: give each once, and --device once per device"
            )
        mine[name] = number(value)
    if ("pio" in values) == ("mmio" in values):
        raise ValueError(f"a device sits on one bus: {text}\n\nhint: give pio=PORT or mmio=ADDRESS")
    try:
        return DeviceSpec(model=path, **values)
    except SpecError as error:
        raise ValueError(f"{error.path} of a device is {error.what}\n\nhint: {error.hint}") from None


def _size(text: str) -> int:
    from hyperpy.memory import parse_size  # noqa: PLC0415 - help needs no sizes

    return parse_size(text)


def _port(text: str) -> int:
    if (value := number(text)) > 0xFFFF:
        raise ValueError(f"not a port: {value:#x}\n\nhint: from 0 to 0xffff")
    return value


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"not a number of processors: {text!r}\n\nhint: 0.5 is half of one, 2 is two")
    return value


def _traced(text: str) -> int:
    if (value := number(text)) > 1 << 20:
        raise ValueError(f"number of exits to record is out of range: {value}\n\nhint: from 0 to 2**20")
    return value


def _processors(text: str) -> set[int]:
    most, numbers = os.sysconf("SC_NPROCESSORS_CONF") - 1, set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = number(first), number(last or first)
        if begin <= end and end > most:
            raise ValueError(f"no such processor on this host: {end}\n\nhint: from 0 to {most}")
        numbers |= set(range(begin, end + 1))
    if not numbers:
        raise ValueError(f"no processors: {text!r}\n\nhint: 0,1 or 0-3")
    return numbers


def _serial(text: str) -> str:
    if text in {"stdio", "none"} or (text.startswith("file:") and text != "file:"):
        return text
    raise ValueError(f"unknown serial line: {text!r}\n\nhint: stdio, file:PATH or none")


def run_parser() -> Parser:
    """What reads the arguments."""
    parser = Parser(
        prog="hyperpy run",
        usage="hyperpy run --kernel K [options]\n       hyperpy run --firmware F [options]\n       hyperpy run machine.toml [options]\n       hyperpy run SCRIPT [ARGUMENT ...]",
        description="Boot a kernel or firmware in a machine, run what a spec's file says, or a Python script as `python SCRIPT` does.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = "bzImage, ELF file or Multiboot kernel: its kind is recognised; gzip is unpacked"
    add("--kernel", metavar="K", help=text)
    add("--firmware", metavar="F", help="in place of a kernel: raw firmware such as SeaBIOS's bios.bin")
    add("--initrd", metavar="I", help="initial RAM disk")
    text = "module for a Multiboot or PVH kernel, and its arguments; can be repeated"
    add("--module", nargs="+", action="append", default=[], metavar=("FILE", "ARGS"), help=text)
    text = "kernel command line (default: console=ttyS0, and nothing for Multiboot)"
    add("--append", metavar="S", help=text)
    add("--memory", type=checked(_size), metavar="SIZE", help=f"RAM (default: {_MEMORY})")
    add("--cpus", type=checked(count), metavar="N", help="vcpus (default: 1)")
    add(
        "--cpu-limit",
        type=checked(_limit),
        metavar="X",
        help="processors whose time all vcpus may use together, such as 0.5 or 2",
    )
    add(
        "--pin",
        type=checked(_processors),
        metavar="LIST",
        help="the host's processors to run on: 0,1 or 0-3",
    )
    add(
        "--trace",
        type=checked(_traced),
        metavar="N",
        help=f"record the last N exits of each vcpu, which errors show; 0 for none (default: {_TRACED})",
    )
    spec = "module:Class@mmio=ADDRESS[,size=BYTES][,irq=GSI]"
    text = (
        "attach a device written in Python, made without arguments; pio=PORT in place of mmio; irq.NAME=GSI for a line of several; "
        "can be repeated"
    )
    add("--device", type=checked(device), action="append", default=[], metavar=spec, help=text)
    add(
        "--debug-exit",
        type=checked(_port),
        metavar="PORT",
        help="end when the guest writes to this port, often 0xf4",
    )
    add(
        "--serial",
        type=checked(_serial),
        metavar="stdio|file:PATH|none",
        help="COM1 (default: stdio)",
    )
    add("--timeout", type=checked(seconds), metavar="S", help="end after so many seconds, with status 124")
    return parser


def spec_from(options: argparse.Namespace, base: MachineSpec | None) -> MachineSpec:
    """What to run: the options over what the file says.

    Raises:
        ValueError: there is nothing to run, or an option is for another kind of image; the message has a hint.
        FileNotFoundError: the current folder is gone.
    """
    from hyperpy.spec import DeviceSpec, MachineSpec  # noqa: PLC0415

    spec = base or MachineSpec(memory=_MEMORY)
    image = _image(options, base)
    devices = spec.devices
    if options.debug_exit is not None:
        devices = tuple(one for one in devices if one.model != "debug-exit")
        devices += (DeviceSpec(model="debug-exit", pio=options.debug_exit),)
    if options.device and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    serial = options.serial
    if serial is not None and serial.startswith("file:"):
        serial = f"file:{_here(serial.removeprefix('file:'), base)}"
    more = {
        "memory": options.memory,
        "vcpus": options.cpus,
        "cpus": options.pin,
        "cpu_limit": options.cpu_limit,
        "trace": options.trace if options.trace is not None else spec.trace or _TRACED,
        "serial": serial,
    }
    return replace(
        spec,
        name=spec.name or os.path.basename(getattr(image, image.files[0]) or "") or None,
        image=image,
        devices=(*options.device, *devices),
        **{key: value for key, value in more.items() if value is not None},
    )


def _here(path: str, base: MachineSpec | None) -> str:
    """A path of the command line, for a spec whose paths may be relative to another folder."""
    return path if base is None else os.path.abspath(path)


def _image(options: argparse.Namespace, base: MachineSpec | None) -> ImageSpec:
    from hyperpy.spec import FirmwareSpec, KernelSpec, ModuleSpec  # noqa: PLC0415

    modules = tuple(ModuleSpec(file=_here(file, base), line=" ".join(line)) for file, *line in options.module)
    given: dict[str, tuple[str, Any]] = {
        "initrd": ("--initrd", options.initrd and _here(options.initrd, base)),
        "modules": ("--module", modules or None),
        "cmdline": ("--append", options.append),
    }
    given = {key: value for key, value in given.items() if value[1] is not None}
    changes = {key: value for key, (_, value) in given.items()}
    if options.firmware is not None:
        if options.kernel is not None or given:
            first = "--kernel" if options.kernel is not None else next(iter(given.values()))[0]
            hint = "it is for --kernel; give one of the two"
            raise ValueError(f"not an option of firmware: {first}\n\nhint: {hint}")
        return FirmwareSpec(file=_here(options.firmware, base))
    if options.kernel is not None:
        if options.kernel.lower().endswith(SPECS):
            hint = f"`hyperpy run {options.kernel}`"
            raise ValueError(f"not a kernel but a spec: {options.kernel}\n\nhint: {hint}")
        return KernelSpec(kernel=_here(options.kernel, base), **changes)
    if base is None or base.image is None:
        hint = "give --kernel K, or a script: `hyperpy run SCRIPT`"
        raise ValueError(
            f"nothing to run\n\nhint: {hint if base is None else 'give the spec an [image], or --kernel K'}"
        )
    for key, (option, _) in given.items():
        if key not in {place.name for place in fields(base.image)}:
            hint = "give --kernel K too, or another spec"
            raise ValueError(f"the spec's image takes no {option}\n\nhint: {hint}")
    return replace(base.image, **changes)
