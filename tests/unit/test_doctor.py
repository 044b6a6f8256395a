"""What the doctor says of hosts that this one is not: judged and printed from invented facts."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hyperpy import _measure, doctor, lab_amd
from hyperpy.doctor import LAB_PROGRAMS, Facts, Missing, Probe, diagnose

CAPABILITIES = dict.fromkeys((*doctor.REQUIRED, *doctor.NEEDED_FOR_KERNELS), 1)
NATIVE = Probe(CAPABILITIES, {"api_version": 12}, "native", 2400.0, 1.25)
INTERPRETED = Probe(CAPABILITIES, {"api_version": 12}, "interpreted", 3.0, 9.0)
HOST = Facts(
    modules=("kvm_intel",),
    device="usable",
    group="kvm",
    user="ada",
    cpu_flags=("vmx",),
    memory_bytes=16 << 30,
)


def facts(**changes: object) -> Facts:
    return dataclasses.replace(HOST, **changes)  # type: ignore[arg-type]


def test_native_kvm_runs_kernels_here_and_nothing_of_the_lab_is_missed() -> None:
    report = diagnose(facts(absent_programs=("vng", "qemu-system-x86_64")), NATIVE)
    assert (report.kernels, report.can_run_kernels, report.missing) == ("here", True, ())
    assert str(report).splitlines()[0] == "operating systems run on this host's KVM"
    assert not report.lab_ready


def test_interpreting_kvm_sends_kernels_to_the_lab() -> None:
    report = diagnose(facts(modules=("kvm_pvm",)), INTERPRETED)
    assert (report.kernels, report.can_run_kernels) == ("lab", True)
    assert "`hyperpy lab -- COMMAND`" in report.verdict
    assert "interprets kernel-mode code" in report.verdict


def test_interpreting_kvm_without_a_lab_runs_no_kernels_and_names_the_lab_first() -> None:
    lacking = {**CAPABILITIES, "KVM_CAP_IRQCHIP": 0}
    report = diagnose(
        facts(absent_programs=("busybox", "vng")), dataclasses.replace(INTERPRETED, capabilities=lacking)
    )
    assert (report.kernels, report.can_run_kernels) == ("nowhere", False)
    assert [entry.needed_for for entry in report.missing] == ["lab", "lab", "kvm"]


def test_native_kvm_without_interrupt_controllers_does_not_run_kernels() -> None:
    lacking = {**CAPABILITIES, "KVM_CAP_IRQCHIP": 0}
    report = diagnose(facts(), dataclasses.replace(NATIVE, capabilities=lacking))
    assert report.kernels == "lab"
    assert report.missing[0].what == "KVM_CAP_IRQCHIP"


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("host", "probe", "what", "fix"),
    [
        (facts(device="absent", modules=()), Probe(), "/dev/kvm", "sudo modprobe kvm_intel"),
        (
            facts(device="absent", modules=(), cpu_flags=("svm",)),
            Probe(),
            "/dev/kvm",
            "sudo modprobe kvm_amd",
        ),
        (
            facts(device="absent", modules=(), cpu_flags=()),
            Probe(),
            "virtualization",
            "hyperpy lab -- COMMAND",
        ),
        (facts(device="absent"), Probe(), "its module is loaded", "sudo mknod /dev/kvm c 10 232"),
        (facts(device="forbidden"), Probe(), "permission of ada", "`sudo usermod -aG kvm ada`"),
        (
            facts(device="forbidden", group=""),
            Probe(),
            "permission",
            "chmod 660 /dev/kvm && sudo usermod -aG kvm ada",
        ),
        (facts(), Probe(problem="no answer", fix="look at it"), "no answer", "look at it"),
        (facts(), dataclasses.replace(NATIVE, capabilities={}, problem="p", fix="f"), "p", "f"),
    ],
)
def test_unusable_kvm_is_missing_with_its_fix(host: Facts, probe: Probe, what: str, fix: str) -> None:
    (missing,) = [entry for entry in diagnose(host, probe).missing if entry.needed_for == "kvm"]
    assert what in missing.what
    assert fix in missing.fix


@pytest.mark.parametrize(
    ("changes", "ready", "fix"),
    [
        ({}, True, ""),
        ({"absent_programs": ("busybox", "modprobe")}, False, "sudo apt-get install busybox-static kmod"),
        ({"absent_programs": ("busybox",), "is_root": True}, True, ""),  # it installs that itself
        ({"absent_programs": ("busybox", "apt-get"), "is_root": True}, False, "use a Debian or Ubuntu host"),
        ({"absent_programs": ("vng",), "is_root": True}, False, "-m pip install virtme-ng"),
        ({"memory_bytes": 1 << 30}, False, "--memory 2G"),
    ],
)
def test_lab_is_ready_or_says_what_to_do(changes: dict[str, object], ready: bool, fix: str) -> None:
    report = diagnose(facts(**changes), INTERPRETED)
    assert report.lab_ready == ready
    assert [fix in entry.fix for entry in report.missing] == ([] if ready else [True])


def test_lab_programs_are_those_that_the_lab_looks_for() -> None:
    assert {**lab_amd.PROGRAMS, "apt-get": "apt"} == LAB_PROGRAMS


def test_report_text_is_a_verdict_a_table_and_the_fixes() -> None:
    lines = str(diagnose(facts(device="absent", modules=()), Probe())).splitlines()
    assert lines[0].startswith("operating systems run in the lab")
    assert lines[1] == ""
    starts = {len(line) - len(line.split("  ", 1)[1].lstrip()) for line in lines[2 : lines.index("", 2)]}
    assert len(starts) == 1, "values stand in one column"
    assert lines[-2:] == [
        "missing for the kvm: /dev/kvm",
        "  fix: run `sudo modprobe kvm_intel`; in a container, add `--device /dev/kvm`",
    ]
    assert "\033" not in "".join(lines)


def test_report_text_in_colour_says_the_same() -> None:
    report = diagnose(HOST, NATIVE)
    coloured = report.text(colour=True)
    assert coloured.startswith("\033[1;32m")
    assert coloured.replace("\033[1;32m", "").replace("\033[0m", "") == str(report)


def test_report_as_json_has_every_fact() -> None:
    report = diagnose(facts(absent_programs=("vng",)), INTERPRETED)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["probe"]["exit_us"] == 9.0
    assert plain["facts"]["cpu_flags"] == ["vmx"]
    assert plain["missing"] == [dataclasses.asdict(Missing("virtme-ng", "lab", report.missing[0].fix))]
    assert plain["can_run_kernels"] is False


def test_kernel_code_is_native_without_a_kvm_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kvm() -> str:
        raise FileNotFoundError("/dev/kvm")

    monkeypatch.setattr(_measure, "kernel_code", no_kvm)
    assert doctor.kernel_code_is_native.__wrapped__() is False


def test_programs_are_those_of_the_lab_even_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperpy.doctor.shutil.which", lambda *_args, **_options: None)
    assert doctor._facts().absent_programs == (*LAB_PROGRAMS, "vng")


@pytest.mark.parametrize(
    ("modules", "probe", "flavour"),
    [
        (("kvm_intel",), NATIVE, "intel"),
        (("kvm_amd",), NATIVE, "amd"),
        (("kvm_intel", "kvm_pvm"), INTERPRETED, "page-table"),
        ((), NATIVE, "unknown"),
        (("kvm_amd",), Probe(), "amd"),
    ],
)
def test_flavour_is_named_by_what_runs_and_then_by_the_module(
    modules: tuple[str, ...], probe: Probe, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = diagnose(facts(modules=modules), probe)
    monkeypatch.setattr(doctor, "_facts", lambda: facts(modules=modules))
    monkeypatch.setattr("hyperpy._measure.kernel_code", lambda: probe.kernel_code)
    assert doctor.flavour.__wrapped__() == flavour
    assert report.to_dict()["flavour"] == flavour
    assert any(line.split() == ["flavour", flavour] for line in str(report).splitlines())


@pytest.mark.parametrize("device", ["absent", "forbidden"])
def test_flavour_without_a_usable_device_is_none(device: str) -> None:
    assert diagnose(facts(device=device), Probe()).flavour == "none"
