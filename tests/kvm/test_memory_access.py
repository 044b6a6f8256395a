"""Reading, writing and viewing guest memory, and ranges that are not there."""

from __future__ import annotations

import array
from typing import Any

import pytest

from hyperpy import Exit, MemoryAccessError

pytestmark = pytest.mark.core

RUN = 10.0


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
