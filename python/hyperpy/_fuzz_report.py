"""How far a fuzzer has come; public as `hyperpy.fuzz.Report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperpy._fuzz_crash import Crash

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """How far a fuzzer has come, over all its runs.

    Arguments:
        executions: inputs that were executed.
        operations: operations of these.
        crashes: what was found, each once, in the order in which it was.
        coverage: features that were seen: places in the device's code one after the other, registers with values.
        corpus: inputs that are kept.
        seconds: how long it ran.
        problems: what went wrong around it: a full disk, a worker that was killed.
        reset_us: what it takes to put the target back, in microseconds on average; None where that is not known.
        minimizing: how far a crash is that is being made small; "" if none is.
    """

    executions: int
    operations: int
    crashes: tuple[Crash, ...]
    coverage: int
    corpus: int
    seconds: float
    problems: tuple[str, ...] = ()
    reset_us: float | None = None
    minimizing: str = ""

    @property
    def executions_per_s(self) -> float:
        """Inputs a second."""
        return self.executions / self.seconds if self.seconds else 0.0

    @property
    def operations_per_s(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        once = sum(not crash.reproduces for crash in self.crashes)
        told = f" ({once} did not come again)" if once else ""
        if self.problems:
            told += f", problems {len(self.problems)}"
        return (
            f"{self.executions} executions ({self.executions_per_s:,.0f}/s), {self.operations} operations "
            f"({self.operations_per_s:,.0f}/s), coverage {self.coverage}, corpus {self.corpus}, crashes {len(self.crashes)}{told}"
        )
