"""Memory of huge pages from the host's pool: the lab's own, which a test may fill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kvm.test_snapshots_processor import check_huge_pages

POOL = Path("/proc/sys/vm/nr_hugepages")
PAGES = 16  # of 2 MiB: a machine of 8 MiB, its copy, and what both have to spare


@pytest.fixture
def pool() -> Iterator[None]:
    before = POOL.read_text()
    POOL.write_text(f"{PAGES}\n")
    assert int(POOL.read_text()) >= PAGES
    yield
    POOL.write_text(before)


@pytest.mark.usefixtures("pool")
def test_memory_of_huge_pages_from_a_pool_is_snapshotted_restored_saved_and_forked(tmp_path: Path) -> None:
    check_huge_pages("2M", tmp_path)
