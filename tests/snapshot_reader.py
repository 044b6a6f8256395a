"""A reader of snapshot files of its own, written from docs/reference/snapshot-format.md alone: nothing of hyperpy is used here."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import xxhash
import zstandard

PAGE = 4096
HEADER = struct.Struct("<8sIIII8Q")


@dataclass
class Read:
    """What a file has."""

    schema: int
    made_by: str
    created_ns: int
    state: Any
    # (name, gpa, about, pages by number).
    regions: list[tuple[str, int, Any, dict[int, bytes]]]
    stored: int
    blocks: list[int]


def read(file: bytes) -> Read:
    """Read a file, and hold everything that the page says against it."""
    (
        magic,
        version,
        flags,
        schema,
        zero,
        file_len,
        stored,
        data_len,
        tree_len,
        tree_sum,
        runs,
        runs_sum,
        blocks_sum,
    ) = HEADER.unpack_from(file)
    assert magic == bytes.fromhex("89485053 0d0a1a0a")
    assert _sum(file[:4088]) == _number(file[4088:4096])
    assert (version, flags & ~1, zero, file_len) == (1, 0, 0, len(file))
    assert not any(file[88:4088])
    count = (stored + 63) // 64
    at = 4096
    parts = []
    for length in (data_len, tree_len, 24 * runs, 16 * count):
        parts.append(file[at : at + length])
        at += length
    assert at == len(file)
    data, tree, run_table, block_table = parts
    assert [_sum(part) for part in parts[1:]] == [tree_sum, runs_sum, blocks_sum]
    pages, kinds = _pages(data, block_table, stored, flags)
    whole, end = _value(tree, 0, 1)
    assert end == len(tree)
    assert list(whole) == ["made_by", "created_ns", "regions", "state"]
    assert all(list(region) == ["name", "gpa", "len", "about"] for region in whole["regions"])
    placed = _placed(run_table, [region["len"] // PAGE for region in whole["regions"]], pages)
    regions = [
        (region["name"], region["gpa"], region["about"], by_number)
        for region, by_number in zip(whole["regions"], placed, strict=True)
    ]
    free = 0
    for region in whole["regions"]:
        assert region["gpa"] >= free
        assert region["gpa"] % PAGE == region["len"] % PAGE == 0 < region["len"]
        free = region["gpa"] + region["len"]
    return Read(schema, whole["made_by"], whole["created_ns"], whole["state"], regions, stored, kinds)


def _sum(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


def _number(data: bytes, *, signed: bool = False) -> int:
    return int.from_bytes(data, "little", signed=signed)


def _pages(data: bytes, table: bytes, stored: int, flags: int) -> tuple[list[bytes], list[int]]:
    pages: list[bytes] = []
    kinds = []
    at = 0
    for length, kind, checksum in struct.iter_unpack("<IIQ", table):
        block = data[at : at + length]
        at += length
        assert _sum(block) == checksum
        size = PAGE * min(64, stored - len(pages))
        if kind == 1:
            assert flags & 1
            assert size / 1024 <= length < size
            block = zstandard.ZstdDecompressor().decompress(block, max_output_size=size)
        assert kind in {0, 1}
        assert len(block) == size
        kinds.append(kind)
        pages += [block[start : start + PAGE] for start in range(0, size, PAGE)]
    assert at == len(data)
    return pages, kinds


def _placed(table: bytes, lengths: list[int], pages: list[bytes]) -> list[dict[int, bytes]]:
    placed: list[dict[int, bytes]] = [{} for _ in lengths]
    before, known = (-1, 0), 0
    for region, count, first, kept in struct.iter_unpack("<IIQQ", table):
        assert count > 0
        assert (region, first) >= before
        assert first + count <= lengths[region]
        assert kept <= known
        assert kept + count <= len(pages)
        known = max(known, kept + count)
        before = (region, first + count)
        placed[region].update((first + index, pages[kept + index]) for index in range(count))
    assert known == len(pages)
    return placed


def _value(tree: bytes, at: int, level: int) -> tuple[Any, int]:
    assert level <= 64
    tag, n = struct.unpack_from("<QQ", tree, at)
    at += 16
    match tag:
        case 0:
            return None, at
        case 1:
            return bool(n), at
        case 2:
            return _number(n.to_bytes(8, "little"), signed=True), at
        case 3:
            return _number(tree[at : at + 16], signed=True), at + 16
        case 4:
            return struct.unpack("<d", n.to_bytes(8, "little"))[0], at
        case 5:
            return tree[at : at + n].decode(), at + n
        case 6:
            return tree[at : at + n], at + n
        case 7:
            values = []
            for _ in range(n):
                value, at = _value(tree, at, level + 1)
                values.append(value)
            return values, at
    assert tag == 8
    entries = {}
    for _ in range(n):
        name, at = _value(tree, at, level + 1)
        assert isinstance(name, str)
        assert name not in entries
        entries[name], at = _value(tree, at, level + 1)
    return entries, at
