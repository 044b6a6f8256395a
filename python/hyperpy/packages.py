"""Debian packages as files: kernels and other guests, fetched into a cache, unmodified and checked.

This module owns a private apt state (lists, archives, sources) in hyperpy's cache folder, the extraction of
packages there, and the proof that an extracted file is the one that the distribution published. It never
writes to the host's apt configuration; only `install` changes the host, and only as root. Sources come from
the host's own Debian entries (`_apt_sources`), with the suite that our guests are taken from and its backports added.
Format: deb-control(5).

What was fetched once is found again without network, apt or dpkg, in about a millisecond.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hyperpy._apt_sources import RELEASES, host_stanzas, is_debian
from hyperpy.cache import cache_dir
from hyperpy.errors import HyperpyError

__all__ = [
    "BACKPORTS",
    "SUITE",
    "Kernel",
    "Package",
    "PackageError",
    "cache_dir",
    "fetch",
    "install",
    "kernel",
    "verify",
]

SUITE = "bookworm"
"""The Debian release that guests are taken from, whatever the host's own is."""
BACKPORTS = f"{SUITE}-backports"
"""Its backports: newer kernels, and the QEMU of the lab."""

_ETC_APT = Path("/etc/apt")
_NETWORK_HINT = "check the network, and that `apt-get update` works on this host"


class PackageError(HyperpyError):
    """A package cannot be found, fetched or trusted; `hint` says what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package in the cache: what it is, and where its files are.

    Attributes:
        name, version, suite: as apt calls them.
        sha256: of the .deb, as listed by apt's signed index and checked after the download.
        deb: the package as downloaded.
        root: the folder with its files, as they would be below `/`.
    """

    name: str
    version: str
    suite: str
    sha256: str
    deb: Path
    root: Path

    def file(self, path: str) -> Path:
        """Return the extracted file at `path` (from the package's root, leading slash or not).

        Raises:
            PackageError: the package has no such file.
        """
        found = self.root / path.lstrip("/")
        if not found.exists():
            raise PackageError(
                f"no such file in {self.name} {self.version}: {path}", hint=f"see `find {self.root}`"
            )
        return found


@dataclass(frozen=True, slots=True)
class Kernel:
    """A Linux kernel from a package: its release (as `uname -r`), bzImage and folder of modules."""

    package: Package
    release: str
    vmlinuz: Path
    modules: Path


def fetch(name: str, *, suite: str = SUITE) -> Package:
    """Return package `name` from `suite`, downloading and extracting it unless the cache has it.

    Args:
        name: a Debian package for this machine's architecture, such as `memtest86+`.
        suite: the release to take it from: `SUITE` or `BACKPORTS`.

    Raises:
        PackageError: apt or dpkg is missing, the network fails, the package is unknown, or its checksum is
            wrong.

    Safe to call from several processes at once: one downloads, the others wait and find the result.

    Example:
        >>> fetch("memtest86+").file("boot/memtest86+x64.bin").exists()  # doctest: +SKIP
        True
    """
    return _cached(name, suite) or _with_lock(name, suite, name)


def kernel(name: str = "linux-image-amd64", *, suite: str = SUITE) -> Kernel:
    """Return the kernel that the metapackage `name` depends on, with `modules.dep` made for its modules.

    Args:
        name: `linux-image-amd64` (6.1 in `SUITE`) or `linux-image-cloud-amd64` (6.12 in `BACKPORTS`).
        suite: as for `fetch`.

    Raises:
        PackageError: as for `fetch`.
    """
    # Remembered under the metapackage's name, so that the second call asks apt nothing.
    package = _cached(name, suite) or _with_lock(name, suite, None)
    vmlinuz = sorted(package.root.glob("boot/vmlinuz-*"))
    if not vmlinuz:
        raise PackageError(f"no kernel in package: {package.name}", hint="name a linux-image metapackage")
    release = vmlinuz[0].name.removeprefix("vmlinuz-")
    return Kernel(package, release, vmlinuz[0], package.root / "lib/modules" / release)


def verify(file: Path) -> Package:
    """Check that `file`, in the cache, is what its package contains, and return that package.

    The .deb is compared with its SHA-256 in the signed index, then the file with the package's own md5sums,
    or with a fresh extraction where the package does not list it.

    Raises:
        PackageError: the file or the .deb was modified, or the file is not from the cache.
    """
    file = file.absolute()
    package = _package_from_file(file)
    if _sha256(package.deb) != package.sha256:
        raise PackageError(
            f"package was modified: {package.deb}", hint=f"remove {package.root.parent} and fetch it again"
        )
    path = file.relative_to(package.root).as_posix()
    content = file.read_bytes()
    listed = dict(
        line.split(maxsplit=1)[::-1] for line in _deb_member(package.deb, "md5sums").decode().splitlines()
    )
    if (md5 := listed.get(path)) is not None:
        same = hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
    else:
        same = content == _deb_member(package.deb, path, control=False)
    if not same:
        raise PackageError(
            f"file differs from package {package.name}: {file}", hint=f"remove {package.root.parent}"
        )
    return package


def install(names: Sequence[str], *, backports: bool = False) -> None:
    """Install packages on this host, as root, with the private sources.

    Args:
        names: Debian packages.
        backports: take them, and what they depend on, from the backports where this host runs `SUITE`.

    Raises:
        PackageError: not root, or apt fails.
    """
    command = f"apt-get install {' '.join(names)}"
    if os.geteuid() != 0:
        raise PackageError(
            f"packages are missing on this host: {' '.join(names)}", hint=f"run `sudo {command}`"
        )
    with _locked():
        _update()
        release = ["-t", BACKPORTS] if backports and _host_release() == SUITE else []
        options = ["-y", "-q", "--no-install-recommends", *release]
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(
            ["apt-get", *_apt_options(), "install", *options, *names],
            hint=f"run `{command}`",
            env=environment,
        )


def _host_release() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    return ""


def _cached(name: str, suite: str) -> Package | None:
    try:
        entry = json.loads(_index(name, suite).read_text())
        package = Package(**entry | {"deb": Path(entry["deb"]), "root": Path(entry["root"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not fetched yet, or written by another version: fetch it
    return package if package.root.is_dir() and package.deb.is_file() else None


def _index(name: str, suite: str) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", name):
        raise PackageError(f"not a package name: {name!r}", hint="a name has a-z, 0-9, plus, minus and dots")
    return cache_dir() / "index" / suite / f"{name}.json"


def _with_lock(name: str, suite: str, wanted: str | None) -> Package:
    """Fetch `wanted` (None: what the metapackage `name` depends on) and remember it as `name`."""
    index = _index(name, suite)
    if os.environ.get("HYPERPY_LAB") == "1":
        hint = f"fetch it outside the lab first: `hyperpy.packages.fetch({name!r}, suite={suite!r})`"
        raise PackageError(f"package is not in the cache, and the lab has no network: {name}", hint=hint)
    with _locked():
        if (package := _cached(name, suite)) is not None:
            return package  # another process was first
        if not list(_apt_dir().glob("lists/*Packages*")):
            _update()
        try:
            package = _download(wanted or _kernel_dependency(name, suite), suite)
        except PackageError:
            _update()  # the lists may be older than the archive
            package = _download(wanted or _kernel_dependency(name, suite), suite)
        index.parent.mkdir(parents=True, exist_ok=True)
        partial = index.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(package), default=str, indent=1))
        partial.rename(index)
    return package


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    _apt_dir().mkdir(parents=True, exist_ok=True)
    with open(_apt_dir() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(name: str, suite: str) -> Package:
    record = _record(name, suite)
    version, sha256 = record["Version"], record["SHA256"]
    folder = cache_dir() / "packages" / f"{name}_{version}_{sha256[:12]}"
    package = Package(name, version, suite, sha256, folder / f"{name}.deb", folder / "root")
    if folder.is_dir():
        return package
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        _run(
            ["apt-get", *_apt_options(), "-q", "download", f"{name}={version}"],
            hint=_NETWORK_HINT,
            cwd=partial,
        )
        (downloaded,) = Path(partial).glob("*.deb")
        if (found := _sha256(downloaded)) != sha256:
            raise PackageError(
                f"checksum of {name} {version} is wrong: {found}", hint=f"{sha256} is listed; {_NETWORK_HINT}"
            )
        made = Path(partial, "made")
        made.mkdir()
        downloaded.rename(made / package.deb.name)
        _run(["dpkg", "-x", str(made / package.deb.name), str(made / "root")], hint="check the free space")
        for modules in (made / "root").glob("lib/modules/*"):
            _run(["depmod", "-b", str(made / "root"), modules.name], hint="install the package kmod")
        made.rename(folder)
    return package


def _record(name: str, suite: str) -> dict[str, str]:
    """Return the fields of the newest `name` in `suite`, from apt's verified index."""
    done = _run(["apt-cache", *_apt_options(), "show", f"{name}/{suite}"], hint="", check=False)
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", done.split("\n\n")[0], re.MULTILINE))
    if "SHA256" not in fields:
        raise PackageError(f"unknown package in {suite}: {name}", hint="check its name at `apt-cache search`")
    return fields


def _kernel_dependency(name: str, suite: str) -> str:
    found = re.search(r"linux-image-\d[^ ,]*", _record(name, suite).get("Depends", ""))
    if found is None:
        raise PackageError(
            f"depends on no kernel: {name}", hint="name a metapackage such as linux-image-amd64"
        )
    return found.group()


def _apt_dir() -> Path:
    return cache_dir() / "apt"


def _apt_options() -> list[str]:
    base = _apt_dir()
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": base / "sources",
        "Dir::State::lists": base / "lists",
        "Dir::Cache": base / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "APT::Sandbox::User": "root",  # the cache may be where apt's own user cannot write
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _update() -> None:
    base = _apt_dir()
    for folder in ("sources", "lists/partial", "cache/archives/partial"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "sources/hyperpy.sources").write_text("\n\n".join(_sources()) + "\n")
    _run(["apt-get", *_apt_options(), "-q", "update", "--error-on=any"], hint=_NETWORK_HINT)


def _sources() -> list[str]:
    """Return deb822 stanzas: the host's Debian entries, and the main one again for suites that it lacks."""
    stanzas = [s for s in host_stanzas(_ETC_APT) if "deb" in s["Types"].split() and is_debian(s)]
    host = [s for s in stanzas if "main" in s["Components"].split() and RELEASES & set(s["Suites"].split())]
    if not host:
        hint = (
            f"add a Debian entry with `Suites: {SUITE}` and `Components: main` in {_ETC_APT}/sources.list.d"
        )
        raise PackageError(f"no Debian sources on this host: {_ETC_APT}", hint=hint)
    known = {suite for s in stanzas for suite in s["Suites"].split()}
    extra = [suite for suite in (SUITE, BACKPORTS) if suite not in known]
    added = [host[0] | {"Suites": " ".join(extra), "Components": "main"}] if extra else []
    return ["\n".join(f"{key}: {value}" for key, value in s.items()) for s in stanzas + added]


def _package_from_file(file: Path) -> Package:
    for index in (cache_dir() / "index").glob("*/*.json"):
        package = _cached(index.stem, index.parent.name)
        if package is not None and file.is_relative_to(package.root):
            return package
    raise PackageError(
        f"file is not from a fetched package: {file}", hint="verify a path that `fetch` or `kernel` gave"
    )


def _deb_member(deb: Path, path: str, *, control: bool = True) -> bytes:
    """Return one file out of a package, or b"" when it has no such file."""
    command = ["dpkg-deb", "--ctrl-tarfile" if control else "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.name.removeprefix("./") == path:
                file = archive.extractfile(member)
                return file.read() if file else b""
    return b""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(
    command: Sequence[str],
    *,
    hint: str,
    check: bool = True,
    cwd: str | None = None,
    env: dict[str, str] | None = None,
) -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    program = shutil.which(command[0], path=path)
    if program is None:
        raise PackageError(
            f"program is missing on this host: {command[0]}", hint="packages are fetched on Debian only"
        )
    environment = os.environ | {"LC_ALL": "C", "PATH": path} | (env or {})
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    if check and done.returncode != 0:
        detail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise PackageError(f"{command[0]} failed with status {done.returncode}: {detail}", hint=hint)
    return done.stdout
