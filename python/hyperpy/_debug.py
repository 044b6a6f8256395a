"""The machine's verbs for debugging: breakpoints, watchpoints, the trace, and faults. The class is mixed into `Machine`.

What they give is in modules that are imported when it is asked for. Steps are verbs of `Vcpu`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Literal, Self, overload

from hyperpy import _hyperpy
from hyperpy.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperpy.errors import GuestFault
    from hyperpy.exits import AnyExit
    from hyperpy.trace import Trace, TraceEntry

__all__ = ["Breakpoint", "Debugging"]


class Breakpoint:
    """One of the four debug registers of every vcpu: a breakpoint on code, or a watchpoint on data.

    `number` is the register's, 0 to 3; `Exit.Debug.hits` names it. `access` is execute, write or readwrite. A context
    manager: it is removed at the end of the block.
    """

    def __init__(self, native: _hyperpy.Machine, address: int, size: int, access: str) -> None:
        if not 0 <= operator.index(address) < 1 << 64:
            raise ValueError(f"address does not fit into 64 bits: {address:#x}\n\nhint: from 0 to 2**64 - 1")
        if not 0 <= operator.index(size) < 1 << 8:
            raise ValueError(
                f"size of a watchpoint is not 1, 2, 4 or 8 bytes: {size}\n\nhint: 4 for an int of C"
            )
        self._native = native
        self.address, self.size, self.access = address, size, access
        self.number = _hyperpy.set_breakpoint(native, address, size, access)
        self._is_set = True

    def remove(self) -> None:
        """Take it away. Twice is fine.

        Raises:
            StateError: the machine runs.
        """
        if self._is_set:
            _hyperpy.clear_breakpoint(self._native, self.number)
            self._is_set = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.remove()
        except StateError as refused:
            if error is None:
                raise
            error.add_note(f"{self!r} is still set: {refused.message}")  # the script's own error is the news

    def __repr__(self) -> str:
        gone = "" if self._is_set else ", removed"
        return f"<Breakpoint {self.number}: {self.access} {self.address:#x}, {self.size} bytes{gone}>"


class Debugging:
    """What `Machine` has for debugging."""

    _native: _hyperpy.Machine
    _traced: int

    def breakpoint(self, address: int) -> Breakpoint:
        """Let every vcpu stop before it executes the instruction at linear address `address`, with `Exit.Debug`.

        A run that begins there goes on without meeting it again at once. The processor has four debug registers, for
        breakpoints and watchpoints together; while any is set, the guest's own use of them has no effect.

        Raises:
            StateError: the machine runs or is closed; or all four are in use.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(
            ...         hyperpy.Flat(bytes([0x40, 0x43, 0xF4]), at=0x1000, mode="protected")
            ...     )  # inc eax; inc ebx; hlt
            ...     with m.breakpoint(0x1001):
            ...         print(m.run(timeout=1.0))
            ...     print(m.run(timeout=1.0))
            Exit.Debug(vcpu=0, pc=0x1001, dr6=0xffff0ff1)
            Exit.Halt(vcpu=0)
        """
        return Breakpoint(self._native, address, 1, "execute")

    def watchpoint(
        self, address: int, *, size: int = 4, access: Literal["write", "readwrite"] = "write"
    ) -> Breakpoint:
        """Let every vcpu stop after it has accessed `size` bytes at linear address `address`, with `Exit.Debug`.

        A KVM that interprets kernel code watches user code only.

        Arguments:
            address: a multiple of `size`.
            size: 1, 2, 4 or 8.
            access: "write", or "readwrite" for reads too; there is none for reads alone (SDM vol. 3, 18.2.4).

        Raises:
            StateError: the machine runs or is closed; or all four debug registers are in use.
            ValueError: the size or the alignment is wrong.
        """
        if access not in ("write", "readwrite"):
            raise ValueError(f"unknown access: {access!r}\n\nhint: write or readwrite")
        return Breakpoint(self._native, address, size, access)

    @overload
    def trace(self, *, follow: Literal[False] = False) -> Trace: ...
    @overload
    def trace(self, *, follow: Literal[True]) -> Iterator[TraceEntry]: ...
    @overload
    def trace(self, *, follow: bool) -> Trace | Iterator[TraceEntry]: ...
    def trace(self, *, follow: bool = False) -> Trace | Iterator[TraceEntry]:
        """The last exits of every vcpu, by time, of a machine made with `trace=`; also while it runs, and when it is closed.

        Each entry names the device and the register that the guest accessed, as they were at that moment.

        Arguments:
            follow: give an iterator that goes on with the exits that are made, until the machine stands still. An exit is
                given when the vcpu's next one is made, or the machine stands. One that is overwritten before
                it was read is left out: make the trace longer.

        Raises:
            StateError: the machine is not traced.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M", unclaimed="ones", trace=16) as m:
            ...     port = m.attach(hyperpy.DebugExit(), pio=0xF4, name="exit")
            ...     m.load(hyperpy.Flat(bytes([0xE6, 0x80, 0xE4, 0xF4, 0xF4]), at=0x1000, mode="real"))
            ...     _ = m.run(timeout=1.0)  # out 0x80, al; in al, 0xf4; hlt
            ...     print([(e.what, hex(e.address), hex(e.value), e.where) for e in m.trace()])
            [('pio write', '0x80', '0x0', ''), ('pio read', '0xf4', '0x0', 'exit'), ('halt', '0x0', '0x0', '')]
        """
        from hyperpy import trace  # noqa: PLC0415 - few scripts need it

        if not self._traced:
            raise StateError("cannot read the trace: the machine is not traced", hint="Machine(trace=256)")
        return trace.follow(self._native) if follow else trace.read(self._native)

    def fault(self, exit: AnyExit) -> GuestFault:  # noqa: A002
        """An exception that tells what the guest was doing: `raise m.fault(exit)`, or print it.

        It shows registers, code and page walk where they can be seen: not while the machine runs, nor inside a device.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(
            ...         hyperpy.Flat(bytes([0x0F, 0x0B]), at=0x1000, mode="protected")
            ...     )  # ud2, and no handler
            ...     fault = m.fault(m.run(timeout=1.0))
            >>> print(fault.message)
            triple fault: an exception, and nothing to handle it
        """
        from hyperpy.fault import make  # noqa: PLC0415 - few scripts need it

        return make(self, exit)
