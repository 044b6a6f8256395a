"""Sizes as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy.memory import parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("64M", 64 << 20),
        (" 64 M ", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("64T", 1 << 46),
        (True, 1),
    ],
)
def test_size_that_is_written_sensibly_is_taken(written: int | str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    [
        "",
        "M",
        "-1",
        "1.5G",
        "0x1000",
        "1 000",
        "64P",
        "64M64",
        "one",
        "٣M!",
        0,
        -1,
        "0",
        "65T",
        (1 << 46) + 1,
        "9" * 5000,
    ],
)
def test_size_that_is_none_is_refused_with_a_hint(written: int | str) -> None:
    with pytest.raises(ValueError, match="hint: "):
        parse_size(written)


@pytest.mark.parametrize("written", [None, 1.5, 64.0, b"64M", [64]])
def test_size_of_wrong_type_is_refused(written: Any) -> None:
    with pytest.raises(TypeError):
        parse_size(written)


@given(st.text(max_size=12))
def test_size_from_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 < size <= 1 << 46


@given(st.integers(1, 1 << 20), st.sampled_from("KMGT"))
def test_size_with_a_unit_is_so_many_of_it(count: int, unit: str) -> None:
    size = count << {"K": 10, "M": 20, "G": 30, "T": 40}[unit]
    if size <= 1 << 46:
        assert parse_size(f"{count}{unit}") == parse_size(size) == size
    else:
        with pytest.raises(ValueError, match="out of range"):
            parse_size(f"{count}{unit}")
