"""The exceptions of machines and specs, and one warning, `NotListedWarning`.

All exceptions derive from `HyperpyError` and carry a `hint`: what to do about it. So do the errors of the lab, of packages and
of initramfs images, which live beside what raises them. Arguments that cannot be are Python's own TypeError or ValueError. The native module raises these classes
too; they live here because the stable ABI cannot derive exceptions with fields in native code before Python 3.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperpy.disassembly import Instruction
    from hyperpy.paging import PageWalk
    from hyperpy.trace import TraceEntry

__all__ = [
    "BootError",
    "BudgetError",
    "DeclarationError",
    "DeviceError",
    "GuestFault",
    "HostMemoryError",
    "HyperpyError",
    "KvmError",
    "KvmUnavailable",
    "MemoryAccessError",
    "NotListedWarning",
    "RegisterError",
    "SnapshotError",
    "SpecError",
    "StateError",
]


_EXITS_SHOWN = 12


class HyperpyError(Exception):
    """Base of all of hyperpy's exceptions.

    Arguments:
        message: what happened, lower case, values after a colon.
        hint: what to do about it; shown below the message.

    Example:
        >>> try:
        ...     raise HyperpyError("no such thing: 0x10", hint="look at m.map")
        ... except HyperpyError as error:
        ...     print(error)
        no such thing: 0x10
        <BLANKLINE>
        hint: look at m.map
    """

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or None

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class KvmError(HyperpyError, OSError):
    """An ioctl of KVM failed. `errno` is what it returned and `ioctl` its name (kernel: virt/kvm/api.rst).

    `msr` is the index of the model-specific register that it refused, if that was it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        errno: int = 0,
        ioctl: str = "",
        msr: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        self.ioctl = ioctl
        self.msr = msr


class KvmUnavailable(HyperpyError, OSError):  # noqa: N818 - the name says it
    """There is no /dev/kvm, it may not be opened, or it lacks something. `hint` names the fix."""

    def __init__(self, message: str = "", *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class MemoryAccessError(HyperpyError, LookupError):
    """An access to guest-physical memory that is not there; or one by a device that may not be.

    `address` is the gpa, `size` the length in bytes.
    """

    def __init__(
        self, message: str = "", *, address: int = 0, size: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.address = address
        self.size = size


class HostMemoryError(HyperpyError, MemoryError):
    """The host gave no memory for a guest: none is left, a limit is reached, or its pool of huge pages is empty.

    `errno` is what the host said.
    """

    def __init__(self, message: str = "", *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class DeclarationError(HyperpyError, TypeError):
    """A device's class declares registers that cannot be: two at one place, a field outside of its register."""


class BudgetError(HyperpyError):
    """A machine asks for more than the budget of this process has left (`hyperpy.budget`).

    `resource` is "memory" (in bytes) or "cpu" (in processors); `asked`, `used` and `allowed` are of it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        resource: str = "",
        asked: float = 0,
        used: float = 0,
        allowed: float = 0,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.resource = resource
        self.asked = asked
        self.used = used
        self.allowed = allowed


class RegisterError(HyperpyError, ValueError):
    """A register cannot have the value that it was to be set to: no processor has such a state.

    `register` is its name and `value` the value; of a segment, its base. `hint` is the rule that it breaks.
    """

    def __init__(
        self, message: str = "", *, register: str = "", value: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.register = register
        self.value = value


class NotListedWarning(UserWarning):
    """A device with an `acpi_hid` is not in the ACPI tables that its guest has, or they tell another place of it.

    They are written when an operating system's image is loaded. A warning, since a driver may find the device in another way; to
    have it raised: `warnings.simplefilter("error", hyperpy.NotListedWarning)`. `message` and `hint` as of `HyperpyError`.
    """

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or None

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class StateError(HyperpyError, RuntimeError):
    """A verb that the machine's state does not allow, such as `run` on a closed machine."""


class DeviceError(HyperpyError):
    """A device could not be attached, answered with something unusable, or panicked."""


class BootError(HyperpyError, ValueError):
    """An image could not be loaded: damaged, of an unknown kind, or too large."""


class GuestFault(HyperpyError):  # noqa: N818 - the guest's, not ours
    """The guest did something that ends the run where the caller asked for an exception; also what `Machine.fault` gives.

    `exit` is the exit that tells what. The others are None or empty where they cannot be seen: `regs` the general
    registers by name, `code` the instructions from rip on, `walk` the page walk of rip, `cr2_walk` that of the address of
    the last page fault (after a triple fault or where KVM could not go on), and `trace` the last exits of all vcpus.
    """

    def __init__(self, message: str = "", *, exit: object = None, hint: str | None = None) -> None:  # noqa: A002
        super().__init__(message, hint=hint)
        self.exit = exit
        self.regs: dict[str, int] | None = None
        self.code: list[Instruction] = []
        self.walk: PageWalk | None = None
        self.cr2_walk: PageWalk | None = None
        self.trace: list[TraceEntry] = []
        self.unseen = ""  # why there are no registers
        self.is_reset = False  # KVM has put the vcpu into its power-on state

    @property
    def vcpu(self) -> int:
        """The vcpu that it is about."""
        return getattr(self.exit, "vcpu", None) or 0

    def __str__(self) -> str:
        where = f"; vcpu {self.vcpu}" if self.exit is not None else ""
        if self.regs is not None:
            where += (
                ", rip is lost, KVM has reset the vcpu" if self.is_reset else f", rip {self.regs['rip']:#x}"
            )
        parts = [self.message + where, *self._sections()]
        return "\n\n".join([*parts, f"hint: {self.hint}"] if self.hint else parts)

    def _sections(self) -> Iterator[str]:
        from hyperpy.vcpu import shown_registers  # noqa: PLC0415 - few scripts need it

        if self.regs is None:
            if self.unseen:
                yield f"registers: not shown, {self.unseen}"
        elif not self.is_reset:
            yield f"registers:\n{shown_registers(self.regs)}"
        if self.code:
            yield "code at rip:\n" + "\n".join(f"  {instruction}" for instruction in self.code)
        if self.walk and (self.walk.levels or self.walk.page is None):
            yield f"page walk of rip:\n{self.walk}"
        if self.cr2_walk:
            yield f"page walk of cr2:\n{self.cr2_walk}"
        if self.trace:
            yield f"last exits:\n{type(self.trace)(self.trace[-_EXITS_SHOWN:])}"


class SnapshotError(HyperpyError):
    """A snapshot could not be taken, read or restored."""


class SpecError(HyperpyError, ValueError):
    """A machine's spec cannot be read, or says what cannot be.

    `path` is the key that is wrong, such as "devices[1].mmio"; `file` the file that it is in, if it is in one,
    `what` the message without both.
    """

    def __init__(
        self, message: str = "", *, path: str = "", file: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(": ".join(part for part in (file, path, message) if part), hint=hint)
        self.path = path
        self.file = file
        self.what = message

    def under(self, key: str, file: str | None = None) -> SpecError:
        """The same error, seen from the table that has it at `key`; from a file with no key."""
        dot = "." if key and self.path and not self.path.startswith("[") else ""
        return SpecError(self.what, path=f"{key}{dot}{self.path}", file=file or self.file, hint=self.hint)
