"""`bench.device` and `bench.measure` on this KVM: what a user's device and guest cost, and how often they were asked."""

from __future__ import annotations

import pytest

from hyperpy import DebugExit, Device, Flat, Machine, Register, Stop, bench

ROUNDS, COUNT = 2, 20
POLLING = bytes.fromhex("e4f4 ebfc")  # again: in al, 0xf4; jmp again
UNANSWERED = bytes.fromhex("e499 e699 ebfa")  # again: in al, 0x99; out 0x99, al; jmp again


class Timer(Device):
    """One register that Rust serves, and one whose writes a method is told of."""

    limit = Register(0x0, reset=5)
    go = Register(0x4, access="wo")
    started = 0

    @go.on_write
    def _go(self, value: int) -> None:
        self.started += 1
        if self.irq:
            self.irq.pulse()


@pytest.mark.parametrize("bus", ["mmio", "pio"])
def test_device_is_measured_beside_c_and_alone(bus: str) -> None:
    report = bench.device(Timer(), bus=bus, rounds=ROUNDS, count=COUNT)  # type: ignore[arg-type]
    names = ["limit-read", "limit-write", "go-write"]
    assert [row.name for row in report.rows] == [*names, *(f"{name}-alone" for name in names)]
    rungs = [row.rung for row in report.rows[:3]]
    assert rungs == ["register", "register", "python"]
    for row in report.rows[:3]:
        assert (row.why, row.why_floor) == ("", "")
        assert row.ratio is not None
        assert 1 <= row.per_operation["exits"] < 1.5
    for row in report.rows[3:]:
        assert (row.why, row.floor, row.per_operation) == ("", None, {})
        assert row.hyperpy is not None
        assert row.hyperpy.p50 < report.rows[0].hyperpy.p50  # type: ignore[union-attr] # without an exit


def test_device_has_a_line_if_it_is_to_have_one_and_none_afterwards() -> None:
    timer = Timer()
    report = bench.device(timer, accesses=[(4, 4, 1)], irq=True, rounds=ROUNDS, count=COUNT)
    assert [row.why for row in report.rows] == ["", ""]
    assert timer.started > 2 * ROUNDS * COUNT


def test_device_that_stops_the_machine_is_a_row_that_says_so() -> None:
    class Stopping(Device):
        size = 4

        def write(self, offset: int, size: int, value: int, /) -> Stop:
            return Stop("enough")

    report = bench.device(Stopping(), accesses={"stop": (0, 4, 1)}, rounds=ROUNDS, count=COUNT)
    assert "guest ended before its batch did: Exit.Stopped(vcpu=0, reason='enough'" in report["stop"].why
    assert report["stop-alone"].hyperpy is not None


def test_device_that_raises_is_raised_with_the_access() -> None:
    class Broken(Device):
        size = 4

        def read(self, offset: int, size: int, /) -> int:
            raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError) as raised:
        bench.device(Broken(), rounds=ROUNDS, count=COUNT)
    assert "device Broken" in raised.value.__notes__[0]


def test_device_is_free_for_a_machine_after_it_was_measured() -> None:
    timer = Timer()
    bench.device(timer, accesses=[(0, 4)], rounds=1, count=2)
    with Machine(memory="1M") as m:
        m.attach(timer, mmio=0xFE00_0000)
        assert "Timer" in str(m.map)


# -- guests ----------------------------------------------------------------------------------------------------------


def polling(code: bytes = POLLING) -> Machine:
    m = Machine(memory="1M")
    m.attach(DebugExit(), pio=0xF4)
    m.load(Flat(code, mode="real"))
    return m


def test_guest_is_measured_and_left_as_it_is() -> None:
    with polling() as m:
        report = bench.measure(m, rounds=3, seconds=0.1)
        assert m.state == "paused"
        assert m.stats.exits > 10
    row, cpu = report.rows
    assert (row.name, cpu.name, row.rung) == ("guest", "guest-cpu", "rust")
    assert row.hyperpy is not None
    assert len(row.hyperpy.rounds) == 3
    assert 0.9 < row.per_operation["rust"] <= 1.1
    assert row.per_second == pytest.approx(1e9 / row.hyperpy.p50)


def test_guest_runs_on_from_exits_that_nobody_answers() -> None:
    with polling(UNANSWERED) as m:
        row = bench.measure(m, name="io", rounds=2, seconds=0.02)["io"]
    assert row.rung == "unclaimed"


def test_guest_that_ends_is_made_anew_for_the_next_round() -> None:
    made: list[Machine] = []

    def brief() -> Machine:
        made.append(polling(bytes.fromhex("e4f4 e4f4 f4")))  # in al, 0xf4, twice; hlt
        return made[-1]

    row = bench.measure(brief, rounds=3, seconds=5)["guest"]
    assert row.hyperpy is not None
    assert [len(made), len(row.hyperpy.rounds)] == [3, 3]
    assert {machine.state for machine in made} == {"closed"}


def test_machine_that_ends_has_as_many_rounds_as_it_lasted() -> None:
    with polling(bytes.fromhex("e4f4 f4")) as m:
        row = bench.measure(m, rounds=3, seconds=5)["guest"]
    assert row.hyperpy is not None
    assert len(row.hyperpy.rounds) == 1


def test_guest_without_an_exit_is_an_error_that_says_so() -> None:
    spin = bytes.fromhex("ebfe")
    with polling(spin) as m, pytest.raises(bench.BenchError, match="made no exit in 0.2 s"):
        bench.measure(m, rounds=2, seconds=0.2)


def test_measured_guest_is_kept_and_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("bench") / "guest.json"
    report = bench.measure(polling, rounds=2, seconds=0.01)
    report.save(file)
    loaded = bench.Report.load(file)
    assert loaded == report
    assert [pair.change for pair in report.compare(loaded).pairs] == [1.0, 1.0]
    assert "<h2>guest</h2>" in report.html()
