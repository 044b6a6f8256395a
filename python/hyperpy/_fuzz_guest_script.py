"""Python code that makes a guest fuzzer again: for the script that reproduces a crash, and for workers, which are fresh processes.

Either there is a function that makes it (`GuestFuzzer.of`), which is imported from its file; or the machine has a spec, and the base lies
in a file. A machine that was given bytes or devices by a script has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy._fuzz_findings import FuzzError
from hyperpy._fuzz_source import loading, source_of
from hyperpy._spec_of import spec_of
from hyperpy.errors import SpecError

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer

__all__ = ["BASE", "making", "script"]

# The snapshot that a script finds beside itself.
BASE = "base.hps"
_HINT = "give GuestFuzzer.of a function, defined in a file, that makes the machine and the fuzzer"


def making(fuzzer: GuestFuzzer, base: str) -> str:
    """Return code after which `fuzzer` is such a fuzzer; `base` is an expression for the path of the snapshot.

    Raises:
        FuzzError: nobody could make the machine again.
    """
    if fuzzer.factory is not None:
        source = source_of(fuzzer.factory)
        imports, modules = loading([source])
        return f"{imports}\n\nfuzzer = {modules[source.module]}.{source.expression}()\n"
    plan = fuzzer._plan
    if plan.has_devices:
        raise FuzzError(
            "fuzzer cannot be made again: its input goes to a device that a script has made", hint=_HINT
        )
    try:
        spec = spec_of(fuzzer.machine, has_image=False).to_json()
    except SpecError as error:
        raise FuzzError(f"fuzzer cannot be made again: {error.message}", hint=_HINT) from error
    lines = [
        "from hyperpy import Exit, MachineSpec, Snapshot",
        "from hyperpy.fuzz import GuestFuzzer",
        "",
        f"machine = MachineSpec.from_json({spec!r}).make()",
        f"fuzzer = GuestFuzzer(machine, Snapshot.open({base}), dictionary={fuzzer._dictionary!r})",
        *(f"fuzzer.{call}" for call in plan.calls()),
    ]
    return "\n".join(lines) + "\n"


def script(fuzzer: GuestFuzzer, data: bytes, what: str, base: str) -> str:
    """Return the text of a script that raises what the input comes to; `base` is the name of the snapshot beside it."""
    beside = f"Path(__file__).with_name({base!r})"
    lines = [
        f'"""Reproduces a finding of hyperpy.fuzz: {what}."""',
        "",
        "from pathlib import Path",
        "",
        making(fuzzer, beside),
        f"crash = fuzzer.replay(bytes.fromhex({data.hex()!r}))",
        "if crash is not None:",
        "    raise crash.error",
        'print("it does not crash")',
    ]
    return "\n".join(lines) + "\n"
