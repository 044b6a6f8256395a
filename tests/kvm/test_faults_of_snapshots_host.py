"""What the host does to snapshots and copies: processes that fork, no memory, no descriptors, files that are cut, memory that is
not what it was; and restores by the thousand with two vcpus running between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.guests import START_OTHERS
from tests.kvm.conftest import Boot
from tests.scripts import run

from hyperpy import Exit, Machine
from hyperpy.errors import SnapshotError

RUN = 20.0


@pytest.mark.fault(28)
def test_memory_file_can_be_neither_shortened_under_a_guest_nor_written_once_it_is_shared(boot: Boot) -> None:
    """What would be a SIGBUS, or another machine's byte: the kernel refuses it to whoever has the file open."""
    m = boot("again: inc word ptr [0x8000]\n jmp again", memory="3M")
    m.memory.write(0x4000, b"mine")
    m.start()
    assert refused(m, lambda file: os.ftruncate(file, 0x1000)) == 1
    assert refused(m, lambda file: os.pwrite(file, b"more", 0x4000)) == 0  # it is this machine's alone
    assert m.memory.read(0x4000, 4) == b"more"
    base = m.snapshot()
    with m.fork() as child:
        for change in (
            lambda file: os.ftruncate(file, 0x1000),
            lambda file: os.ftruncate(file, 4 << 20),
            lambda file: os.pwrite(file, b"lost", 0x4000),
        ):
            assert refused(m, change) == 1
        assert child.memory.read(0x4000, 4) == m.memory.read(0x4000, 4) == base.read(0x4000, 4) == b"more"
        assert child.state == m.state == "running"


def refused(machine: Machine, change: Callable[[int], object]) -> int:
    """How many of the files of 3 MiB in this process refuse that."""
    count = 0
    size = sum(row.size for row in machine.map.rows if row.space == "memory")
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if (
            not os.path.exists(path)
            or "memfd:hyperpy" not in os.readlink(path)
            or os.stat(path).st_size != size
        ):
            continue
        try:
            file = os.open(path, os.O_RDWR)
        except PermissionError:
            count += 1
            continue
        try:
            change(file)
        except PermissionError:
            count += 1
        finally:
            os.close(file)
    return count


@pytest.mark.fault(34)
def test_os_fork_beside_copies_that_run_refuses_all_in_the_child_and_harms_none_in_the_parent() -> None:
    status, out, errors = run(
        """
        m = machine(LOOP)
        Ready.stateless, Ready.write = True, lambda *access: None
        m.memory.write(0x4000, b"base")
        base = m.snapshot()
        m.memory.write(0x4000, b"late")
        copy = m.fork()
        m.start()
        copy.start()
        verbs = {
            "snapshot": m.snapshot, "restore": lambda: m.restore(base), "fork": m.fork,
            "snapshot of the copy": copy.snapshot, "restore of the copy": lambda: copy.restore(base), "fork of it": copy.fork,
            "read": lambda: copy.memory.read(0x4000, 1), "write": lambda: copy.memory.write(0x4000, b"lost"),
        }
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            for name, verb in verbs.items():
                try:
                    verb()
                except StateError as error:
                    assert "forked" in str(error), (name, error)
                else:
                    print("child may", name, flush=True)
            m.close()
            copy.close()
            del m, copy, base, verbs
            print("child done", flush=True)
            sys.exit(6)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), m.state, copy.state)
        print(m.memory.read(0x4000, 4), copy.memory.read(0x4000, 4))
        for each in (m, copy):
            each.pause()
            each.restore(base)
            print(each.memory.read(0x4000, 4), each.state)
            each.close()
        """
    )
    assert errors == ""
    assert out.splitlines() == [
        "child done",
        "6 running running",
        "b'late' b'late'",
        "b'base' created",
        "b'base' created",
    ]
    assert status == 0


# What the sweeps do: everything once, and say what of it worked.
EVERYTHING = """
        import gc, resource
        from hyperpy import Device, Register
        class Latch(Device):
            value = Register(0x0)
            saved_attributes = ("more",)
            def __init__(self):
                self.more = [1, 2]
        # again: inc word [0x8000]; hlt; jmp again
        COUNTS = bytes.fromhex("ff060080 f4 ebf9")
        def count(m):
            return int.from_bytes(m.memory.read(0x8000, 2), "little")
        def made():
            m = Machine(memory="4M")
            m.load(Flat(COUNTS, at=0x1000, mode="real"))
            m.attach(Latch(), pio=0x80)
            assert m.run(10) == Exit.Halt(0)
            return m
        def attempt(m):
            base = m.snapshot()
            m.memory.write(0x100000, bytes(range(1, 256)) * 4096)
            m.run(10)
            later = m.snapshot()
            m.restore(base)
            assert count(m) == 1 and m.memory.read(0x100000, 1) == bytes(1)
            m.restore(later)
            with m.fork() as child:
                assert child.run(10) == Exit.Halt(0) and (count(child), count(m)) == (3, 2)
                with child.fork() as grandchild:
                    assert grandchild.memory.read(0x100000, 2) == bytes([1, 2])
            m.restore(base)
        def still_right(m):
            "Whatever failed, the machine is what it is, and can be copied and restored."
            assert count(m) in (1, 2)
            m.restore(first)
            assert count(m) == 1 and m.state == "paused" and m.run(10) == Exit.Halt(0) and count(m) == 2
            m.restore(first)
        def left():
            gc.collect()
            files = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
            return files, sum("memfd" in line for line in open("/proc/self/maps"))
        with made() as m:
            first = m.snapshot()
            attempt(m)
            del first
        before = left()
"""


@pytest.mark.fault(38)
def test_address_space_limited_around_copies_is_an_error_and_leaves_the_machine_right() -> None:
    status, out, errors = run(
        EVERYTHING
        + """
        outcomes = set()
        for room in [0, *(1 << bits for bits in range(12, 33))]:
            with made() as m:
                first = m.snapshot()
                used = int(open("/proc/self/statm").read().split()[0]) * 4096
                resource.setrlimit(resource.RLIMIT_AS, (used + room, -1))
                try:
                    attempt(m)
                    outcomes.add("fine")
                except (hyperpy.HyperpyError, MemoryError) as error:
                    outcomes.add("error")
                    assert type(error) is MemoryError or error.hint, error
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
                still_right(m)
                attempt(m)
                del first
            assert left() == before, room
        print(*sorted(outcomes))
        """
    )
    assert (errors, out, status) == ("", "error fine\n", 0)


@pytest.mark.fault(39)
def test_descriptors_exhausted_around_copies_is_an_error_and_leaves_the_machine_right() -> None:
    status, out, errors = run(
        EVERYTHING
        + """
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        told = []
        for room in range(64):
            with made() as m:
                first = m.snapshot() if room % 2 else None  # so that the first one of all is limited too
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + room // 2, hard))
                done = False
                try:
                    attempt(m)
                    done = True
                except (hyperpy.HyperpyError, MemoryError) as error:
                    assert "ulimit -n" in str(error), error
                    told.append(type(error).__name__)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                if first:
                    still_right(m)
                    attempt(m)
                else:
                    assert m.run(10) == Exit.Halt(0)
                    m.restore(m.snapshot())
                    m.fork().close()
                del first
            assert left() == before, room
            if done and room % 2:
                break
        print(done, bool(told))
        """
    )
    assert (errors, out, status) == ("", "True True\n", 0)


@pytest.mark.fault(47)
def test_restore_after_every_page_was_written_and_a_region_went_and_came_has_all_back(boot: Boot) -> None:
    """More pages than any log or ring has room for at once, by the guest and by the host; and a slot that goes with its log."""
    every = (
        "mov edi, 0x400000\n again: inc dword ptr [edi]\n add edi, 4096\n cmp edi, 0x2000000\n jb again\n hlt"
    )
    m = boot(every, "protected", memory="32M")
    m.memory.add(0x1000_0000, "1M", name="extra")
    m.memory.write(0x1000_0000, b"kept")
    base = m.snapshot()
    for _ in range(2):
        assert m.run(RUN) == Exit.Halt(0)
        m.memory.write(0x1000_0000, b"lost" * 0x4_0000)
        done = m.restore(base)
        assert done.pages == 0x1C00 + 0x100
        assert m.memory.read(0x40_0000, 0x1C0_0000).count(0) == 0x1C0_0000
        assert m.memory.read(0x1000_0000, 8) == b"kept\0\0\0\0"
    m.memory.remove(0x1000_0000)
    with pytest.raises(SnapshotError, match=r"ram at 0x10000000 \+ 0x100000 is in the image alone"):
        m.restore(base)
    m.memory.add(0x1000_0000, "1M", name="another")
    m.memory.write(0x1000_2000, b"new")
    m.restore(base)
    assert (m.memory.read(0x1000_0000, 4), m.memory.read(0x1000_2000, 3)) == (b"kept", bytes(3))
    assert m.snapshot().hash() == base.hash()


# 100,000 of them take some two minutes: HYPERPY_RESTORES=100000 and --timeout=0.
RESTORES = int(os.environ.get("HYPERPY_RESTORES", "5000"))
# Each round it counts a while, waits for the other vcpu to count too if the host asks for it, and says so.
BOTH_COUNT = f"""
    {START_OTHERS}
started:
    cmp dword ptr [0xa000], 0
    je started
round:
    mov ecx, 100
more:
    inc dword ptr [0x9000]
    loop more
    cmp byte ptr [0x7000], 0
    je done
    mov eax, [0xa000]
other:
    cmp eax, [0xa000]
    je other
done:
    out 0x99, al
    jmp round
"""


def test_restore_under_load_with_two_vcpus_running_between_gives_the_same_state_each_time(boot: Boot) -> None:
    m = boot(BOTH_COUNT, "protected", vcpus=2)
    # The other vcpu begins in real mode: again: inc dword ptr [0xa000]; jmp again
    m.memory.write(0x8000, bytes.fromhex("66ff0600a0 ebf9"))
    assert isinstance(m.run(RUN), Exit.Pio)
    base = m.snapshot()
    expected, mine, others = base.hash(), m.memory.read(0x9000, 4), m.memory.read(0xA000, 4)
    for number in range(RESTORES):
        is_asked = number % 16 == 0
        m.memory.write(0x7000, bytes([is_asked]))
        assert isinstance(m.run(RUN), Exit.Pio)
        assert m.memory.read(0x9000, 4) != mine
        assert m.memory.read(0xA000, 4) != others or not is_asked
        m.restore(base)
        assert m.snapshot().hash() == expected
