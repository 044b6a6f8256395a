"""What is seen of a guest that stands still: page walks, the trace, what a fault shows, and disassembly."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.guests import assemble

import hyperpy
from hyperpy import Device, Exit, Flat, GuestFault, Machine, MemoryAccessError, Register, StateError
from hyperpy.disassembly import Instruction
from hyperpy.doctor import flavour

RUN = 10.0


# -- page walks ------------------------------------------------------------------------------------------------------


def test_walk_shows_every_level_and_the_rights_they_give_together(boot: Any) -> None:
    m = boot(mode="long")
    walk = m.memory.walk(0x20_1234)
    assert [level.name for level in walk.levels] == ["PML4", "PDPT", "PD"]
    assert (walk.gpa, walk.page.size, walk.mode) == (0x20_1234, 2 << 20, "4-level paging")
    # Writable by the last level alone: the first takes it away.
    first = walk.levels[0]
    m.memory.write(first.entry_gpa, (first.entry & ~2).to_bytes(8, "little"))
    assert not m.memory.walk(0x20_1234).page.is_writable
    text = str(m.memory.walk(0x20_1234)).splitlines()
    assert text[0] == "gva 0x201234 is gpa 0x201234 (4-level paging, page of 2 MiB, executable)"
    assert text[-1].split() == ["PD", "0xb000", "0x1", "0x200083", "P", "RW", "PS"]


def test_translate_of_what_is_not_mapped_says_where_it_ends(boot: Any) -> None:
    m = boot(mode="long")
    assert m.memory.translate(0x1234) == 0x1234
    with pytest.raises(MemoryAccessError) as caught:
        m.memory.translate(0x7FFF_0000_0000)
    assert caught.value.message == (
        "gva 0x7fff00000000 is not mapped, 4-level paging: PML4 entry 0xff at gpa 0x97f8 is not present: 0x0"
    )
    assert caught.value.address == 0x7FFF_0000_0000
    walk = m.memory.walk(1 << 50)
    assert (walk.page, walk.gpa, walk.levels) == (None, None, ())
    m.memory.write(0x9000, (0xFFFF_F000_0000 | 3).to_bytes(8, "little"))
    with pytest.raises(MemoryAccessError, match="no memory for the PDPT entry at gpa 0xfffff0000000"):
        m.memory.translate(0)
    # Reserved: bit 7 of a PML4's entry.
    m.memory.write(0x9000, (0xA083).to_bytes(8, "little"))
    assert m.memory.walk(0).reserved == 0x80


def test_translate_in_real_mode_is_the_address(boot: Any) -> None:
    m = boot()
    assert m.memory.translate(0xFFFF_FFFF) == 0xFFFF_FFFF
    assert str(m.memory.walk(0x10)).startswith("gva 0x10 is gpa 0x10 (no paging, page of 4 GiB")


def test_walk_of_what_is_no_address_or_vcpu_or_of_a_running_machine_is_refused(boot: Any) -> None:
    m = boot("again: jmp again")
    for gva in (-1, 1 << 64):
        with pytest.raises(ValueError, match="64 bits"):
            m.memory.walk(gva)
    for vcpu in (1, -1, 1 << 32):
        with pytest.raises(IndexError, match="no such vcpu"):
            m.memory.translate(0, vcpu=vcpu)
    m.start()
    with pytest.raises(StateError, match="running"):
        m.memory.translate(0)


# -- the trace -------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_trace_tells_the_last_exits_with_what_was_written_and_answered(boot: Any) -> None:
    m = boot("mov al, 7\n out 0x80, al\n in al, 0x81\n in al, 0x99\n hlt", trace=3)
    m.attach(Device(), pio=0x80, size=2)
    before = time.monotonic_ns()
    exit_ = m.run(RUN)
    facts = [(e.what, e.address, e.value, e.size, e.rip) for e in m.trace()]
    # The processor's KVM leaves rip on an OUT until the next entry, the one that interprets it has gone on.
    at = 0x1004 if flavour() == "page-table" else 0x1002
    assert facts[:2] == [("pio write", 0x80, 7, 1, at), ("pio read", 0x81, 0xFF, 1, 0x1004)]
    m.answer(exit_, 5)
    assert m.run(RUN) == Exit.Halt(0)
    trace = m.trace()
    assert [(e.what, e.value) for e in trace] == [("pio read", 0xFF), ("pio read", 5), ("halt", 0)]
    assert before < trace[0].ns <= trace[1].ns <= trace[2].ns < time.monotonic_ns()
    lines = str(trace).splitlines()
    assert (len(lines), lines[0].split()) == (
        4,
        ["vcpu", "us", "exit", "address", "device", "size", "value", "rip"],
    )
    m.close()
    assert m.trace() == trace


class Lamp(Device):
    """A register that Rust serves, and one that a method wants to know of."""

    level = Register(0x0, width=1)
    switch = Register(0x1, width=1, access="wo")

    @switch.on_write
    def _switch(self, value: int) -> None:
        self.level = value


def test_trace_names_devices_and_registers_also_of_posted_writes(boot: Any) -> None:
    code = """
        out 0x81, al
        in al, 0x80
        mov dx, 0x3fd
        in al, dx
        mov dx, 0x3f8
        mov al, 'x'
        out dx, al
        in al, 0x99
        hlt
    """
    m = boot(code, trace=16, unclaimed="ones")
    m.attach(Lamp(), pio=0x80, name="lamp")
    m.attach_pc()
    assert m.run(RUN) == Exit.Halt(0)
    names = ["lamp.switch", "lamp.level", "uart com1.line_status"]
    names += ["uart com1.transmitter_holding|divisor_low", ""]
    assert [e.where for e in m.trace()][:5] == names
    fault = str(m.fault(Exit.Timeout()))
    assert all(name in fault for name in names)


def test_trace_is_followed_until_the_guest_halts(boot: Any) -> None:
    m = boot("mov cx, 500\nagain: in al, 0x80\n loop again\n hlt", trace=1024)
    m.attach(Device(), pio=0x80, size=1)
    m.start()
    followed = list(m.trace(follow=True))
    assert m.wait(RUN) == Exit.Halt(0)
    assert followed == m.trace()
    assert [e.kind for e in followed] == ["pio"] * 500 + ["halt"]


def test_trace_is_read_while_the_machine_runs(boot: Any) -> None:
    m = boot("again: out 0x80, al\n inc al\n in al, 0x80\n jmp again", trace=64, unclaimed="ones")
    m.start()
    seen = 0
    while seen < 1000:
        trace = m.trace()
        assert [e.ns for e in trace] == sorted(e.ns for e in trace)
        assert {(e.kind, e.address, e.size) for e in trace} <= {("pio", 0x80, 1)}
        seen += len(trace)
    m.stop()


def test_trace_of_a_machine_without_one_is_refused_and_its_length_is_checked(boot: Any) -> None:
    with pytest.raises(StateError, match="not traced") as caught:
        boot().trace()
    assert caught.value.hint == "Machine(trace=256)"
    for length in (-1, (1 << 20) + 1):
        with pytest.raises(ValueError, match="number of exits to record"):
            Machine(trace=length)
    assert str(boot(trace=1).trace()) == "no exits"


# -- what a device costs ----------------------------------------------------------------------------------------------


def test_explain_and_stats_of_a_guests_accesses_agree_by_rung(boot: Any) -> None:
    code = """
        mov cx, 100
again:  in al, 0x80
        mov al, cl
        out 0x81, al
        in al, 0x90
        loop again
        hlt
    """
    m = boot(code)
    lamp = m.attach(Lamp(), pio=0x80)
    plain = m.attach(Device(), pio=0x90, size=1, name="plain")
    assert m.run(RUN) == Exit.Halt(0)
    rows = {row.register: (row.rung, row.reads, row.writes, row.calls) for row in lamp.explain()}
    assert rows["level"] == ("register", 100, 0, 0)
    assert rows["switch"] == ("python", 0, 100, 100)
    assert lamp.explain()["switch"].mean_ns > 0
    assert plain.explain()["(read, write)"].reads == 100
    stats = m.stats
    assert {device.name: device.hits for device in stats.devices} == {
        "Lamp": {"kernel": 0, "register": 100, "python": 100, "unclaimed": 0},
        "plain": {"kernel": 0, "register": 0, "python": 100, "unclaimed": 0},
    }
    assert (stats.hits["register"], stats.hits["python"]) == (100, 200)
    m.close()
    assert m.stats.devices == stats.devices
    assert lamp.explain()["level"].reads == 100


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_fault_of_a_triple_fault_shows_registers_code_and_walks(boot: Any) -> None:
    m = boot("mov rbx, 0x1234\n mov rax, [0x7fffffff0000]\n hlt", "long", trace=8)
    exit_ = m.run(RUN)
    fault = m.fault(exit_)
    assert (fault.exit, fault.vcpu, fault.message) == (
        exit_,
        0,
        "triple fault: an exception, and nothing to handle it",
    )
    assert [e.kind for e in fault.trace] == ["shutdown"]
    if flavour() == "amd":
        assert fault.is_reset
        assert "rip is lost, KVM has reset the vcpu" in str(fault)
        return
    assert fault.regs is not None
    assert fault.regs["rbx"] == 0x1234
    assert fault.code[0].text == "mov rax, [0x7fffffff0000]"
    assert fault.walk is not None
    assert fault.walk.gpa == 0x1007
    assert fault.cr2_walk is not None
    assert fault.cr2_walk.gva == 0x7FFFFFFF0000
    text = str(fault)
    for part in (
        "; vcpu 0, rip 0x1007\n\nregisters:\n",
        "code at rip:\n  0x1007  48 a1",
        "page walk of rip:\ngva 0x1007 is gpa 0x1007",
        "page walk of cr2:\ngva 0x7fffffff0000 is not mapped, 4-level paging: PML4 entry 0xff",
        "last exits:\nvcpu",
    ):
        assert part in text
    assert text.endswith(f"\n\nhint: {fault.hint}")


def test_fault_of_what_kvm_cannot_interpret_shows_the_instruction(boot: Any) -> None:
    m = boot("mov eax, 1\n fwait\n hlt", "protected")
    exit_ = m.run(RUN)
    if flavour() != "page-table":
        assert exit_ == Exit.Halt(0)
        return
    assert (exit_.suberror, exit_.error, exit_.instruction) == (1, "emulation", "fwait")
    assert "error='emulation', instruction='fwait')" in repr(exit_)
    fault = m.fault(exit_)
    assert fault.message.startswith("KVM cannot interpret the instruction 9b")
    assert fault.code[0] == Instruction(0x1005, b"\x9b", "fwait")


def test_unclaimed_access_that_raises_shows_the_guest(boot: Any) -> None:
    m = boot("mov bx, 0x77\n in al, 0x99\n hlt", unclaimed="raise", trace=4)
    with pytest.raises(GuestFault) as caught:
        m.run(RUN)
    fault = caught.value
    assert fault.message == f"nobody claims {fault.exit!r}"
    assert fault.regs is not None
    assert fault.regs["rbx"] == 0x77
    assert fault.code[0].text == "hlt"
    assert [(e.what, e.address) for e in fault.trace] == [("pio read", 0x99)]


def test_fault_inside_a_device_while_running_and_after_close_says_what_it_can(boot: Any) -> None:
    faults = []
    called = threading.Event()

    class Curious(Device):
        size = 1

        def read(self, offset: int, size: int) -> int:
            faults.append(m.fault(Exit.Halt(0)))
            called.set()
            return 0

    m = boot("in al, 0x80\n again: jmp again", trace=4)
    m.attach(Curious(), pio=0x80)
    m.start()
    assert called.wait(RUN)
    faults.append(m.fault(Exit.Timeout()))
    m.close()
    faults += [m.fault(Exit.Shutdown(0)), m.fault(Exit.Shutdown(5))]
    assert [fault.regs for fault in faults] == [None] * 4
    assert [fault.unseen for fault in faults] == [
        "cannot read registers inside a device callback",
        "cannot read registers: the machine is running",
        "cannot read registers: the machine is closed",
        "tuple index out of range",
    ]
    assert [e.what for e in faults[0].trace] == ["pio read"]
    assert "registers: not shown, cannot read registers inside a device callback" in str(faults[0])


@pytest.mark.parametrize(
    "exit_",
    [
        Exit.Halt(0),
        Exit.Mmio(0, 0xFE000000, 4, True, 1),
        Exit.Hypercall(0, 1, (0,) * 6),
        Exit.Msr(0, 1, True, 1),
        Exit.Debug(0, 0x1000, 0x4000),
        Exit.SystemEvent(0, "reset", 2),
        Exit.Stopped(None, "stop"),
        Exit.Timeout(),
        Exit.FailEntry(0, 5),
        Exit.InternalError(0, 3, 0, b""),
        Exit.InternalError(9, 1, 0, b"\x0f"),
    ],
    ids=lambda exit_: type(exit_).__name__,
)
def test_fault_of_any_exit_can_be_raised_and_shown(boot: Any, exit_: Any) -> None:
    m = boot()
    with pytest.raises(GuestFault) as caught:
        raise m.fault(exit_)
    assert caught.value.exit == exit_
    assert str(caught.value).startswith(f"{caught.value.message}; vcpu ")


def test_fault_of_a_guest_without_code_at_rip_shows_the_walk_alone() -> None:
    with Machine(memory="1M") as m:
        m.load(Flat(assemble("hlt", "long"), at=0x1000, mode="long"))
        m.vcpus[0].regs.rip = 0x7FFF_0000_0000
        fault = m.fault(Exit.Timeout())
    assert (fault.code, fault.walk and fault.walk.page) == ([], None)
    assert "page walk of rip:\ngva 0x7fff00000000 is not mapped" in str(fault)


def test_fault_of_code_that_runs_out_of_memory_shows_what_is_there() -> None:
    with Machine(memory="1M") as m:
        m.load(Flat(assemble("hlt"), at=0x1000, mode="real"))
        m.memory.write(0xF_FFFE, b"\x90\xb8")
        m.vcpus[0].sregs.cs = m.vcpus[0].sregs.cs._replace(base=0xF0000, selector=0xF000)
        m.vcpus[0].regs.rip = 0xFFFE
        fault = m.fault(Exit.Timeout())
    assert [i.text for i in fault.code] == ["nop", "(cut off)"]


def test_disassemble_is_one_of_the_package() -> None:
    assert [i.text for i in hyperpy.disassemble(b"\x90\xf4", bits=16)] == ["nop", "hlt"]
