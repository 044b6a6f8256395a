"""A SCSI controller that runs scripts from guest memory, as the LSI 53C895A does.

Re-creates CVE-2023-0330, from its public descriptions: an instruction of a script can write to the controller's own registers, and one of
these starts a script: from within the first one, and so on until the stack ends.

Rule: a device that acts on its own registers notes what is to be done, and does it after what it is doing.
"""

from enum import IntEnum

from hyperpy import Device, Field, MemoryAccessError, Register

from .table import Planted, w32

MOST = 64  # instructions that one start may take: more is a guest that hangs itself


class Op(IntEnum):
    END = 0
    WRITE = 1
    JUMP = 2


class Target(IntEnum):
    SCRATCH = 0
    POINTER = 1
    START = 2


class Scripts(Device):
    """Instructions are eight bytes: what to do, a register, two bytes of nothing, a value."""

    dma = True
    access_rule = "exact"
    saved_attributes = ("left", "is_wanted")
    control = Register(0x0, enabled=Field(0))
    pointer = Register(0x4)
    start = Register(0x8, access="wo")
    scratch = Register(0xC)
    failed = Register(0x10, access="ro")
    left, is_wanted = 0, False

    def reset(self) -> None:
        self.left, self.is_wanted = 0, False

    @start.on_write
    def _start(self, value: int) -> None:
        if not self.control.enabled or self.pointer == 0:
            return
        try:
            self.run()
        except MemoryAccessError:
            self.failed = 1

    def run(self) -> None:
        self.left = MOST
        while self.left and self.step():
            self.left -= 1

    def step(self) -> bool:
        """Do one instruction, and tell whether there is a next one."""
        code = self.memory.read(self.pointer, 8)
        op, target, value = code[0] & 3, code[1] & 3, int.from_bytes(code[4:], "little")
        self.pointer = (self.pointer + 8) & 0xFFFF_FFFF
        if op == Op.WRITE:
            self.write_register(target, value)
        elif op == Op.JUMP:
            self.pointer = value
        return op != Op.END

    def write_register(self, target: int, value: int) -> None:
        if target == Target.SCRATCH:
            self.scratch = value
        elif target == Target.POINTER:
            self.pointer = value
        elif target == Target.START:
            self.pointer = value
            self.start_again()

    def start_again(self) -> None:
        self.run()  # the bug: within the script that runs


class FixedScripts(Scripts):
    """The script that runs goes on at the new place, with what it has left."""

    def start_again(self) -> None:
        pass


PLANTED = Planted(
    Scripts,
    FixedScripts,
    kind="DMA re-entry",
    shows="RecursionError",
    proof=(w32(0x0, 1), w32(0x4, 0x1000), w32(0x8, 1)),
    memory={0x1000: bytes([Op.WRITE, Target.START, 0, 0]) + (0x1000).to_bytes(4, "little")},
    recreates="CVE-2023-0330",
)
