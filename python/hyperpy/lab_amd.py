"""The lab's AMD processor: what starts it, and what its guest runs at boot.

QEMU emulates the processor with SVM and nested paging; virtme-ng starts it with a Debian kernel and the host's
files. This module owns both commands and the scripts; `hyperpy.lab` owns when they are used, and
`hyperpy.lab_session` the process.

Inside, the host's files are seen through 9p, mounted a second time with `cache=loose` (starting Python falls
from 3 s to 0.3 s: the host must not change a file while the lab reads it, which a test run does not);
virtme-ng's own root is read-only, since its init runs systemd-tmpfiles on it. Each stream of the command has
its own virtio-serial port, so the kernel's log cannot mix into it. The guest holds the control port open and
powers off when the host's end goes.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from hyperpy import packages
from hyperpy.lab_session import CHANNELS, Emulator, Task

__all__ = ["PROGRAMS", "emulator"]

# The host's programs that it needs, besides vng: program, Debian package.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "file": "file",  # virtme-ng reads the kernel's release with it
}


# An ordinary boot takes 8 to 30 s; one that takes longer is given up and made again.
_BOOT_S = 75.0

# At each exit of a nested guest QEMU's emulation (to 10.1) clears a bit of the CPU's word of pending interrupts without
# taking the lock that its timers set their bits under, and an interrupt that comes in that moment is lost. With
# one-shot timers the CPU then sleeps for ever. A periodic tick comes again, and brings what was lost along.
_TICKS = "nohz=off highres=off"


def emulator(kernel: packages.Kernel, *, cpus: int, memory: str) -> Emulator:
    """Return QEMU with `kernel`, a number of CPUs and memory as QEMU takes it; its channels are sockets."""

    def prepare(folder: Path, task: Task) -> list[str]:
        _write_scripts(folder, task)
        return _vng_command(kernel, folder, cpus=cpus, memory=memory)

    return Emulator(f"Linux {kernel.release}, {cpus} CPUs, {memory}", prepare, _BOOT_S)


def _vng_command(kernel: packages.Kernel, folder: Path, *, cpus: int, memory: str) -> list[str]:
    qemu = [
        *("-cpu", "EPYC,+svm,+npt", "-accel", "tcg,thread=multi,tb-size=1024"),
        *("-fsdev", "local,id=hyperpy,path=/,security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=hyperpy,mount_tag=hyperpy"),
        *("-device", "virtio-serial-pci,id=hyperpy"),
    ]
    for number, name in enumerate(CHANNELS, start=1):
        qemu += ["-chardev", f"socket,id=hyperpy.{name},path={folder / name}"]
        device = f"virtserialport,bus=hyperpy.0,nr={number},chardev=hyperpy.{name},name=hyperpy.{name}"
        qemu += ["-device", device]
    options = {
        "--user": "root",
        "--cpus": str(cpus),
        "--memory": memory,
        "--append": f"loglevel=4 mitigations=off {_TICKS}",
        "--qemu-opts": shlex.join(qemu),
        "--exec": f"busybox sh {folder}/boot",
    }
    start = ["vng", "-v", "-r", str(kernel.vmlinuz), "--disable-kvm", "--force-9p", "--disable-microvm"]
    return [*start, *(f"{name}={value}" for name, value in options.items())]


def _write_scripts(folder: Path, task: Task) -> None:
    """Write what the guest runs: `boot` makes the tree and reports, `command` runs in that tree."""
    (folder / "command").write_bytes(task.script())
    pythons = [Path(sys.prefix), Path(sys.base_prefix)]
    wanted = [task.place, packages.cache_dir(), *pythons, folder, *map(Path, task.command)]
    tops = {Path(*path.parts[:3]) for path in wanted if path.parts[:2] == ("/", "tmp") and path.parts[2:]}
    shared = "\n".join(sorted(str(top) for top in tops if top.exists()))
    settings = {"folder": str(folder), "shared": shared}
    text = "\n".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    (folder / "boot").write_bytes(os.fsencode(f"{text}\n{_BOOT}"))


# Runs in virtme-ng's read-only root, by a copy of busybox in memory: each read of that root is a 9p request.
_BOOT = r"""
run=/run/hyperpy
root=$run/root
mkdir -p $root $run/tmp
cp /bin/busybox $run/busybox
b=$run/busybox
port() {
    for p in /sys/class/virtio-ports/*; do
        [ "$($b cat $p/name)" = "hyperpy.$1" ] && echo /dev/${p##*/}
    done
}
exec 3<>"$(port control)"
# Reading ends when the host's end of the port is closed: then nobody waits for this guest any more.
(while read -r _ <&3; do :; done; $b poweroff -f) &
modprobe kvm-amd

$b mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000,cache=loose hyperpy $root
$b mount -t proc proc $root/proc
$b mount -t sysfs sys $root/sys
$b mount -o rbind /dev $root/dev
$b mount -o bind $root/tmp $run/tmp
$b mount -t tmpfs -o mode=1777 tmp $root/tmp
$b mount -t tmpfs run $root/run
IFS='
'
for path in $shared; do
    if [ -d $run$path ]; then $b mkdir -p $root$path; else : > $root$path; fi
    $b mount -o bind $run$path $root$path
done
unset IFS

# Pipes stand between the command and the ports: a port opens only once, and /dev/stderr opens it again.
for stream in stdout stderr; do
    $b mkfifo $run/$stream
    $b cat < $run/$stream > "$(port $stream)" &
    eval $stream=$!
done
echo ready >&3
$b env -i $b chroot $root /bin/sh $folder/command </dev/null >$run/stdout 2>$run/stderr 3>&-
status=$?
# What the command left behind may hold a pipe open: it is not waited for longer than this.
($b sleep 5; kill $stdout $stderr) 2>/dev/null &
wait $stdout $stderr
$b sync
echo "exit $status" >&3
$b poweroff -f
"""
