"""Saving a snapshot to a file when the process is killed or the disk is full: the old file or the new one, never a wrong one."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hyperpy._hyperpy import SnapshotFile, save_snapshot

LIMIT_S = 60
KILLS = 60
PAGE = 4096
# Megabytes that differ from page to page and from turn to turn, so that a file of two turns is none that was saved.
SAVER = """
import sys
from hyperpy._hyperpy import save_snapshot

def memory(turn, pages=512):
    return b"".join((turn << 32 | page + 1).to_bytes(8, "little") * 512 for page in range(pages))

def save(path, turn, pages=512):
    regions = [("ram", 0, memory(turn, pages), None)]
    save_snapshot(path, turn, regions, made_by="x", created_ns=turn, schema=0, compress=turn % 2 == 1)
"""
_LEFT = re.compile(r"a\.hps\.\d+-\d+\.partial")


def run(code: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", SAVER + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.timeout(300)
def test_save_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.hps"
    code = SAVER + textwrap.dedent("""
        for turn in range(int(sys.argv[2]), 1 << 30):
            save(sys.argv[1], turn)
            print(turn, flush=True)
    """)
    moments = random.Random(49)
    namespace: dict[str, object] = {}
    exec(SAVER, namespace)
    memory = namespace["memory"]
    assert callable(memory)
    left = turns = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", code, str(path), str(turns)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            turns = int(process.stdout.readline())
            time.sleep(moments.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            # What it has said by then is saved for good; perhaps the one after it too.
            said = [int(line) for line in process.stdout.read().split()]
        turns = max([turns, *said])
        file = SnapshotFile(path)
        file.verify()
        found = file.state()
        assert found in (turns, turns + 1)
        assert file.memory(0) == memory(found)
        turns = found + 1
        others = [one for one in tmp_path.iterdir() if one != path]
        assert all(_LEFT.fullmatch(one.name) for one in others), others
        left += len(others)
        for one in others:
            one.unlink()
    # Else no save was interrupted, and nothing was tested.
    assert left > KILLS / 4


@pytest.mark.parametrize("turn", [0, 1])
def test_save_beyond_the_largest_file_is_an_error_that_leaves_the_old_file(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "a.hps"
    save_snapshot(path, "old", [], made_by="x", created_ns=0, schema=0, compress=False)
    done = run(
        """
        import errno, resource
        path, turn = sys.argv[1], int(sys.argv[2])
        # From nothing at all to nearly the whole file, whose last part is written last.
        for limit in [0, 1, 4095, 4096, 4097, 8192, 10_000]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                save(path, turn, 3000)
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                assert error.filename == path
                assert error.__notes__[0].startswith("hint: raise the limit"), error.__notes__
            else:
                sys.exit(f"saved with a limit of {limit}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        """,
        path,
        turn,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [one.name for one in tmp_path.iterdir()] == ["a.hps"]
    assert SnapshotFile(path).state() == "old"


def test_save_onto_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path: Path) -> None:
    code = """
        import errno, os, pathlib
        from hyperpy._hyperpy import SnapshotFile
        folder = pathlib.Path(sys.argv[1])
        path = folder / "a.hps"
        save(str(path), 0, 2)
        for pages in (100, 16, 64):
            try:
                save(str(path), 2, pages)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                assert error.__notes__ == ["hint: free some space, or save elsewhere"], error.__notes__
            else:
                sys.exit("saved onto a full disk")
            assert os.listdir(folder) == ["a.hps"]
            file = SnapshotFile(path)
            file.verify()
            assert file.memory(0) == memory(0, 2)
    """
    small = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    command = ("unshare", "--mount", "--map-root-user", "sh", "-c", small, str(tmp_path))
    done = run(code, tmp_path, before=command)
    assert (done.returncode, done.stderr) == (0, "")


def test_save_makes_the_file_durable_before_it_has_its_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = tmp_path / "saved" / "a.hps"
    path.parent.mkdir()
    calls = "trace=openat,write,fsync,rename,renameat,renameat2"
    done = run("save(sys.argv[1], 1)", path, before=("strace", "-f", "-y", "-e", calls, "-o", str(log)))
    assert (done.returncode, done.stderr) == (0, "")
    partial = re.escape(f"{path}.") + r"\d+-\d+\.partial"
    steps = (
        rf"openat\(.*\"{partial}\".*O_EXCL",
        rf"write\(\d+<{partial}>, \"\\211HPS",  # the header is the last of it
        rf"fsync\(\d+<{partial}>\) += 0",
        rf"rename(at2?)?\(.*\"{partial}\".*\"{re.escape(str(path))}\"",
        rf"fsync\(\d+<{re.escape(str(path.parent))}>\) += 0",
    )
    places = [
        [number for number, line in enumerate(log.read_text().splitlines()) if re.search(step, line)]
        for step in steps
    ]
    assert [len(found) for found in places] == [1] * len(steps), places
    assert places == sorted(places)
