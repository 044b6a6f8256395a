"""Exits of every kind that this KVM gives, the three modes of flat code, several vcpus, interrupts, memory regions."""

from __future__ import annotations

import array
import threading
from typing import Any, assert_never, cast

import pytest
from tests.guests import assemble, guest, spin

import hyperpy
from hyperpy import AnyExit, BootError, Device, Exit, Flat, MemoryAccessError, StateError
from hyperpy.doctor import flavour

pytestmark = pytest.mark.core

RUN = 10.0
MMIO = 0xFE00_0000


def word_for(exit_: AnyExit) -> str:
    """As a script would write it; a type checker sees that no case is missing."""
    match exit_:
        case Exit.Halt(vcpu=0):
            return "halt"
        case Exit.Halt():
            return "halt elsewhere"
        case Exit.Pio(address=port, size=size, is_write=True, value=value):
            return f"out {port:#x} {size} {value:#x}"
        case Exit.Pio(address=port, size=size):
            return f"in {port:#x} {size}"
        case Exit.Mmio(address=gpa, size=size, is_write=True, value=value):
            return f"write {gpa:#x} {size} {value:#x}"
        case Exit.Mmio(address=gpa, size=size):
            return f"read {gpa:#x} {size}"
        case Exit.Stopped(reason=why):
            return why
        case Exit.InternalError(suberror=1, bytes=code):
            return f"cannot emulate {code[:2].hex()}"
        case Exit.Shutdown():
            return "shutdown"
        case Exit.Timeout():
            return "timeout"
        case Exit.InternalError() | Exit.FailEntry() | Exit.Hypercall() | Exit.Msr() | Exit.Debug():
            return "other"
        case Exit.SystemEvent(kind=kind):
            return kind
        case _:
            assert_never(exit_)


@pytest.mark.parametrize(
    ("source", "mode", "word"),
    [
        ("hlt", "real", "halt"),
        ("hlt", "protected", "halt"),
        ("hlt", "long", "halt"),
        ("mov ax, 0x1234\n out 0x98, ax", "real", "out 0x98 2 0x1234"),
        ("in eax, 0x98", "real", "in 0x98 4"),
        ("mov byte ptr [0xfe000003], 5", "protected", "write 0xfe000003 1 0x5"),
        ("mov eax, [0xfe000000]", "protected", "read 0xfe000000 4"),
        ("mov rbx, 0xfe000000\n mov rax, [rbx]", "long", "read 0xfe000000 8"),
        (spin(), "long", "timeout"),
        ("ud2", "long", "shutdown"),
        ("lidt [0x3000]\n ud2", "protected", "shutdown"),
    ],
)
def test_run_of_a_guest_gives_its_exit(boot: Any, source: str, mode: str, word: str) -> None:
    assert word_for(boot(source, mode).run(0.2 if word == "timeout" else RUN)) == word


@pytest.mark.fault(23)
def test_triple_fault_ends_the_guest(boot: Any) -> None:
    m = boot("ud2", "long")
    assert m.run(RUN) == Exit.Shutdown(0)
    assert m.state == "stopped"
    # kvm-amd resets a vcpu that shuts down: its rip is that of a processor that starts.
    assert m.vcpus[0].regs.rip == (0xFFF0 if flavour() == "amd" else 0x1000)
    with pytest.raises(StateError, match="the guest has ended"):
        m.run(RUN)


@pytest.mark.fault(24)
def test_instruction_that_the_emulator_lacks_is_an_internal_error_or_runs(boot: Any) -> None:
    """x87 at CPL 0 is interpreted on some hosts, whose KVM cannot; processors run it."""
    m = boot("fld1\n hlt", "long")
    exit_ = m.run(RUN)
    if flavour() != "page-table":
        assert exit_ == Exit.Halt(0)
    else:
        assert isinstance(exit_, Exit.InternalError)
        assert (exit_.suberror, exit_.bytes[:2]) == (1, b"\xd9\xe8")
        assert m.state == "paused"
        assert m.vcpus[0].regs.rip == 0x1000


def test_power_off_through_acpi_is_a_system_event(boot: Any) -> None:
    m = boot("mov dx, 0x604\n mov ax, 0x3400\n out dx, ax\n hlt")
    m.attach_pc()
    control = next(row for row in m.map.rows if row.name == "acpi pm1a control")
    if control.base != 0x604:
        m.load(Flat(assemble(f"mov dx, {control.base}\n mov ax, 0x3400\n out dx, ax\n hlt"), mode="real"))
    assert m.run(RUN) == Exit.SystemEvent(0, "power-off", 1)
    assert m.state == "stopped"


def test_reset_through_the_keyboard_controller_is_a_system_event(boot: Any) -> None:
    m = boot("mov al, 0xfe\n out 0x64, al\n hlt")
    m.attach_pc()
    assert m.run(RUN) == Exit.SystemEvent(0, "reset", 2)


def test_attach_pc_twice_is_fine_and_over_a_device_is_refused(boot: Any) -> None:
    m = boot()
    m.attach_pc()
    rows = m.map.rows
    m.attach_pc()
    assert m.map.rows == rows
    other = boot()
    other.attach(hyperpy.DebugExit(), pio=0x3F8)
    with pytest.raises(hyperpy.DeviceError, match="overlaps DebugExit at 0x3f8"):
        other.attach_pc()
    assert len(other.map.rows) == 2


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_flat_code_in_each_mode_begins_as_told(boot: Any, mode: str) -> None:
    m = boot("hlt", mode)
    vcpu = m.vcpus[0]
    assert (vcpu.regs.rip, vcpu.regs.rsp, vcpu.regs.rflags) == (0x1000, 0x8FF0, 2)
    assert bool(vcpu.sregs.cr0 & 1) == (mode != "real")
    assert bool(vcpu.sregs.efer & 0x400) == (mode == "long")
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Flat(b"", at=0x1000), "empty"),
        (Flat(b"\xf4", at=0x100000, mode="real"), "beyond what real mode reaches"),
        (Flat(b"\xf4", at=1 << 40), "beyond what long mode reaches"),
        (Flat(b"\xf4", at=0x20_0000), "no memory at 0x200000"),
        (Flat(b"\xf4" * 0x1001, at=0x1F_F000), "no memory"),
        (Flat(b"\xf4", at=2**64 - 1), "beyond"),
    ],
)
def test_flat_code_that_does_not_fit_is_refused(boot: Any, image: Flat, says: str) -> None:
    with pytest.raises(BootError, match=says):
        boot().load(image)


@pytest.mark.parametrize(
    "image", [Flat(b"\xf4", at=-1), Flat(b"\xf4", at=2**64), Flat(b"\xf4", mode=cast("Any", "virtual"))]
)
def test_flat_code_of_wrong_options_is_refused(boot: Any, image: Flat) -> None:
    with pytest.raises(ValueError, match="hint: "):
        boot().load(image)


def test_flat_code_from_any_buffer_is_taken(boot: Any) -> None:
    codes: list[Any] = [bytearray(b"\xf4"), memoryview(b"\xf4"), array.array("H", [0xF4F4])]
    for code in codes:
        m = boot()
        m.load(Flat(code, mode="real"))
        assert m.run(RUN) == Exit.Halt(0)


# Starts vcpus 1 to n by INIT and SIPI to each (SDM vol. 3, 11.4), then halts. The APIC is enabled first, as operating
# systems do: KVM brings its table of destinations up to date then.
def _start_others(count: int) -> str:
    each = [
        f"mov dword ptr [0xfee00310], {apic << 24:#x}\n mov dword ptr [0xfee00300], {command:#x}"
        for apic in range(1, count)
        for command in (0x4500, 0x4608)
    ]
    return "\n".join(["mov dword ptr [0xfee000f0], 0x1ff", *each, "out 0x80, al\n cli\n hlt"])


@pytest.mark.parametrize("count", [2, 4])
def test_several_vcpus_are_in_one_device_at_once(boot: Any, count: int) -> None:
    together = threading.Barrier(count)

    class Meeting(Device):
        size = 1

        def __init__(self) -> None:
            self.threads: set[int] = set()

        def write(self, offset: int, size: int, value: int) -> None:
            together.wait(RUN)
            self.threads.add(threading.get_ident())

    m = boot(_start_others(count), "protected", vcpus=count)
    m.memory.write(0x8000, assemble("out 0x80, al\n cli\n hlt", "real", 0x8000))
    meeting = m.attach(Meeting(), pio=0x80)
    assert isinstance(m.run(RUN), Exit.Halt)
    assert len(meeting.threads) == count
    assert [vcpu.hits["python"] for vcpu in m.stats.vcpus] == [1] * count


def test_exits_of_several_vcpus_are_returned_one_by_one_before_any_runs_on(boot: Any) -> None:
    m = boot(_start_others(2).replace("0x80", "0x99"), "protected", vcpus=2)
    m.memory.write(0x8000, assemble("out 0x98, al\n out 0x98, al\n cli\n hlt", "real", 0x8000))
    seen = []
    while not isinstance(exit_ := m.run(RUN), Exit.Halt):
        seen.append((exit_.vcpu, exit_.address))
    assert sorted(seen) == [(0, 0x99), (1, 0x98), (1, 0x98)]


def test_halt_with_interrupts_on_is_idle_and_with_them_off_is_an_exit(boot: Any) -> None:
    """Rule 10."""
    assert boot("sti\n hlt", irqchip=True).run(0.3) == Exit.Timeout()
    assert boot("cli\n hlt", irqchip=True).run(RUN) == Exit.Halt(0)
    assert boot("sti\n hlt").run(RUN) == Exit.Halt(0)


def test_run_after_a_halt_goes_past_it(boot: Any) -> None:
    m = boot("hlt\n mov bl, 7\n hlt")
    assert m.run(RUN) == Exit.Halt(0)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 7


class Source(Device):
    """The device of pic.S: raises its line, lowers it when it is served, and says how often that was."""

    size = 3

    def __init__(self, level: bool) -> None:
        self.level = level
        self.served = 0
        self.total = -1
        self.ready = threading.Event()
        self.was_served = threading.Semaphore(0)

    def read(self, offset: int, size: int) -> int:
        self.served += 1
        assert self.irq is not None
        if self.level:
            self.irq.set(False)
        self.was_served.release()
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 1:
            self.total = value
        else:
            self.ready.set()


@pytest.mark.parametrize("level", [False, True])
def test_interrupt_line_reaches_the_handler_of_the_guest(boot: Any, level: bool) -> None:
    m = boot()
    m.load(Flat(guest("pic"), mode="real"))
    m.memory.write(0x3000, bytes([3, 0, 0x20 if level else 0]))
    source = m.attach(Source(level), pio=0x300, irq=5)
    assert source.irq is not None
    assert source.irq.gsi == 5
    m.start()
    assert source.ready.wait(RUN)
    for _ in range(3):
        if level:
            source.irq.set(True)
        else:
            source.irq.pulse()
        assert source.was_served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert (source.total, source.served) == (3, 3)


@pytest.mark.fault(46)
def test_level_line_that_is_never_lowered_interrupts_again_and_can_be_stopped(boot: Any) -> None:
    m = boot()
    m.load(Flat(guest("pic"), mode="real"))
    m.memory.write(0x3000, bytes([255, 0, 0x20]))
    source = m.attach(Source(level=False), pio=0x300, irq=5)
    assert source.irq is not None
    m.start()
    assert source.ready.wait(RUN)
    source.irq.set(True)
    for _ in range(5):
        assert source.was_served.acquire(timeout=RUN)
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")


@pytest.mark.fault(46)
def test_line_driven_before_the_first_run_and_after_close_is_harmless(boot: Any) -> None:
    m = boot()
    device = m.attach(Device(), pio=0x300, size=1, irq=5)
    device.irq.set(True)
    m.run(0)
    device.irq.set(False)
    m.close()
    device.irq.pulse()


def test_irq_asked_for_after_the_vcpus_exist_is_an_error_that_says_so(boot: Any) -> None:
    m = boot()
    m.run(0)
    device = Device()
    with pytest.raises(StateError, match="already exist"):
        m.attach(device, pio=0x300, size=1, irq=5)
    assert device.irq is None
    assert len(m.map.rows) == 1


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("rxa", 1, AttributeError),
        ("rax", -1, ValueError),
        ("rax", 1 << 64, ValueError),
        ("rax", "1", TypeError),
        ("rax", 1.0, TypeError),
    ],
)
def test_general_register_of_wrong_name_or_value_is_refused_and_none_is_changed(
    boot: Any, name: str, value: Any, error: type[Exception]
) -> None:
    regs = boot().vcpus[0].regs
    with pytest.raises(error):
        regs.update({"rbx": 5, name: value})
    assert regs.rbx == 0
    with pytest.raises(error):
        setattr(regs, name, value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("cr9", 1, AttributeError),
        ("cr3", -1, ValueError),
        ("cs", 8, TypeError),
        ("cs", (1, 2), TypeError),
        ("cs", hyperpy.Segment(selector=1 << 16), ValueError),
        ("gdt", hyperpy.DescriptorTable(0, 1 << 16), ValueError),
        ("efer", None, TypeError),
    ],
)
def test_special_register_of_wrong_name_or_value_is_refused(
    boot: Any, name: str, value: Any, error: type[Exception]
) -> None:
    sregs = boot().vcpus[0].sregs
    before = sregs.all()
    with pytest.raises(error):
        setattr(sregs, name, value)
    assert sregs.all() == before


def test_registers_set_are_read_back_and_shown(boot: Any) -> None:
    vcpu = boot().vcpus[0]
    vcpu.regs.update(rax=1, r15=2**64 - 1)
    assert (vcpu.regs.rax, vcpu.regs.r15) == (1, 2**64 - 1)
    assert "r15 ffffffffffffffff" in repr(vcpu.regs)
    vcpu.sregs.ds = vcpu.sregs.ds._replace(base=0x20000)
    assert vcpu.sregs.ds.base == 0x20000
    assert "cr0 0x" in repr(vcpu.sregs)
    assert "rax" in dir(vcpu.regs)
    assert "cr0" in dir(vcpu.sregs)


def test_memory_written_by_the_guest_is_seen_in_a_view_at_once(boot: Any) -> None:
    m = boot("mov word ptr [0x3000], 0xbeef\n hlt")
    view = m.memory.view(0x3000, 2)
    assert (view.readonly, view.tobytes()) == (True, b"\0\0")
    m.run(RUN)
    assert view.tobytes() == b"\xef\xbe"


def test_memory_view_that_is_writable_is_seen_by_the_guest(boot: Any) -> None:
    m = boot("mov ax, [0x3000]\n hlt")
    m.memory.view(0x3000, 2, writable=True)[:] = b"\x34\x12"
    m.run(RUN)
    assert m.vcpus[0].regs.rax == 0x1234


def test_memory_view_lives_on_after_close(boot: Any) -> None:
    m = boot()
    m.memory.write(0x3000, b"kept")
    view = m.memory.view(0x3000, 4)
    m.close()
    assert view.tobytes() == b"kept"


def test_memory_view_is_a_numpy_array(boot: Any) -> None:
    numpy = pytest.importorskip("numpy")
    m = boot()
    words = numpy.frombuffer(m.memory.view(0x3000, 8, writable=True), dtype="<u4")
    words[1] = 0x01020304
    assert m.memory[0x3000:0x3008] == b"\0\0\0\0\x04\x03\x02\x01"
    m.memory.write(0x3000, numpy.array([7, 8], dtype="<u4"))
    assert list(words) == [7, 8]


def test_memory_taken_from_any_contiguous_buffer_and_into_any_writable_one(boot: Any) -> None:
    memory = boot().memory
    memory.write(0x3000, array.array("I", [1, 2]))
    memory[0x3008:0x300A] = bytearray(b"ok")
    into = array.array("I", [0, 0])
    assert memory.read_into(0x3000, into) == 8
    assert (list(into), memory[0x3008:0x300A]) == ([1, 2], b"ok")
    memory.write(0x3000, b"")
    memory.write(0x3000, array.array("I"))
    with pytest.raises(BufferError, match="not contiguous"):
        memory.write(0x3000, memoryview(b"abcd")[::2])
    with pytest.raises(BufferError, match="cannot be written"):
        memory.read_into(0x3000, b"abcd")  # type: ignore[arg-type]
    assert memory.read_into(0x3000, bytearray()) == 0


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x20_0000, 1), (0x1F_FFFF, 2), (2**64 - 1, 1), (0, 1 << 62), (1 << 63, 1 << 62)]
)
def test_memory_that_is_not_there_is_an_error_with_place_and_size(boot: Any, gpa: int, size: int) -> None:
    memory = boot().memory
    for use in (memory.read, memory.view):
        with pytest.raises(MemoryAccessError) as caught:
            use(gpa, size)
        assert (caught.value.address, caught.value.size) == (gpa, size)
    if size <= 2:
        with pytest.raises(MemoryAccessError):
            memory.write(gpa, bytes(size))
        with pytest.raises(MemoryAccessError):
            memory.read_into(gpa, bytearray(size))


def test_memory_write_that_is_refused_changes_nothing(boot: Any) -> None:
    memory = boot().memory
    with pytest.raises(MemoryAccessError):
        memory.write(0x1F_FFFE, b"abcd")
    assert memory.read(0x1F_FFFE, 2) == b"\0\0"


@pytest.mark.parametrize("gpa", [-1, 2**64])
def test_memory_at_no_address_is_refused(boot: Any, gpa: int) -> None:
    with pytest.raises(ValueError, match="not a guest-physical address"):
        boot().memory.read(gpa, 1)


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("region", "error"),
    [
        ((0x8000_0000, 0), ValueError),
        ((0x8000_0000, -4096), ValueError),
        ((0x8000_0001, 4096), ValueError),
        ((0x8000_0000, 100), ValueError),
        ((0x1F_F000, 4096), ValueError),
        ((2**64 - 4096, 8192), ValueError),
        ((-4096, 4096), ValueError),
        ((0x8000_0000, "many"), ValueError),
        ((0x8000_0000, 1 << 50), ValueError),
    ],
)
def test_memory_region_that_cannot_be_is_refused(boot: Any, region: Any, error: type[Exception]) -> None:
    m = boot()
    before = m.map
    with pytest.raises(error, match="hint: "):
        m.memory.add(*region)
    assert m.map == before


def test_memory_region_of_rom_reads_and_reports_writes(boot: Any) -> None:
    m = boot("mov eax, [0x80000000]\n mov [0x80000000], ebx\n hlt", "protected")
    m.memory.add(0x8000_0000, 4096, kind="rom", name="firmware")
    m.memory.write(0x8000_0000, b"\x01\x02\x03\x04")
    assert m.run(RUN) == Exit.Mmio(0, 0x8000_0000, 4, True, 0)
    assert m.vcpus[0].regs.rax == 0x04030201
    assert m.run(RUN) == Exit.Halt(0)
    assert m.memory.read(0x8000_0000, 4) == b"\x01\x02\x03\x04"


def test_memory_indexed_by_anything_but_a_range_is_refused(boot: Any) -> None:
    memory = boot().memory
    for key in (5, slice(None, 4), slice(0, None), slice(0, 4, 2), "a"):
        with pytest.raises(TypeError, match="by a range"):
            memory[key]
        with pytest.raises(TypeError, match="by a range"):
            memory[key] = b"abcd"
    with pytest.raises(ValueError, match="ends before it begins"):
        memory[4:2]
    with pytest.raises(ValueError, match="range is of 4 bytes, data of 1"):
        memory[0:4] = b"x"
