"""Packages from a small archive that these tests make on disk: apt, dpkg and the cache are real, the network is not."""

import hashlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperpy import packages
from hyperpy.packages import PackageError


def build(archive: Path, name: str, version: str, files: dict[str, bytes], depends: str = "") -> None:
    """Make a .deb in `archive`, with md5sums of all its files but `unlisted`."""
    tree = archive / "trees" / f"{name}-{version}"
    sums = []
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
        if path != "unlisted":
            sums.append(f"{hashlib.md5(content).hexdigest()}  {path}\n")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/md5sums").write_text("".join(sums))
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        + (f"Depends: {depends}\n" if depends else "")
        + "Description: for a test\n"
    )
    subprocess.run(["dpkg-deb", "--build", tree, archive / "pool"], check=True, capture_output=True)


def publish(archive: Path, suite: str, names: list[str]) -> None:
    """Write the index of `suite`, unsigned: its source is marked as trusted."""
    folder = archive / "dists" / suite
    text = ""
    for deb in sorted((archive / "pool").glob("*.deb")):
        if deb.name.split("_")[0] in names:
            data = deb.read_bytes()
            control = subprocess.run(
                ["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True
            ).stdout
            digest = hashlib.sha256(data).hexdigest()
            text += f"{control}Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
    index = folder / "main/binary-amd64/Packages"
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
        f"SHA256:\n {digest} {len(text)} main/binary-amd64/Packages\n"
    )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with both suites, the host's apt configuration naming the first, and an empty cache."""
    root = tmp_path / "archive"
    (root / "pool").mkdir(parents=True)
    build(root, "tool", "1.0", {"usr/share/tool": b"listed", "unlisted": b"not listed"})
    build(
        root, "linux-image-9.9-test", "9.9.1", {"boot/vmlinuz-9.9-test": b"bz", "lib/modules/9.9-test/x": b""}
    )
    build(root, "linux-image-test", "9.9", {}, depends="linux-image-9.9-test (= 9.9.1)")
    publish(root, packages.SUITE, ["tool"])
    publish(root, packages.BACKPORTS, ["linux-image-9.9-test", "linux-image-test"])
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list.d/debian.list").write_text(f"deb [trusted=yes] file:{root} {packages.SUITE} main\n")
    monkeypatch.setattr(packages, "_ETC_APT", etc)
    monkeypatch.setenv("HYPERPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYPERPY_LAB", raising=False)
    return root


def test_fetch_gives_the_files_with_version_and_checksum(archive: Path) -> None:
    package = packages.fetch("tool")
    (deb,) = (archive / "pool").glob("tool_*.deb")
    assert (package.name, package.version, package.suite) == ("tool", "1.0", packages.SUITE)
    assert package.sha256 == hashlib.sha256(deb.read_bytes()).hexdigest()
    assert package.file("/usr/share/tool").read_bytes() == b"listed"
    with pytest.raises(PackageError, match=r"no such file in tool 1\.0: nothing"):
        package.file("nothing")


def test_fetch_again_needs_no_programs_and_takes_no_time(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packages.fetch("tool")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(packages, "_run", None)
    start = time.perf_counter()
    assert packages.fetch("tool") == first
    assert time.perf_counter() - start < 0.1


def test_kernel_is_what_the_metapackage_depends_on(archive: Path) -> None:
    kernel = packages.kernel("linux-image-test", suite=packages.BACKPORTS)
    assert (kernel.release, kernel.package.version) == ("9.9-test", "9.9.1")
    assert kernel.vmlinuz.read_bytes() == b"bz"
    assert (kernel.modules / "modules.dep").exists(), "modprobe can use the folder as it is"
    assert packages.kernel("linux-image-test", suite=packages.BACKPORTS) == kernel


@pytest.mark.parametrize("path", ["usr/share/tool", "unlisted"])
def test_verify_modified_file_raises_and_unmodified_passes(archive: Path, path: str) -> None:
    package = packages.fetch("tool")
    file = package.file(path)
    assert packages.verify(file) == package
    file.write_bytes(file.read_bytes() + b".")
    with pytest.raises(PackageError, match="file differs from package tool"):
        packages.verify(file)


def test_verify_modified_package_raises(archive: Path) -> None:
    package = packages.fetch("tool")
    package.deb.write_bytes(package.deb.read_bytes() + b".")
    with pytest.raises(PackageError, match="package was modified"):
        packages.verify(package.file("unlisted"))


def test_verify_file_from_elsewhere_raises(archive: Path) -> None:
    with pytest.raises(PackageError, match="not from a fetched package"):
        packages.verify(Path(__file__))


def test_fetch_archive_with_another_file_than_listed_raises_and_keeps_nothing(archive: Path) -> None:
    (deb,) = (archive / "pool").glob("tool_*.deb")
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.write_bytes(data)
    with pytest.raises(PackageError) as caught:
        packages.fetch("tool")
    assert caught.value.hint
    assert not list((packages.cache_dir() / "packages").glob("*"))


def test_fetch_newer_version_after_the_old_one_is_gone_updates_the_lists(archive: Path) -> None:
    packages.fetch("tool")  # the lists now name 1.0
    for index in (packages.cache_dir() / "index").rglob("*.json"):
        index.unlink()
    for folder in (packages.cache_dir() / "packages").iterdir():
        folder.rename(archive / folder.name)
    for deb in (archive / "pool").glob("tool_*.deb"):
        deb.unlink()
    build(archive, "tool", "2.0", {"usr/share/tool": b"newer"})
    publish(archive, packages.SUITE, ["tool"])
    assert packages.fetch("tool").version == "2.0"


def test_fetch_from_many_threads_downloads_once(archive: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: packages.fetch("tool"), range(4)))
    assert len({package.root for package in found}) == 1
    assert not list((packages.cache_dir() / "packages").glob(".partial-*"))


@pytest.mark.parametrize("name", ["no-such-package", "linux-image-9.9-test"])
def test_fetch_unknown_package_raises_with_hint(archive: Path, name: str) -> None:
    with pytest.raises(PackageError, match=f"unknown package in {packages.SUITE}: {name}") as caught:
        packages.fetch(name)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-o", "A", "a b"])
def test_fetch_what_is_no_name_raises(archive: Path, name: str) -> None:
    with pytest.raises(PackageError, match="not a package name"):
        packages.fetch(name)


def test_fetch_without_archive_raises_with_hint(archive: Path) -> None:
    archive.rename(archive.with_name("gone"))
    with pytest.raises(PackageError, match="apt-get failed") as caught:
        packages.fetch("tool")
    assert "network" in (caught.value.hint or "")


def test_fetch_without_apt_names_it(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(PackageError, match="program is missing on this host: apt-get"):
        packages.fetch("tool")


def test_fetch_on_a_host_without_debian_sources_raises(archive: Path) -> None:
    for path in (packages._ETC_APT / "sources.list.d").iterdir():
        path.write_text("deb http://example.org/ubuntu noble main\n")
    with pytest.raises(PackageError, match="no Debian sources on this host"):
        packages.fetch("tool")


def test_fetch_in_the_lab_what_is_not_cached_raises(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERPY_LAB", "1")
    with pytest.raises(PackageError, match="the lab has no network"):
        packages.fetch("tool")


def test_sources_deb822_keeps_key_and_adds_missing_suites(archive: Path) -> None:
    folder = packages._ETC_APT / "sources.list.d"
    (folder / "debian.list").unlink()
    (folder / "x.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: file:/a\nSuites: trixie trixie-updates\nComponents: main contrib\n"
        "Signed-By:\n -----BEGIN\n .\n key\n\n"
        "Enabled: no\nTypes: deb\nURIs: file:/off\nSuites: sid\nComponents: main\n\n"
        "Types: deb\nURIs: file:/else\nSuites: nodistro\nComponents: main\n"
    )
    host, added = packages._sources()
    assert host.splitlines()[:3] == ["Types: deb deb-src", "URIs: file:/a", "Suites: trixie trixie-updates"]
    assert added.splitlines()[1:4] == [
        "URIs: file:/a",
        f"Suites: {packages.SUITE} {packages.BACKPORTS}",
        "Components: main",
    ]
    assert added.replace(": \n", ":\n").endswith("Signed-By:\n -----BEGIN\n .\n key")


def test_install_without_root_names_packages_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackageError, match="missing on this host: kmod cpio") as caught:
        packages.install(["kmod", "cpio"])
    assert "sudo apt-get install kmod cpio" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HYPERPY_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/hyperpy"),
        ({"HOME": "/h"}, "/h/.cache/hyperpy"),
    ],
)
def test_cache_dir_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("HYPERPY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert packages.cache_dir() == Path(expected)
