"""What the bindings promise of buffers and of other Python threads: copies, host memory that runs out, long native work."""

from __future__ import annotations

import gzip
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.kvm.conftest import Boot
from tests.scripts import run
from tests.unit.test_boot_cache import bzimage

import hyperpy
from hyperpy import Flat, Machine

LARGE = 128 << 20
# Leaves the process so much more address space than it has taken.
LIMITED = """
import resource
def limit(room):
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + room, -1))
"""


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("bytes(SIZE)", "written"),
        ("memoryview(bytes(SIZE))[4096:]", "written"),
        ("bytearray(SIZE)", "refused"),
        # Read-only, and yet others may change it.
        ("memoryview(bytearray(SIZE)).toreadonly()", "refused"),
        ("source.memory.view(0, SIZE)", "refused"),
    ],
)
def test_write_copies_whatever_may_change_and_is_an_error_where_there_is_no_room_for_it(
    source: str, outcome: str
) -> None:
    status, out, errors = run(
        LIMITED
        + f"""
SIZE = 256 << 20
source, m = Machine(memory="512M"), Machine(memory="512M")
data = {source}
limit(SIZE // 2)
try:
    m.memory.write(0, data)
    print("written")
except hyperpy.HostMemoryError as error:
    print("refused", error.errno, bool(error.hint), m.memory.read(0, 1))
source.close()
m.close()
"""
    )
    said = {"written": "written\n", "refused": "refused 12 True b'\\x00'\n"}
    assert (status, errors, out) == (0, "", said[outcome])


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    "verb", ["m.memory.read(0, 256 << 20)", "hyperpy._hyperpy.kernel_payload(image, 1 << 30)"]
)
def test_bytes_that_the_host_has_no_memory_for_are_an_error(verb: str) -> None:
    status, out, errors = run(
        LIMITED
        + f"""
from tests.unit.test_boot_cache import bzimage, packed
# Zeros that are no segment's go, so that it is not: its program header says that all of it is loaded, and ends in a one.
size = 256 << 20
header = b"\\x7fELF\\2\\1\\1".ljust(16, b"\\0") + bytes.fromhex("02003e0001000000") + bytes(8) + (64).to_bytes(8, "little")
header += bytes(12) + bytes.fromhex("4000380001000000") + bytes(4)
segment = bytes.fromhex("0100000005000000") + bytes(24) + size.to_bytes(8, "little") * 2 + bytes(8)
image = bzimage(packed((header + segment).ljust(size - 1, b"\\0") + b"\\1"))
m = Machine(memory="512M")
whole = hyperpy._hyperpy.kernel_payload(image, 1 << 30)
assert whole is not None and len(whole) == size
del whole
limit(size + (size >> 1) if "payload" in {verb!r} else size >> 1)
try:
    {verb}
    print("there")
except MemoryError as error:
    print(type(error).__name__)
m.close()
"""
    )
    assert (status, errors, out) == (0, "", "HostMemoryError\n")


@pytest.mark.fault(38)
def test_traces_that_the_host_has_no_memory_for_are_an_error_and_the_machine_can_be_closed() -> None:
    status, out, errors = run(
        LIMITED
        + """
m = Machine(memory="1M", trace=2**20, vcpus=4)
m.load(Flat(b"\\xf4", mode="real"))
limit(64 << 20)
try:
    m.run(timeout=5)
except hyperpy.HyperpyError as error:
    print(type(error).__name__, error.errno, error.message)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(m.run(timeout=5))
m.close()
"""
    )
    assert (status, errors) == (0, "")
    told, then = out.splitlines()
    assert told.startswith("HostMemoryError 12 the host gave no memory for a trace of 1048576 exits: ")
    assert then == "Exit.Halt(vcpu=0)"


@pytest.fixture
def unhurried() -> Iterator[None]:
    """Nobody is asked for the interpreter: another thread has it only when this one gives it up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def payload() -> bytes:
    """A bzImage that takes long to unpack."""
    data = b"\x7fELF" + bytes(LARGE)
    return bzimage(gzip.compress(data, 1) + struct.pack("<I", len(data)))


# What is worked on, and the work.
LONG: dict[str, tuple[Callable[[], bytes], Callable[[Machine, bytes], object]]] = {
    "read": (bytes, lambda m, _: m.memory.read(0, LARGE)),
    "write": (lambda: bytes(LARGE), lambda m, data: m.memory.write(0, data)),
    "flat": (lambda: bytes(LARGE), lambda m, data: m.load(Flat(data, mode="protected"))),
    "payload": (payload, lambda _, kernel: hyperpy._hyperpy.kernel_payload(kernel, 1 << 30)),
}


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("work", LONG)
def test_long_native_work_leaves_the_interpreter_to_other_threads(boot: Boot, work: str) -> None:
    m = boot(memory="256M")
    make, act = LONG[work]
    data = make()
    begun, seen = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait()
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    begun.set()
    act(m, data)
    was_seen = seen.is_set()
    thread.join()
    assert was_seen


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("verb", ["read_into", "write"])
def test_copy_of_a_large_buffer_is_made_while_other_threads_run(boot: Boot, verb: str) -> None:
    m = boot(memory="256M")
    buffer = bytearray(LARGE)
    # Not the ends, which a copy may make together.
    one, another = LARGE // 4, LARGE // 4 * 3
    begun, over, torn = threading.Event(), threading.Event(), threading.Event()

    # It is given the interpreter, and keeps it from one sleep to the next: only a copy that is made meanwhile shows or
    # takes two bytes of different times.
    def other() -> None:
        begun.set()
        turn = 0
        while not over.is_set():
            if verb == "write":
                turn = (turn + 1) % 256
                buffer[one] = buffer[another] = turn
            elif buffer[one] != buffer[another]:
                torn.set()
            time.sleep(0.0005)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    ends = time.monotonic() + 20
    value = 0
    while not torn.is_set() and time.monotonic() < ends:
        value = (value + 1) % 256
        if verb == "write":
            m.memory.write(0, buffer)
            if m.memory.read(one, 1) != m.memory.read(another, 1):
                torn.set()
        else:
            m.memory.write(one, bytes([value]))
            m.memory.write(another, bytes([value]))
            m.memory.read_into(0, buffer)
    over.set()
    thread.join()
    assert torn.is_set()
