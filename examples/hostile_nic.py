"""A driver that is right with every card that is right, and is broken by one that lies: found by a hostile device.

The card holds one packet of at most 64 bytes. The driver, a bare guest, asks how long it is, reads that many bytes into a buffer of 64, and
jumps to a handler whose address lies behind the buffer. It never looks at the length: no card says more than 64.
"""

from __future__ import annotations

from hyperpy import Device, Exit, Flat, Machine, Register
from hyperpy.fuzz import GuestFuzzer, InputDevice

PORT, BUFFER, ROOM = 0x300, 0x3000, 64
# 0x1000 mov dx, 0x300; in al, dx; test al, 1; jz done   is there a packet?
# 0x1009 mov dl, 1; in al, dx; movzx ecx, al             how long is it?
# 0x100f mov edi, 0x3000; mov dl, 2; rep insb            its bytes
# 0x1018 jmp [0x3040]                                    the handler
# 0x101f done: hlt
DRIVER = bytes.fromhex("66ba0003 ec a801 7416 b201 ec 0fb6c8 bf00300000 b202 f36c ff242540300000 f4")
DONE = 0x101F


class Card(Device):
    """A network card with one packet in it."""

    status = Register(0x0, width=1, access="ro", reset=1)
    length = Register(0x1, width=1, access="ro")
    data = Register(0x2, width=1, access="ro")

    saved_attributes = ("packet", "at")

    def __init__(self, packet: bytes = b"a packet") -> None:
        self.packet, self.at = packet[:ROOM], 0
        self.length = len(self.packet)

    @data.on_read
    def _next(self) -> int:
        self.at += 1
        return self.packet[self.at - 1] if self.at <= len(self.packet) else 0


def machine(card: Card) -> Machine:
    """Return a machine whose driver is about to take a packet from this card."""
    made = Machine(memory="1M")
    made.attach(card, pio=PORT)
    made.load(Flat(DRIVER, at=0x1000, mode="long"))
    made.memory.write(BUFFER + ROOM, DONE.to_bytes(8, "little"))
    return made


def target() -> GuestFuzzer:
    """Return the fuzzer: `hyperpy fuzz hostile_nic.py` runs it, too."""
    card = InputDevice.of(Card, "length", "data")()
    made = machine(card)
    fuzzer = GuestFuzzer(made, made.snapshot(), seed=1)
    fuzzer.input_device(card)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer


def main() -> None:
    """Run the driver with a card that is right, and then with one that lies."""
    with machine(Card(bytes(range(ROOM)))) as honest:
        print(f"a full packet: {honest.run(timeout=10.0)}")
    fuzzer = target()
    report = fuzzer.run(executions=500)
    crash = min((it.minimize() for it in report.crashes), key=lambda it: len(it.input))
    print(
        f"{len(report.crashes)} crashes in {report.executions} executions; the shortest input has {len(crash.input)} bytes"
    )
    print(f"the card says that its packet has {crash.input[0]} bytes: {crash}")
    fuzzer.machine.close()


if __name__ == "__main__":
    main()
