"""The script that reproduces a finding: a `DeviceBench` and its operations, without the fuzzer."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from hyperpy._fuzz_findings import printable
from hyperpy._fuzz_operations import Names, Plain, code_of
from hyperpy._fuzz_source import Source, factory_source, loading, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperpy._fuzz_findings import Key
    from hyperpy._fuzz_host import Host

__all__ = ["script"]

# What hangs or grows has to end somehow.
_SECONDS = 20
_HANG = f"import faulthandler\n\nfaulthandler.dump_traceback_later({_SECONDS}, exit=True)  # it hangs"
_GROWTH = """import resource

DATA = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (DATA + {most}, -1))  # it takes more memory than this"""
_CHANGING = '''RUNS = {runs!r}  # what the device finds in memory, in the order of its reads
GIVEN = [(gpa + at, byte) for gpa, data in RUNS for at, byte in enumerate(bytes.fromhex(data))]


def changing(gpa: int, size: int) -> bytes:
    """The guest changes its memory while the device reads it."""
    data = bytearray(bench.memory.read(gpa, size))
    for at in range(size):
        if GIVEN and GIVEN[0][0] == gpa + at:
            data[at] = GIVEN.pop(0)[1]
            bench.memory.write(gpa + at, data[at : at + 1])  # and it stays, where nothing more is given
    return bytes(data)


bench.memory.answer_reads(0, {size:#x}, changing)'''


def script(
    host: Host,
    factory: Any,
    operations: list[Plain],
    key: Key,
    given: list[tuple[int, int]],
    *,
    memory: int,
    double_fetch: bool,
) -> str:
    """Return the text of a script that fails as the finding does.

    Raises:
        FuzzError: it cannot name the device's class or an invariant.
    """
    made, arguments = factory_source(factory, host.device)
    invariants = [(each, source_of(each.holds)) for each in host.invariants]
    imports, modules = loading([made, *(source for _, source in invariants)])
    what = f"{key.raised or key.kind} at {', '.join(key.where)}" if key.where else key.raised or key.kind
    lines = [f'"""Reproduces a finding of hyperpy.fuzz: {_safe(what)}."""', "", imports]
    lines += ["", "from hyperpy.testing import DeviceBench", ""]
    options = "" if host.asked_size is None else f", size={host.asked_size:#x}"
    options += f", memory={memory:#x}" if host.memory is not None else ""
    lines += [f"bench = DeviceBench({_shown(made, modules)}{arguments}{options})", "device = bench.device"]
    lines += list(_memory(given, memory, double_fetch))
    lines += [
        f"invariant_{number} = {_shown(source, modules)}" for number, (_, source) in enumerate(invariants)
    ]
    if key.kind == "hang":
        lines += ["", _HANG]
    if key.kind == "memory":
        lines += ["", _GROWTH.format(most=host.max_growth)]
    lines.append("")
    after = [
        f"assert invariant_{number}(device) is not False"
        for number, (it, _) in enumerate(invariants)
        if it.each
    ]
    for op in operations:
        line = code_of(op, host, Names(host))
        lines += [line, *after] if line else []
    lines += [f"assert invariant_{number}(device) is not False" for number in range(len(invariants))]
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    """Text for a docstring: what a device raises may have anything in it."""
    return printable(text.partition("\n")[0][:200]).replace("\\", "/").replace('"', "'")


def _shown(source: Source, modules: dict[str, str]) -> str:
    module = modules[source.module]
    if source.expression.startswith("("):
        return f"eval({source.expression!r}, vars({module}))"
    return f"{module}.{source.expression}"


def _memory(given: list[tuple[int, int]], size: int, double_fetch: bool) -> Iterator[str]:
    """What the guest has in memory."""
    if not given:
        return
    if double_fetch:
        last = max((at for at, (_, byte) in enumerate(given) if byte), default=-1)
        runs = [(gpa, data.hex()) for gpa, data in _runs(given[: last + 1])]
        yield _CHANGING.format(runs=runs, size=size)
        return
    for gpa, data in _runs(sorted(given)):
        if any(data):
            yield f"bench.memory.write({gpa:#x}, bytes.fromhex({data.hex()!r}))"


def _runs(given: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """Bytes at addresses that follow each other, together."""
    # Such addresses have one difference from their place in the order.
    for _, run in groupby(enumerate(given), lambda it: it[1][0] - it[0]):
        held = [it for _, it in run]
        yield held[0][0], bytes(byte for _, byte in held)
