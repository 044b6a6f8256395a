"""Arguments of the wrong kind: what is said is ours, names the mistake, and tells what to write. No KVM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hyperpy import Device, Flat, Linux, Machine, MachineSpec, Multiboot, Pvh, Stop, bench, budget
from hyperpy.console import Console
from hyperpy.msrs import msr_index
from hyperpy.testing import Read, ScriptedMachine, state_machine


class Slotted:
    __slots__ = ()
    size = 4

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None: ...


ELF = b"\x7fELF"


def _on(act: Callable[[Any], object]) -> Callable[[], object]:
    """Do it to a machine."""

    def call() -> object:
        with ScriptedMachine([], irqchip=False) as m:
            return act(m)

    return call


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "cpus": (lambda: Machine(cpus=_any(2)), TypeError, "not a set of processors: 2", "vcpus=2"),
    "code": (_on(lambda m: m.load(Flat(_any("f4")))), TypeError, "not code: 'f4'", "bytes.fromhex"),
    "at": (_on(lambda m: m.load(Flat(b"\xf4", at=_any("0x1000")))), TypeError, "'0x1000'", "a number"),
    "kernel": (_on(lambda m: m.load(Linux(_any(bytearray(4))))), TypeError, "kernel is a bytearray", "bytes"),
    "cmdline": (_on(lambda m: m.load(Linux(ELF, cmdline=_any(None)))), TypeError, "None", 'cmdline=""'),
    "cmdline of PVH": (_on(lambda m: m.load(Pvh(ELF, cmdline=_any(None)))), TypeError, "None", 'cmdline=""'),
    "arguments": (_on(lambda m: m.load(Multiboot(ELF, _any(None)))), TypeError, "None", 'cmdline=""'),
    "stop": (_on(lambda m: m.stop(3)), TypeError, "not a reason: 3", '"why"'),
    "Stop": (lambda: Stop(_any(3)), TypeError, "not a reason: 3", 'Stop("why")'),
    "capacity": (lambda: Console(-1), ValueError, "capacity is out of range: -1", "bytes"),
    "descriptor": (_on(lambda m: m.console.sink(1 << 40)), ValueError, "not a descriptor", "fileno()"),
    "place": (
        _on(lambda m: m.attach(Device(), mmio=_any("0xfe000000"), size=4)),
        TypeError,
        "mmio='0xfe",
        "a number",
    ),
    "two places": (
        _on(lambda m: m.attach(Device(), pio=_any([1, 2]), size=4)),
        TypeError,
        "pio=[1, 2]",
        "pio=0x300",
    ),
    "report": (
        lambda: bench.compare(_any("a.json"), _any("b.json")),
        TypeError,
        "not a report: 'a.json'",
        "Report.load",
    ),
    "guest": (
        lambda: bench.measure(_any(Device()), rounds=1),
        TypeError,
        "not a machine: <",
        "that makes one",
    ),
    "device made": (
        lambda: state_machine(_any(Device())),
        TypeError,
        "made already: Device",
        "its class, Device",
    ),
    "slots": (
        _on(lambda m: m.attach(Slotted(), pio=0x80, irq=5)),
        TypeError,
        "takes no attribute `irq`",
        "__slots__",
    ),
    "script": (lambda: ScriptedMachine([_any((1, 2))]), TypeError, "not an access: (1, 2)", "Read(mmio="),
    "times": (lambda: ScriptedMachine([Read(pio=1, size=1, times=-1)]), ValueError, "times", "1 or more"),
    "from_spec": (lambda: Machine.from_spec(_any("x.toml")), TypeError, "'x.toml'", "MachineSpec.from_file"),
    "diff": (lambda: MachineSpec().diff(_any(3)), TypeError, "not a spec: 3", "MachineSpec"),
    "from_toml": (lambda: MachineSpec.from_toml(_any(b"a = 1")), TypeError, "b'a = 1'", "decode()"),
    "from_json": (lambda: MachineSpec.from_json(_any(b"{}")), TypeError, "b'{}'", "decode()"),
    "from_file": (lambda: MachineSpec.from_file(_any(b"a.toml")), TypeError, "b'a.toml'", "decode()"),
}


def _any(value: Any) -> Any:
    return value


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_and_its_hint_tells_what_to_write(name: str) -> None:
    make, kind, what, told = MISTAKES[name]
    with pytest.raises(kind) as caught:
        make()
    message, _, hint = str(caught.value).partition("\n\nhint: ")
    assert what in message
    assert told in hint


def test_device_that_has_a_slot_for_its_line_takes_one() -> None:
    class WithSlot(Slotted):
        __slots__ = ("irq",)

    with ScriptedMachine([]) as m:
        assert m.attach(WithSlot(), pio=0x80, irq=5).irq
        assert m.attach(Device(), pio=0x90, size=4, irq=6).irq


@pytest.mark.parametrize(
    ("name", "hint"), [("unclaimd", "did you mean unclaimed?"), ("zzz", "a class of your own")]
)
def test_attribute_that_a_machine_has_not_is_refused(name: str, hint: str) -> None:
    with ScriptedMachine([]) as m:
        with pytest.raises(AttributeError) as caught:
            setattr(m, name, "ones")
        assert str(caught.value).startswith(f"a machine has no attribute {name!r}\n\nhint: {hint}")
        m.name, m.unclaimed = "one", "ones"


def test_attribute_of_a_class_of_ones_own_can_be_set() -> None:
    class Mine(ScriptedMachine):
        pass

    with Mine([]) as m:
        m.tag = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "meant"), [("LSTAR", "IA32_LSTAR"), ("ia32_efer", "IA32_EFER"), ("IA32_PATT", "IA32_PAT")]
)
def test_msr_by_another_name_is_a_key_error_that_names_it(name: str, meant: str) -> None:
    with pytest.raises(
        KeyError, match=rf"no msr is known by that name: {name}; hint: did you mean {meant}\?"
    ):
        msr_index(name)


def test_machine_that_is_refused_does_not_count_in_the_budget() -> None:
    before = budget().memory_used
    with pytest.raises(ValueError, match="unknown policy") as caught:
        ScriptedMachine([], unclaimed="one")
    assert budget().memory_used == before
    assert caught.value  # which holds the frame, and so the machine
