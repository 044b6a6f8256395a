"""A campaign: several fresh processes that fuzz one target, and the folder by which they exchange what they find.

Public as `hyperpy.fuzz.Campaign`. What a worker does is in `hyperpy._fuzz_worker`, the process that it is in `hyperpy._fuzz_process`; they are told what
to do by a line on their standard input, and what others have covered by more of them, tell how far they are by lines on their standard output, and end when
their input does: also when this process is killed. What they die of is `hyperpy._fuzz_killed`'s.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpy._fuzz_checks import check_end
from hyperpy._fuzz_findings import FuzzError, Key
from hyperpy._fuzz_killed import Killed, save
from hyperpy._fuzz_process import Worker

__all__ = ["Campaign", "CampaignReport", "Finding"]

# Workers are looked at so often.
_LOOK = 0.1
# After they were asked to end, they have so long: they save when something is found, so there is little left to do.
_ENDING = 2.0
# A worker that dies so soon after its start, so many times in a row, will not live.
_SOON, _TIMES = 2.0, 3
# Of inputs it may die more often in a row: each is found.
_INPUTS = 50
# Status of a worker whose target cannot be used (`_fuzz_worker`).
_UNUSABLE = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """A crash that a worker of a campaign has found.

    Arguments:
        kind: as `Crash.kind`; or "killed": the worker has died of it.
        raised: the type that was raised, or the signal.
        where: the last lines of the device's code, or what does not hold.
        operations: how many operations it takes, once it was made small; 0 where nobody can say.
        folder: where it is kept; None: nowhere.
        reproduces: whether the input does it again.
    """

    kind: str
    raised: str
    where: tuple[str, ...]
    operations: int
    folder: str | None
    reproduces: bool = True


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """How far a campaign has come, all workers together.

    Arguments:
        executions, operations: of all workers.
        coverage, corpus: those of the worker that has most.
        crashes: what was found, each once.
        seconds: how long it has run.
        workers: how many are running.
        problems: workers that were killed, folders that could not be written.
        reset_us: what a reset of the target takes, in microseconds, where that is known.
        minimizing: how far crashes are that workers are making small.
        stops: how often a breakpoint has stopped a guest: once for a block, unless two workers come to it at the same time.
    """

    executions: int
    operations: int
    coverage: int
    corpus: int
    crashes: tuple[Finding, ...]
    seconds: float
    workers: int
    problems: tuple[str, ...]
    reset_us: float | None = None
    minimizing: tuple[str, ...] = ()
    stops: int = 0

    @property
    def executions_per_s(self) -> float:
        """Inputs a second."""
        return self.executions / self.seconds if self.seconds else 0.0

    @property
    def operations_per_s(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A campaign on a target in a file, plain data: it can be pickled, and run elsewhere.

    Arguments:
        target: a Python file that defines `fuzzer`, such as a `DeviceFuzzer`, or a function `target` that returns one; "FILE:NAME" for
            another name.
        workers: processes.
        seed: each worker's is made of it.
        corpus: the folder by which they exchange inputs; None: they exchange nothing.
        crashes: the folder in which crashes are kept.
        seconds: how long it runs; None: until it is interrupted.
        executions: how many inputs each worker executes; None: no matter.

    Example:
        >>> import pickle
        >>> campaign = Campaign(target="fuzz_nic.py", workers=2, seconds=60)
        >>> pickle.loads(pickle.dumps(campaign)) == campaign
        True
    """

    target: str | Path
    workers: int = 1
    seed: int = 0
    corpus: str | Path | None = None
    crashes: str | Path | None = None
    seconds: float | None = None
    executions: int | None = None

    def run(self, progress: Callable[[CampaignReport], object] | None = None) -> CampaignReport:
        """Run it to its end; `progress` is told how far it is, several times a second.

        A worker that is killed is replaced, and told of in `problems`. The input that it was executing is tried again by the next one, and is a finding if that
        is killed too, or if nobody else can have done it. Ctrl-C has the workers end and save, and is raised then.

        Raises:
            FuzzError: the target cannot be used: a worker says why.
            ValueError: there are no workers, or a number is below 0.
            KeyboardInterrupt: Ctrl-C; `progress` was told the last state.
        """
        if self.seconds is not None or self.executions is not None:
            check_end(self.seconds, self.executions)
        if self.workers < 1:
            raise ValueError(f"campaign has no workers: {self.workers}\n\nhint: 1 or more")
        return _Run(self, progress or (lambda report: None)).run()


class _Run:
    """A campaign that runs."""

    def __init__(self, campaign: Campaign, progress: Callable[[CampaignReport], object]) -> None:
        self._campaign, self._progress = campaign, progress
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._generation = 0
        self._deaths = 0
        self._before = {"executions": 0, "operations": 0, "stops": 0}
        # What a worker has died of that is to be tried again, by the worker that does.
        self._suspects: dict[Worker, Killed] = {}
        self._crashes: dict[tuple[Any, ...], Finding] = {}
        self._problems: dict[str, None] = {}
        self._most = {"coverage": 0, "corpus": 0}
        self._reset_us: float | None = None  # the last that a worker told
        self._began = time.monotonic()

    def run(self) -> CampaignReport:
        try:
            for number in range(self._campaign.workers):
                self._start(number)
            until = None if self._campaign.seconds is None else self._began + self._campaign.seconds
            while self._workers and (until is None or time.monotonic() < until):
                self._look(_LOOK)
                self._progress(self.report())
        finally:
            self._end()
            report = self.report()
            self._progress(report)
            self._selector.close()
        return report

    def _start(self, number: int, killed: Killed | None = None) -> None:
        campaign = self._campaign
        task = {
            "target": str(campaign.target),
            # Other numbers for a worker that replaces one: it would be killed again.
            "seed": (campaign.seed + (number << 32) + (self._generation << 48)) % (1 << 64),
            "corpus": _text(campaign.corpus),
            "crashes": _text(campaign.crashes),
            "executions": campaign.executions,
            "shares": campaign.workers > 1,
        }
        self._generation += len(self._workers) >= campaign.workers or self._deaths > 0
        worker = Worker(number, task, None if killed is None else killed.input)
        self._workers.append(worker)
        if killed is not None:
            self._suspects[worker] = killed
        for stream in (worker.stdout, worker.stderr):
            self._selector.register(stream, selectors.EVENT_READ, worker)

    def _look(self, timeout: float) -> None:
        """Take what workers say, and see to those that have ended."""
        self._hear(timeout)
        for worker in self._workers:
            worker.end_if_stuck()
        for worker in [it for it in self._workers if it.process.poll() is not None]:
            self._drain(worker)
            self._ended(worker)

    def _hear(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            lines, is_open = key.data.hear(key.fileobj)
            self._told(key.data, lines)
            if not is_open:
                self._selector.unregister(key.fileobj)
        for worker in self._workers:
            worker.send()

    def _drain(self, worker: Worker) -> None:
        """Take the last that it has said."""
        for stream in (worker.stdout, worker.stderr):
            self._told(worker, worker.hear(stream)[0])

    def _told(self, worker: Worker, lines: list[dict[str, Any]]) -> None:
        for told in lines:
            if (patience := told.get("patience")) is not None:
                worker.patience = patience
                continue
            self._reset_us = told.get("reset_us", self._reset_us)
            for name in self._most:
                self._most[name] = max(self._most[name], told[name])
            for crash in told["crashes"]:
                finding = Finding(**{**crash, "where": tuple(crash["where"])})
                key = Key(crash["kind"], finding.raised, finding.where).same
                known = self._crashes.get(key)
                if known is None or known.folder is None:  # whichever worker tells it first, and has kept it
                    self._crashes[key] = finding
            self._problems |= dict.fromkeys(
                f"worker {worker.number}: {problem}" for problem in told["problems"]
            )
            if told["news"]:
                for other in self._workers:
                    if other is not worker:
                        other.tell({"news": told["news"]})
            # It lives, so it has survived what it was to try.
            if (killed := self._suspects.pop(worker, None)) is not None:
                self._keep(killed)

    def _forget(self, worker: Worker) -> None:
        for stream in (worker.stdout, worker.stderr):
            if stream in [key.fileobj for key in self._selector.get_map().values()]:
                self._selector.unregister(stream)
        worker.close()
        self._workers.remove(worker)
        for name in self._before:
            self._before[name] += worker.told.get(name, 0)
        # Nobody has tried it: it is kept as it is.
        if (killed := self._suspects.pop(worker, None)) is not None:
            self._keep(killed)

    def _keep(self, killed: Killed) -> None:
        """Keep an input that a worker has died of, if it is a finding."""
        if not killed.is_its_own:
            return
        where = killed.where
        key = "killed", killed.how, where
        known = self._crashes.get(key)
        if known is not None and (known.reproduces or not killed.reproduces):
            return
        folder = None
        if self._campaign.crashes is not None:
            try:
                folder = save(killed, str(self._campaign.crashes), str(self._campaign.target))
            except OSError as error:
                self._problems[f"not saved: {error.strerror or error}: {error.filename}"] = None
        self._crashes[key] = Finding("killed", killed.how, where, 0, folder, killed.reproduces)

    def _ended(self, worker: Worker) -> None:
        """A worker has ended: as it should, because its target cannot be used, or killed."""
        status = worker.process.returncode
        # One that ends by itself executes nothing by then: whatever its status is, the input has ended it.
        killed = Killed.of(worker)
        if killed is not None and killed.reproduces:
            self._suspects.pop(worker, None)
            self._keep(killed)
        self._forget(worker)
        if killed is None and status == 0:
            return
        if killed is None and status == _UNUSABLE:
            raise FuzzError(worker.said or "worker has ended, and does not say why", hint=None)
        lines = [line for line in worker.said.splitlines() if line and not line.startswith((" ", "hint: "))]
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        last = f": {(fatal or lines)[-1]}" if lines else ""
        self._deaths = self._deaths + 1 if time.monotonic() - worker.began < _SOON else 1
        self._generation += 1
        self._problems[
            f"worker {worker.number} was killed and replaced: {worker.how}, pid {worker.process.pid}{last}"
        ] = None
        if self._deaths > (_TIMES if killed is None else _INPUTS) * self._campaign.workers:
            raise FuzzError(
                f"workers do not live: {worker.how}{last}",
                hint="run the target's fuzzer in this process, to see why",
            )
        self._start(worker.number, None if killed is None or killed.reproduces else killed)

    def _end(self) -> None:
        """Have all workers end, and take what they say."""
        for worker in self._workers:
            worker.end()
        until = time.monotonic() + _ENDING
        while self._workers and time.monotonic() < until:
            for worker in [it for it in self._workers if it.process.poll() is not None]:
                self._drain(worker)
                self._forget(worker)
            if self._workers:
                self._hear(0.01)
        for worker in list(self._workers):
            # Ctrl-C has not reached it: what it executes is what hangs, and is kept as what kills a worker is.
            stuck = worker.input
            worker.process.kill()
            worker.process.wait()
            if stuck is not None:
                self._suspects.pop(worker, None)
                self._keep(Killed(stuck, "does not return", worker.said, reproduces=True))
            self._problems[
                f"worker {worker.number} did not end, and was killed: an operation of the device does not return"
            ] = None
            self._drain(worker)
            self._forget(worker)

    def report(self) -> CampaignReport:
        def total(name: str) -> int:
            told: list[int] = [worker.told.get(name, 0) for worker in self._workers]
            return self._before[name] + sum(told)

        resets = [
            worker.told["reset_us"] for worker in self._workers if worker.told.get("reset_us") is not None
        ]
        return CampaignReport(
            total("executions"),
            total("operations"),
            self._most["coverage"],
            self._most["corpus"],
            tuple(self._crashes.values()),
            time.monotonic() - self._began,
            len(self._workers),
            tuple(self._problems),
            max(resets, default=self._reset_us),
            tuple(told for worker in self._workers if (told := worker.told.get("minimizing"))),
            total("stops"),
        )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
