"""The lab's Intel processor: Bochs, which emulates VMX with EPT, and the disc that it boots.

This module owns the disc image (GRUB, a Debian kernel, and an initramfs that holds all that the command needs,
since this emulator sees no file of the host), Bochs' settings, and the script at boot. `hyperpy.lab` decides when it is
used; `hyperpy.lab_session` owns the process. Formats: newc cpio (`hyperpy.guest`), El Torito by grub-mkrescue.

The processor is slow (about 40 million instructions a second, one core), so that the image is not compressed, and
compiled Python files are in it. Bochs' clock counts instructions: `_CLOCK_HZ` of them are the guest's second, whatever
time that takes, so that a bound of 100 ms inside means the same work on every host.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from hyperpy import guest, packages
from hyperpy.lab_session import CHANNELS, Emulator, LabError, Task, search_path

__all__ = ["PROGRAMS", "emulator"]

_BOOT_S = 900.0  # it takes about 100 on a machine that does nothing else

_BOCHS = "/usr/share/bochs/BIOS-bochs-latest"
_VGA = "/usr/share/bochs/VGABIOS-lgpl-latest"
_GRUB = "/usr/lib/grub/i386-pc/modinfo.sh"
_TERM = "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so"

# The host's programs and files that it needs: program or path, Debian package.
PROGRAMS = {
    "bochs": "bochs",
    _TERM: "bochs-term",
    _BOCHS: "bochsbios",
    _VGA: "vgabios",
    "grub-mkrescue": "grub-common",
    _GRUB: "grub-pc-bin",
    "xorriso": "xorriso",
    "mformat": "mtools",
    "busybox": "busybox-static",
    "ldd": "libc-bin",
}

_MODULES = ("virt/lib/irqbypass", "arch/x86/kvm/kvm", "arch/x86/kvm/kvm-intel")
# Parts of Python's library that no command needs here, and folders that are made by tools.
_STDLIB_LESS = {
    "test",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "distutils",
    "pydoc_data",
    "site-packages",
}
# Packages that build, lint and document: of no use there, and each megabyte costs time at boot.
_SITE_LESS = {
    *(
        "ast_serialize",
        "babel",
        "docutils",
        "elftools",
        "furo",
        "hypothesis",
        "librt",
        "mypy",
        "mypyc",
        "pip",
    ),
    *("pkg_resources", "pyelftools", "setuptools", "snowballstemmer", "sphinx", "virtme", "virtme_ng"),
}
_LESS = {"target", "build", "dist", "node_modules"}
_FOLDER_MAX = 9 << 20  # a folder of site-packages above this stays out: compilers and the like
_METADATA_MAX = 1 << 20
_FILE_MAX = 32 << 20
_IMAGE_MAX = 160 << 20  # of 512 MiB: the kernel holds archive and files at once
_CLOCK_HZ = 200_000_000


def emulator(
    kernel: packages.Kernel, files: Sequence[str | os.PathLike[str]] = (), *, memory_mib: int = 512
) -> Emulator:
    """Return Bochs with `kernel`.

    Args:
        kernel: the lab's kernel.
        files: what the command needs besides this Python, its working directory and the paths among its arguments:
            files, folders, and programs by a name on PATH.
        memory_mib: 256 to 2,048.
    """

    def prepare(folder: Path, task: Task) -> list[str]:
        _make_disc(folder, kernel, task, files)
        (folder / "settings").write_text(_settings(folder, memory_mib))
        # Bochs' debugger asks for commands: to go on, and when something stops it, to end instead of asking again.
        (folder / "go").write_text("c\nquit\n")
        return ["bochs", "-q", "-f", str(folder / "settings"), "-rc", str(folder / "go")]

    name = f"Linux {kernel.release}, 1 CPU, {memory_mib}M, in Bochs: this takes minutes"
    # Debian's Bochs, which has a debugger, keeps its terminal for that and draws on one that it makes itself.
    screen = re.compile(rb'connected to screen "(/dev/pts/\d+)"')
    return Emulator(name, prepare, _BOOT_S, has_pipes=True, wants_terminal=True, screen=screen)


def _make_disc(
    folder: Path, kernel: packages.Kernel, task: Task, files: Sequence[str | os.PathLike[str]]
) -> None:
    """Write `disc.iso`, which boots `kernel` and runs `task`."""
    entries = _entries(task, files)
    size = sum(
        len(c) if isinstance(c, bytes) else c.stat().st_size
        for c in entries.values()
        if isinstance(c, bytes | Path)
    )
    if size > _IMAGE_MAX:
        raise LabError(
            f"too much for the lab's image: {size >> 20} of {_IMAGE_MAX >> 20} MiB",
            hint=f"run it from a smaller folder than {task.place}",
        )
    extra = {
        **entries,
        "command": task.script(),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "root": guest.Directory(0o700),
        **{f"modules/{number}.ko": _module(kernel, name) for number, name in enumerate(_MODULES)},
    }
    tree = folder / "disc"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "initrd").write_bytes(guest.busybox_initramfs(_INIT, extra=extra))
    shutil.copy(kernel.vmlinuz, tree / "linux")
    (tree / "boot/grub/grub.cfg").write_text(_MENU)
    _make_iso(tree, folder / "disc.iso")


def _module(kernel: packages.Kernel, name: str) -> bytes:
    path = kernel.modules / "kernel" / f"{name}.ko"
    return path.read_bytes() if path.exists() else lzma.decompress(path.with_suffix(".ko.xz").read_bytes())


def _make_iso(tree: Path, iso: Path) -> None:
    options = [
        "--fonts=",
        "--locales=",
        "--themes=",
        "--install-modules=linux normal iso9660 biosdisk serial terminal echo",
    ]
    done = subprocess.run(
        ["grub-mkrescue", "-d", str(Path(_GRUB).parent), *options, "-o", str(iso), str(tree)],
        env=os.environ | {"PATH": search_path(), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise LabError(
            f"grub-mkrescue failed with status {done.returncode}: {tail}", hint="check the free space"
        )


# -- what goes into the image ----------------------------------------------------------------------------------------


def _entries(task: Task, files: Sequence[str | os.PathLike[str]]) -> dict[str, guest.Content]:
    """Return what the command needs of the host: path in the image, and content."""
    entries: dict[str, guest.Content] = {}
    below: Iterable[Path] = ()
    if task.place != Path("/"):  # a command that needs no folder runs there
        entries[str(task.place)] = guest.Directory()
        below = _tree(task.place, skip=_LESS)

    def add(path: Path) -> None:
        # Links are kept, with what they lead to: a virtual environment finds its base through them.
        while path.is_symlink():
            entries[str(path)] = guest.Symlink(os.readlink(path))
            path = Path(os.path.normpath(path.parent / os.readlink(path)))
        if path.suffix == ".pyc":
            if (compiled := _compiled(path)) is not None:
                entries[str(path)] = compiled
        elif path.is_file():
            entries[str(path)] = path

    for path in (*_python_files(), *below, *_named(task, files)):
        add(path)
    for library in _libraries([path for path in entries.values() if isinstance(path, Path)]):
        add(library)
    # A folder that is a link on the host, as /lib is, is one in the image too: names go where they lead.
    return {_real_parent(Path(name)): content for name, content in entries.items()} | _links_of_root()


def _compiled(path: Path) -> bytes | None:
    """A compiled file that is right for a source of time 0, which files have in the image; None if it is stale.

    Its header is magic number, flags (0: by time), the source's time and size (PEP 552).
    """
    data = path.read_bytes()
    source = path.parent.parent / f"{path.name.split('.')[0]}.py"
    if len(data) < 16 or data[4:8] != bytes(4) or not source.exists():
        return None
    if int.from_bytes(data[8:12], "little") != int(source.stat().st_mtime) & 0xFFFF_FFFF:
        return None
    return data[:8] + bytes(4) + data[12:]


def _links_of_root() -> dict[str, guest.Content]:
    return {
        name: guest.Symlink(f"usr/{name}")
        for name in ("lib", "lib64", "sbin")
        if Path("/", name).is_symlink()
    }


def _real_parent(path: Path) -> str:
    return str(path.parent.resolve() / path.name)


def _python_files() -> Iterator[Path]:
    """The running Python: interpreter, library, and the packages of its environment that are small."""
    yield Path(sys.executable)
    yield Path(sys.executable).resolve()
    yield Path(sys.prefix, "pyvenv.cfg")
    for script in Path(sys.prefix, "bin").iterdir():
        if script.is_symlink() or script.stat().st_size < 1 << 12:
            yield script
    for name in ("stdlib", "platstdlib"):
        yield from _tree(Path(sysconfig.get_path(name)), skip=_STDLIB_LESS, skip_prefix="config-")
    for folder in {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if entry.name.split("-")[0].lower() in _SITE_LESS:  # the folder, or its .dist-info
                continue
            found = list(_tree(entry)) if entry.is_dir() else [entry]
            limit = _METADATA_MAX if entry.suffix == ".dist-info" else _FOLDER_MAX
            if sum(path.stat().st_size for path in found if path.exists()) < limit:
                yield from found
    yield from _tree(Path(__file__).parent)  # of an editable installation


def _named(task: Task, files: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    """The program, the files and folders among the arguments, and what was asked for."""
    words, place = task.command, task.place
    program = shutil.which(words[0], path=search_path())
    if program is not None:
        yield Path(program).absolute()
    for word in (*words[1:], *(os.fspath(file) for file in files)):
        path = place / word
        if path.is_dir():
            yield from _tree(path, skip=_LESS)
        elif path.is_file():
            yield path
    for name in (os.fspath(file) for file in files):
        found = shutil.which(name, path=search_path())
        if found is None and not (place / name).exists():
            raise LabError(f"no such file or program: {name}", hint="give a path, or a name that is on PATH")
        if found is not None:
            yield Path(found)


def _tree(folder: Path, *, skip: Collection[str] = (), skip_prefix: str = "\0") -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and name not in skip and not name.startswith(skip_prefix)
        ]
        for name in (*names, *(name for name in folders if Path(parent, name).is_symlink())):
            path = Path(parent, name)
            if ".opt-" in name or name.startswith("_tkinter."):  # of `python -O`, and a window system's
                continue
            if path.is_symlink() or (path.is_file() and path.stat().st_size < _FILE_MAX):
                yield path


def _libraries(files: Sequence[Path]) -> set[Path]:
    """The shared libraries that the programs and modules among `files` need, as ldd finds them."""
    elves = [str(path) for path in files if _is_elf(path)]
    if not elves:
        return set()
    done = subprocess.run(["ldd", *elves], capture_output=True, text=True, check=False)
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.MULTILINE)}


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


# -- what the emulator and its guest are told ------------------------------------------------------------------------


def _settings(folder: Path, memory_mib: int) -> str:
    """Bochs' settings (bochsrc(5)): COM1 is the kernel's log, the other serial ports are the channels."""
    ports = "\n".join(
        f"com{number}: enabled=1, mode=file, dev={folder / name}"
        for number, name in enumerate(("console", *CHANNELS), start=1)
    )
    return f"""\
config_interface: textconfig
display_library: term
cpu: model=corei7_skylake_x, ips={_CLOCK_HZ}, reset_on_triple_fault=1
clock: sync=none
megs: {memory_mib}
romimage: file={_BOCHS}
vgaromimage: file={_VGA}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={folder}/disc.iso, status=inserted
boot: cdrom
{ports}
log: {folder}/emulator.log
logprefix: %e%d
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
speaker: enabled=0
"""


_MENU = """\
set timeout=0
serial --unit=0 --speed=115200
terminal_output serial
menuentry lab {
    echo loading
    linux /linux console=ttyS0,115200 nokaslr mitigations=off nosmp nomodeset random.trust_cpu=on panic=-1 loglevel=5
    initrd /initrd
    echo loaded
}
"""

_INIT = r"""
b=/bin/busybox
export PATH=/bin
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b --install -s /bin
mkdir -p /dev/pts /dev/shm /tmp /run /var/tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /dev/shm
mkdir -p /usr/bin
[ -e /usr/bin/env ] || ln -s /bin/busybox /usr/bin/env
for number in 1 2 3; do stty -F /dev/ttyS$number raw -echo 115200; done
exec 3>/dev/ttyS1
for number in 0 1; do insmod /modules/$number.ko; done
# This emulator puts a page into the log that the processor keeps (PML) once, and not again when KVM has made it clean.
insmod /modules/2.ko pml=0 || echo "kvm-intel does not load" >/dev/console
ip link set lo up
# Pipes stand between the command and the ports, which are terminals: programs write otherwise to those.
mkfifo /run/out /run/err
cat </run/out >/dev/ttyS2 &
out=$!
cat </run/err >/dev/ttyS3 &
err=$!
echo ready >&3
env -i sh /command </dev/null >/run/out 2>/run/err 3>&-
status=$?
# What the command left behind may hold a pipe open: it is not waited for longer than this.
(sleep 5; kill $out $err) 2>/dev/null &
wait $out $err
echo "exit $status" >&3
exec 3>&-
poweroff -f
"""
