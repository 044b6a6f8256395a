"""Guest memory on the host's KVM: regions that come and go under a guest, aliases, protection, and dirty pages."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.guests import assemble
from tests.kvm.conftest import Boot

import hyperpy
from hyperpy import Exit, Flat, HostMemoryError, Machine, MemoryAccessError, StateError

FAR = 0x1000_0000

# Counts at 0x8000 for ever; writes the count to wherever esi points, and reads ecx from edi.
COUNTER = f"""
    mov esi, {FAR:#x}
again:
    inc dword ptr [0x8000]
    mov eax, [0x8000]
    mov [esi], eax
    jmp again
"""
# Writes 7 to FAR, reads it back and hands it to a port.
WRITER = f"""
    mov byte ptr [{FAR:#x}], 7
    mov al, [{FAR:#x}]
    out 0x10, al
    hlt
"""


def memory_write(exit_: hyperpy.AnyExit) -> Exit.Mmio:
    assert isinstance(exit_, Exit.Mmio)
    assert (exit_.address, exit_.is_write) == (FAR, True)
    return exit_


def test_region_added_after_the_vcpus_exist_is_the_guests_memory(boot: Boot) -> None:
    m = boot(WRITER, "protected")
    memory_write(m.run(timeout=5))
    m.memory.add(FAR, "64K")
    m.memory.write(FAR, b"\x09")
    assert m.run(timeout=5) == Exit.Pio(0, 0x10, 1, True, 9)  # the write was an exit, the read is memory
    assert [row.name for row in m.map.rows if row.base == FAR] == ["ram"]


def test_region_removed_is_an_exit_again_and_its_view_stays(boot: Boot) -> None:
    m = boot(COUNTER, "protected")
    m.memory.add(FAR, 4096)
    view = m.memory.view(FAR, 4)
    assert m.run(timeout=0.1) == Exit.Timeout()
    last = bytes(view)
    assert last != bytes(4)
    m.memory.remove(FAR)
    memory_write(m.run(timeout=5))
    assert bytes(view) == last
    with pytest.raises(MemoryAccessError):
        m.memory.read(FAR, 1)


def test_region_added_and_removed_under_a_running_guest(boot: Boot) -> None:
    m = boot(COUNTER, "protected", unclaimed="ones")
    m.start()
    for round_ in range(20):
        m.memory.add(FAR, 4096, name=f"round {round_}")
        deadline = hyperpy_clock() + 5
        while m.memory.read(FAR, 4) == bytes(4):
            assert hyperpy_clock() < deadline
        m.memory.remove(FAR)
    m.stop()
    assert isinstance(m.wait(timeout=5), Exit.Stopped)


def hyperpy_clock() -> float:
    return os.times().elapsed


def test_rom_and_protected_ram_give_the_guests_write_as_an_exit(boot: Boot) -> None:
    m = boot(WRITER, "protected")
    m.memory.add(FAR, 4096, kind="rom")
    m.memory.write(FAR, b"\x05")
    memory_write(m.run(timeout=5))
    assert m.run(timeout=5) == Exit.Pio(0, 0x10, 1, True, 5)
    m = boot(WRITER, "protected")
    m.memory.add(FAR, 4096)
    m.memory.protect(FAR, writable=False)
    assert "ram, read-only" in str(m.map)
    memory_write(m.run(timeout=5))
    m.memory.protect(FAR, writable=True)
    assert m.run(timeout=5) == Exit.Pio(0, 0x10, 1, True, 0)


def test_protect_under_a_running_guest_is_seen_whole(boot: Boot) -> None:
    # Every other page of the guest, its code too, stays there: nothing but the protected page gives exits.
    m = boot(COUNTER, "protected")
    m.memory.add(FAR, 4096)
    for _ in range(10):
        m.start()
        m.memory.protect(FAR, writable=False)
        memory_write(m.wait(timeout=5))
        m.memory.protect(FAR, writable=True)
        m.start()
        assert m.wait(timeout=0.02) == Exit.Timeout()
        m.memory.protect(0, writable=True)  # no change: nothing happens
        m.memory.protect(FAR, writable=False)
        memory_write(m.wait(timeout=5))
        m.memory.protect(FAR, writable=True)


def test_code_page_protected_again_and_again_under_a_guest_runs_on(boot: Boot) -> None:
    m = boot("again: inc dword ptr [0x108000]\njmp again", "protected")
    m.memory.add(0x40_0000, "1M")
    m.memory.write(
        0x40_1000, assemble("again: inc dword ptr [0x108000]\njmp again", "protected", at=0x40_1000)
    )
    m.load(Flat(assemble("mov eax, 0x401000\njmp eax", "protected"), at=0x1000, mode="protected"))
    m.start()
    for flip in range(40):
        m.memory.protect(0x40_0000, writable=flip % 2 == 1)
    seen = m.memory.read(0x108000, 4)
    assert m.wait(timeout=0.1) == Exit.Timeout(), "the guest's code was away for a moment"
    assert m.memory.read(0x108000, 4) != seen


def test_protect_inside_a_device_is_refused(boot: Boot) -> None:
    m = boot("out 0x10, al\nhlt")
    refused: list[StateError] = []

    class Protector(hyperpy.Device):
        size = 1

        def write(self, offset: int, size: int, value: int, /) -> None:
            with pytest.raises(StateError, match="inside a device callback") as caught:
                m.memory.protect(0, writable=False)
            refused.append(caught.value)
            m.memory.add(FAR, 4096)  # what waits for nobody works there
            m.memory.remove(FAR)

    m.attach(Protector(), pio=0x10)
    assert m.run(timeout=5) == Exit.Halt(0)
    assert len(refused) == 1


def test_alias_is_one_memory_for_the_guest(boot: Boot) -> None:
    m = boot(WRITER, "protected")
    m.memory.alias(FAR, of=0x10_0000, size="64K", name="mirror")
    assert m.run(timeout=5) == Exit.Pio(0, 0x10, 1, True, 7)
    assert m.memory.read(0x10_0000, 1) == b"\x07"
    assert f"ram, alias of {0x10_0000:#x}" in str(m.map)
    with pytest.raises(StateError, match="has an alias"):
        m.memory.remove(0)
    m.memory.remove(FAR)


@pytest.mark.fault(40)
def test_memory_and_devices_do_not_lie_over_each_other(boot: Boot) -> None:
    m = boot(memory="1M")
    m.attach(hyperpy.DebugExit(), mmio=FAR + 0x1008)
    for add in (
        lambda: m.memory.add(FAR, "64K"),
        lambda: m.memory.add(FAR + 0x1000, 4096, kind="rom"),
        lambda: m.memory.alias(FAR, of=0, size="64K"),
    ):
        with pytest.raises(ValueError, match=f"lies over device DebugExit at {FAR + 0x1008:#x}"):
            add()
    m.memory.add(FAR, 4096)
    m.memory.add(FAR + 0x1000, 4096, kind="mmio")
    with pytest.raises(hyperpy.DeviceError, match="lies over memory"):
        m.attach(hyperpy.DebugExit(), mmio=FAR + 0xFFF)


def test_dirty_tells_pages_of_guest_host_and_views(boot: Boot) -> None:
    m = boot(f"mov byte ptr [{FAR + 0x5000:#x}], 1\nmov byte ptr [{FAR + 0x6000:#x}], 1\nhlt", "protected")
    m.memory.add(FAR, "1M")
    with pytest.raises(StateError, match="not tracked"):
        m.memory.dirty()
    with m.memory.track_dirty():
        assert m.run(timeout=5) == Exit.Halt(0)
        m.memory.write(FAR + 0x7FFF, b"ab")
        written = [(gpa - FAR, size) for gpa, size in m.memory.dirty(clear=False) if gpa >= FAR]
        assert written == [(0x5000, 0x4000)]
        assert m.memory.dirty()
        assert m.memory.dirty() == []
        with m.memory.view(FAR + 0x9000, 8, writable=True) as view:
            assert m.memory.dirty() == m.memory.dirty() == [(FAR + 0x9000, 4096)]
            view[0] = 1
        del view
        gc.collect()
        assert m.memory.dirty() == [(FAR + 0x9000, 4096)]
        assert m.memory.dirty() == []
    with pytest.raises(StateError, match="not tracked"):
        m.memory.dirty()


@pytest.mark.fault(47)
def test_dirty_of_a_running_guest_tells_what_it_writes_each_time(boot: Boot) -> None:
    m = boot(COUNTER, "protected")
    m.memory.add(FAR, "1M")
    m.start()
    m.memory.track_dirty()
    for _ in range(5):
        before = m.memory.read(FAR, 4)
        while m.memory.read(FAR, 4) == before:
            pass
        assert {(gpa, size) for gpa, size in m.memory.dirty()} >= {(0x8000, 4096), (FAR, 4096)}
    m.memory.remove(FAR)
    memory_write(m.wait(timeout=5))
    assert all(gpa < FAR for gpa, _ in m.memory.dirty())


@pytest.mark.fault(47)
def test_dirty_of_a_slot_whose_pages_fill_no_word_tells_the_last_one(boot: Boot) -> None:
    m = boot(f"mov byte ptr [{FAR + 64 * 4096:#x}], 1\nhlt", "protected")
    m.memory.add(FAR, 65 * 4096)
    m.memory.track_dirty()
    assert m.run(timeout=5) == Exit.Halt(0)
    assert m.memory.dirty()[-1] == (FAR + 64 * 4096, 4096)
    assert m.memory.dirty() == []


def test_dirty_of_64_gib_costs_little(boot: Boot) -> None:
    m = boot("hlt", memory="64G")
    m.memory.track_dirty()
    assert m.run(timeout=5) == Exit.Halt(0)
    m.memory.write(60 << 30, b"x")
    assert m.memory.dirty()[-1] == (60 << 30, 4096)
    assert m.memory.committed < 1 << 20


def test_closed_machine_has_no_memory(boot: Boot) -> None:
    m = boot()
    memory = m.memory
    tracking = memory.track_dirty()
    with tracking:
        m.close()
    for use in (
        lambda: memory.add(FAR, 4096),
        lambda: memory.remove(0),
        lambda: memory.alias(FAR, of=0, size=4096),
        lambda: memory.protect(0, writable=False),
        memory.track_dirty,
        memory.dirty,
        lambda: memory.read(0, 1),
    ):
        with pytest.raises(StateError, match="closed"):
            use()
    m = Machine(memory="1M")
    memory = m.memory
    m.close()
    del m
    gc.collect()
    with pytest.raises(StateError, match="closed"):
        memory.add(FAR, 4096)


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("gpa", "size", "message"),
    [
        (FAR + 1, 4096, "not of whole pages of 4 KiB"),
        (FAR, 4095, "not of whole pages"),
        (0, 4096, "overlaps the one at 0x0"),
        ((1 << 64) - 4096, 8192, "wraps the address space"),
        ((1 << 64) - 4096, 4096, "leaves the guest-physical addresses"),
        (1 << 52, 4096, "leaves the guest-physical addresses"),
        (FAR, 1 << 45, "larger than"),
    ],
)
def test_memory_region_that_cannot_be_is_a_value_error_with_a_hint(
    boot: Boot, gpa: int, size: int, message: str
) -> None:
    m = boot()
    for _ in ("before the vcpus exist", "and after"):
        with pytest.raises(ValueError, match=message) as caught:
            m.memory.add(gpa, size)
        assert "hint: " in str(caught.value)
        assert len(m.map.rows) == 1
        assert m.run(timeout=5) == Exit.Halt(0)


@pytest.mark.fault(40)
def test_region_that_ends_with_the_address_space_is_fine_for_devices(boot: Boot) -> None:
    m = boot()
    m.memory.add((1 << 64) - 4096, 4096, kind="mmio")
    assert m.map.rows[-1].end == 1 << 64
    assert m.run(timeout=5) == Exit.Halt(0)


@pytest.mark.fault(40)
def test_regions_beyond_the_slots_of_kvm_are_a_named_error(boot: Boot) -> None:
    m = boot()
    assert m.run(timeout=5) == Exit.Halt(0)

    def fill() -> None:
        for page in range(70_000):
            m.memory.alias(FAR + (page << 12), of=0, size=4096)

    with pytest.raises(ValueError, match="too many memory regions") as caught:
        fill()
    most = int(str(caught.value).split("one more than ")[1].split()[0])
    assert len(m.memory._native.regions()) == most
    m.memory.remove(FAR)
    m.memory.alias(FAR, of=0, size=4096)


@pytest.mark.fault(38)
def test_huge_pages_are_there_or_named_with_the_way_to_get_them() -> None:
    free = int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text())
    with pytest.raises(HostMemoryError, match="2 MiB") as caught:
        Machine(memory=(free + 1) << 21, huge_pages="2M")
    assert "nr_hugepages" in str(caught.value.hint)
    with pytest.raises(ValueError, match="whole pages of 2 MiB"):
        Machine(memory="3M", huge_pages="2M")
    with pytest.raises(ValueError, match="unknown huge pages"):
        Machine(memory="4M", huge_pages="4M")  # type: ignore[arg-type]
    with Machine(memory="4M", huge_pages="transparent") as m:
        assert "transparent huge pages" in str(m.map)
        m.load(Flat(b"\xf4", at=0x1000, mode="real"))
        assert m.run(timeout=5) == Exit.Halt(0)
        with pytest.raises(HostMemoryError):
            m.memory.add(1 << 32, (free + 1) << 21, huge_pages="2M")


def limited(code: str) -> str:
    """The output of a script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.fault(38)
def test_address_space_limited_at_any_size_is_an_error_and_never_an_abort() -> None:
    seen = limited("""
        import resource
        from hyperpy import Exit, Flat, HostMemoryError, HyperpyError, Machine
        Machine(memory="1M").close()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        outcomes = set()
        for room in [0, *(1 << bits for bits in range(12, 46))]:
            resource.setrlimit(resource.RLIMIT_AS, (used + room, -1))
            for size in ("64K", "64M", "16G", "2T", "7T"):
                try:
                    with Machine(memory=size) as m:
                        m.load(Flat(b"\\xf4", at=0x0, mode="real"))
                        if not size.endswith("T"):  # KVM's own tables for terabytes can take it half a minute
                            assert m.run(timeout=5) == Exit.Halt(0)
                        m.memory.track_dirty()
                        m.memory.dirty()
                    outcome = "fine"
                except (HyperpyError, MemoryError) as error:
                    outcome = type(error).__name__
                    assert not isinstance(error, HostMemoryError) or error.hint and error.errno == 12, error
                outcomes.add(outcome)
        print(*sorted(outcomes))
    """)
    assert (
        {"fine", "HostMemoryError"}
        <= set(seen.split())
        <= {"fine", "HostMemoryError", "MemoryError", "KvmError"}
    )


@pytest.mark.fault(39)
def test_descriptors_used_up_are_an_error_with_a_hint() -> None:
    seen = limited("""
        import os, resource
        import hyperpy
        from hyperpy import Flat, Machine
        machines = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        def fill():
            while True:
                machine = Machine(memory="1M")
                machines.append(machine)
                machine.load(Flat(b"\\xf4", at=0x0, mode="real"))
                machine.run(timeout=5)
        try:
            fill()
        except (hyperpy.HyperpyError, OSError) as error:
            assert error.errno == 24 and "ulimit -n" in error.hint, repr(error)
        assert len(machines) >= 12
        for machine in machines:
            machine.close()
        assert len(os.listdir("/proc/self/fd")) < 10
        print("closed")
    """)
    assert seen == "closed\n"


def test_machines_that_are_parked_have_few_descriptors(boot: Boot) -> None:
    first = boot()
    assert first.run(timeout=5) == Exit.Halt(0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert boot().run(timeout=5) == Exit.Halt(0)
    assert len(os.listdir("/proc/self/fd")) - before <= 4 * 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before
