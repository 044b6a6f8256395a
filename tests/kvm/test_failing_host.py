"""A host that refuses: each call of hyperpy's fails in turn, KVM is missing or odd, descriptors run out.

What fails is chosen through a shim between the process and its host (tests/shim); each test has a process of its own.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 60
SWEEPS = (
    "without irqchip", "with irqchip", "two vcpus", "halt", "posts", "posts no longer", "messages", "doorbells",
    "messages of a device", "verbs", "old",
)  # fmt: skip
# The calls of tests/shim/shim.c that are none of KVM's.
OTHERS = {"open", "memfd_create", "ftruncate", "mmap", "timer_create"}
# kvm-ioctls makes it, and hyperpy never names it.
UNNAMED = {"KVM_GET_VCPU_MMAP_SIZE"}
# Made where KVM's dirty rings are used: of the hosts that this runs on, not all have some (`kvm/mod.rs`).
RINGS = {"KVM_RESET_DIRTY_RINGS"}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = ROOT / "tests/shim/shim.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
    return library


def python(shim: Path | None, *arguments: str) -> str:
    """What a process says that the shim stands around; it must end well."""
    environment = os.environ | ({"LD_PRELOAD": str(shim)} if shim else {})
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def script(shim: Path | None, code: str) -> list[str]:
    """The lines that a script prints which may use what tests/shim/drive.py defines."""
    prelude = "import errno, os, sys\nsys.path.insert(0, 'tests/shim')\n"
    prelude += "from drive import *\n" if shim else ""
    return python(shim, "-c", prelude + textwrap.dedent(code)).splitlines()


@functools.cache
def swept(shim: Path, sweep: str) -> dict[str, Any]:
    """What came of a sweep of tests/shim/drive.py."""
    found: dict[str, Any] = json.loads(python(shim, "tests/shim/drive.py", sweep))
    return found


@pytest.mark.fault(37, 38)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_each_call_that_fails_once_is_told_or_made_again_and_harms_nothing(shim: Path, sweep: str) -> None:
    """Told with its name and errno, and then the machine goes on to the same end; nothing leaks; others run on."""
    assert swept(shim, sweep)["wrong"] == []


def named(folder: str) -> set[str]:
    """The calls that the sources in a folder of the core name."""
    sources = (ROOT / "crates/hyperpy-core/src" / folder).glob("*.rs")
    return {name for source in sources for name in re.findall(r'"(KVM_(?!CAP_)\w+)"', source.read_text())}


@pytest.mark.fault(37)
def test_sweeps_reach_every_call_that_hyperpy_makes_and_the_shim_knows_no_other(shim: Path) -> None:
    listed = set(re.findall(r"KVM_CALL\((KVM_\w+)\)", (ROOT / "tests/shim/shim.c").read_text()))
    in_core, of_states = named("kvm"), named("kvm/snapshot")
    reached = {name for sweep in SWEEPS for name in swept(shim, sweep)["told"]} - {"nothing"}
    # What only a state is made of fails in turn in the core's own tests.
    assert (in_core - RINGS) | UNNAMED | of_states & listed == listed
    assert reached == listed | OTHERS


@pytest.mark.fault(37)
def test_save_without_a_thread_for_the_disk_has_its_file_and_without_the_others_says_so(
    shim: Path, tmp_path: Path
) -> None:
    said = script(
        shim,
        f"""
        from hyperpy import Snapshot
        with Machine(memory="1M") as m:
            m.memory.write(0x1000, b"x")
            base = m.snapshot()
            for nth in 1, 2:
                arm(nth, errno.EAGAIN, only="pthread_create")
                try:
                    base.save(f"{tmp_path}/{{nth}}.hps")
                    print(Snapshot.open(f"{tmp_path}/{{nth}}.hps") == base)
                except OSError as raised:
                    print(raised.errno == errno.EAGAIN, os.listdir("{tmp_path}"))
        """,
    )
    assert said == ["True", "True ['1.hps']"]


@pytest.mark.fault(37)
def test_msr_whose_trap_fails_stays_with_kvm(shim: Path) -> None:
    """A filter without the exits that it asks for would be a fault in the guest."""
    said = script(
        shim,
        """
        code = bytes.fromhex("66b97702 0000 0f32 f4")  # mov ecx, 0x277 (IA32_PAT); rdmsr; hlt
        for call in "KVM_X86_SET_MSR_FILTER", "KVM_ENABLE_CAP":
            with Machine(memory="1M") as m:
                m.load(Flat(code, mode="real"))
                m.vcpus[0].regs.rax = 0x1234
                arm(1, errno.ENOMEM, only=call)
                try:
                    m.trap_msr("IA32_PAT")
                except KvmError as raised:
                    print(raised.ioctl, m.run(RUN), hex(m.vcpus[0].regs.rax))
        """,
    )
    assert said == [
        "KVM_X86_SET_MSR_FILTER Exit.Halt(vcpu=0) 0x70406",
        "KVM_ENABLE_CAP Exit.Halt(vcpu=0) 0x70406",
    ]


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("ENOENT", "load the module kvm-intel or kvm-amd"),
        ("EACCES", "usermod -aG kvm"),
        ("EPERM", "usermod -aG kvm"),
        ("EMFILE", "ulimit -n"),
        ("ENODEV", "hyperpy doctor"),
    ],
)
def test_kvm_device_that_cannot_be_opened_is_unavailable_with_its_fix(
    shim: Path, error: str, hint: str
) -> None:
    said = script(
        shim,
        f"""
        arm(1, errno.{error}, only="open")
        try:
            Machine()
        except KvmUnavailable as raised:
            print(raised.errno == errno.{error}, os.strerror(errno.{error}) in raised.message, raised.hint)
        print(Machine().close())
        """,
    )
    assert said[0].startswith("True True ")
    assert hint in said[0]
    assert said[1:] == ["None"]


@pytest.mark.fault(36)
def test_kvm_of_another_version_is_unavailable(shim: Path) -> None:
    said = script(
        shim,
        """
        before = descriptors()
        arm(1, result=11, only="KVM_GET_API_VERSION")
        try:
            Machine()
        except KvmUnavailable as raised:
            print(raised.message, bool(raised.hint), descriptors() == before)
        """,
    )
    assert said == ["/dev/kvm speaks version 11 of its interface, not 12 True True"]


# Numbers of linux/kvm.h.
@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("capability", "number"), [("USER_MEMORY", 3), ("SYNC_REGS", 74), ("READONLY_MEM", 81), ("IMMEDIATE_EXIT", 136)]
)  # fmt: skip
def test_kvm_that_lacks_what_a_machine_needs_is_unavailable_and_names_it(
    shim: Path, capability: str, number: int
) -> None:
    said = script(
        shim,
        f"""
        with Machine(memory="1M") as m:
            m.load(Flat(GUEST, mode="real"))
            arm(1, only="KVM_CHECK_EXTENSION", argument={number})
            try:
                m.run(RUN)
            except KvmUnavailable as raised:
                print(raised.message, "doctor" in raised.hint, m.state)
        """,
    )
    assert said == [f"/dev/kvm lacks KVM_CAP_{capability} True created"]


@pytest.mark.fault(36)
def test_kvm_device_that_is_something_else_is_unavailable() -> None:
    """In a mount namespace of its own, where /dev/null hides /dev/kvm."""
    hidden = "mount --bind /dev/null /dev/kvm && exec "
    code = (
        "import hyperpy\ntry:\n hyperpy.Machine()\nexcept hyperpy.HyperpyError as error:\n print(error.hint)"
    )
    command = ["unshare", "--mount", "sh", "-c", hidden + '"$0" -c "$1"', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hyperpy doctor" in done.stdout


@pytest.mark.fault(39)
@pytest.mark.parametrize("irqchip", [False, True])
def test_descriptors_exhausted_at_each_step_is_an_error_with_a_hint_and_leaks_nothing(irqchip: bool) -> None:
    """The limit is raised one by one, so that every step that opens something fails once."""
    said = script(
        None,
        f"""
        import hyperpy, resource
        from hyperpy import Device, Exit, Flat, Machine
        def attempt():
            with Machine(memory="1M", vcpus=2 if {irqchip} else 1, irqchip={irqchip}) as m:
                m.load(Flat(bytes([0xE4, 0x99, 0xF4]), mode="real"))
                m.start()
                assert isinstance(m.wait(10), Exit.Pio)
        attempt()
        before = sorted(os.listdir("/proc/self/fd"))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        told = []
        for limit in range(3, 64):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                attempt()
                done = True
            except (hyperpy.HyperpyError, MemoryError) as error:
                done = False
                assert "ulimit -n" in str(error), error
                told.append(getattr(error, "ioctl", type(error).__name__))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            assert sorted(os.listdir("/proc/self/fd")) == before, limit
            if done:
                print(*dict.fromkeys(told), sep="\\n")
                break
        """,
    )
    assert said == ["KvmUnavailable", "HostMemoryError", "KVM_CREATE_VM", "KVM_CREATE_VCPU"]
