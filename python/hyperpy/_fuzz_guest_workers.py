"""Several processes that fuzz one guest, of a fuzzer that is there: a `Campaign` on a target file that is written for it.

The file makes the machine and the fuzzer anew (`_fuzz_guest_script`); processes and what they exchange are the campaign's.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpy._fuzz_campaign import Campaign, CampaignReport
from hyperpy._fuzz_guest_crash import Found, GuestCrash, KilledCrash
from hyperpy._fuzz_guest_script import BASE, making

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer

__all__ = ["Workers"]


class Workers:
    """The workers of a fuzzer, over all its runs."""

    def __init__(self, fuzzer: GuestFuzzer) -> None:
        self._fuzzer, self._runs = fuzzer, 0
        folder = Path(tempfile.mkdtemp(prefix="hyperpy-fuzz-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._target, base = folder / "target.py", folder / BASE
        self._target.write_text(making(fuzzer, repr(str(base))), encoding="utf-8")
        if fuzzer.factory is None:
            fuzzer.base.save(base, compress=None)
        self._corpus = folder / "corpus" if fuzzer._kept.corpus is None else fuzzer._kept.corpus.path
        self._crashes = fuzzer._kept.crashes or folder / "crashes"
        self.executions = self.coverage = self.corpus = 0

    def run(self, seconds: float | None, executions: int | None) -> None:
        """Have them execute so many inputs, for so long."""
        count = self._fuzzer.workers
        campaign = Campaign(
            target=str(self._target),
            workers=count,
            seed=self._fuzzer.seed + self._runs,
            corpus=str(self._corpus),
            crashes=str(self._crashes),
            seconds=seconds,
            executions=None if executions is None else -(-executions // count),
        )
        self._runs += 1
        last: list[CampaignReport] = []

        def told(report: CampaignReport) -> None:
            last[:] = [report]

        try:
            campaign.run(told)
        finally:
            for report in last:
                self._take(report)

    def _take(self, report: CampaignReport) -> None:
        self.executions += report.executions
        self.coverage, self.corpus = max(self.coverage, report.coverage), max(self.corpus, report.corpus)
        self._fuzzer._kept.problems |= dict.fromkeys(report.problems)
        for finding in report.crashes:
            # One that has no folder could not be saved, which is among the problems.
            with contextlib.suppress(OSError, ValueError):
                if finding.folder is not None:
                    folder = Path(finding.folder)
                    data = (folder / "input").read_bytes()
                    if finding.kind == "killed":
                        crash: GuestCrash = KilledCrash(
                            self._fuzzer, data, finding.raised, finding.reproduces
                        )
                    else:
                        text = (folder / "finding.json").read_text(encoding="utf-8")
                        crash = GuestCrash(self._fuzzer, data, Found.from_json(text))
                    self._fuzzer._take(crash)
