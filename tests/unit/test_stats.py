"""Counters and maps as values that print as tables."""

from __future__ import annotations

import pytest

from hyperpy import Map, Stats
from hyperpy.stats import MapRow, VcpuStats, table

TWO = Stats(
    (
        VcpuStats(10, 0.5, {"kernel": 7, "rust": 4, "register": 0, "python": 5, "unclaimed": 1}),
        VcpuStats(3, 0.25, {"kernel": 0, "rust": 1, "register": 2, "python": 0, "unclaimed": 0}),
    ),
    wall_seconds=1.25,
    memory_bytes=3 << 20,
)


def test_stats_of_two_vcpus_sum_up() -> None:
    assert (TWO.exits, TWO.cpu_seconds) == (13, 0.75)
    assert TWO.hits == {"kernel": 7, "rust": 5, "register": 2, "python": 5, "unclaimed": 1}


def test_stats_of_no_vcpus_are_zero() -> None:
    none = Stats((), 0.0, 0)
    assert (none.exits, none.cpu_seconds, none.hits["rust"]) == (0, 0, 0)
    assert str(none).splitlines()[0].split() == ["vcpu", "cpu", "s", "exits", *none.hits]


def test_stats_in_text_are_a_table() -> None:
    assert str(TWO).splitlines() == [
        "vcpu  cpu s  exits  kernel  rust  register  python  unclaimed",
        "   0  0.500     10       7     4         0       5          1",
        "   1  0.250      3       0     1         2       0          0",
        "1.250 s running, 3072 KiB of memory in use",
    ]


def test_stats_that_are_changed_raise() -> None:
    with pytest.raises(AttributeError):
        TWO.wall_seconds = 2  # type: ignore[misc]


def test_map_in_text_shows_first_and_last_address() -> None:
    rows = (
        MapRow("memory", 0, 1 << 20, "ram", "ram"),
        MapRow("mmio", 2**64 - 8, 8, "last", "python"),
    )
    assert str(Map(rows)).splitlines() == [
        "space   first               last                size      answered by  name",
        "memory                 0x0             0xfffff  0x100000  ram          ram",
        "mmio    0xfffffffffffffff8  0xffffffffffffffff       0x8  python       last",
    ]
    assert rows[1].end == 2**64


def test_map_of_nothing_is_a_heading() -> None:
    assert str(Map(())) == "space  first  last  size  answered by  name"


def test_table_of_rows_of_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["1"]])


def test_table_has_numbers_to_the_right_negative_ones_too_and_words_to_the_left() -> None:
    rows = [["2nd", "-12.5", "0x10"], ["first one", "3", ""]]
    assert table(["name", "us", "value"], rows).splitlines() == [
        "name       us     value",
        "2nd        -12.5   0x10",
        "first one      3",
    ]
