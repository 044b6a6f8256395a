"""Prepares one guest, and forks it into a fleet whose members each do a part of the work. Prints what each found and cost.

The parent sieves the primes below 16,000, which is done once. Each child asks a device of its own which thousand is its to
count, and tells what it found. Runs on any KVM: python examples/fork_fleet.py [CHILDREN]
"""

import sys
from typing import Self

from hyperpy import Device, Exit, Flat, Identity, Machine, Register

GUEST = bytes.fromhex(
    "66c7050000010001 01"  #  mov word ptr [0x10000], 0x0101  ; 0 and 1 are none
    "bb02000000"  #           mov ebx, 2
    "89de"  #      next:      mov esi, ebx
    "0faff3"  #               imul esi, ebx
    "81fe803e0000"  #         cmp esi, 16000
    "7314"  #                 jae ready
    "c6860000010001"  # mark: mov byte ptr [esi + 0x10000], 1
    "01de"  #                 add esi, ebx
    "81fe803e0000"  #         cmp esi, 16000
    "72ef"  #                 jb mark
    "43"  #                   inc ebx
    "ebdf"  #                 jmp next
    "f4"  #        ready:     hlt                             ; here the parent is forked
    "e510"  #                 in eax, 0x10                    ; which thousand?
    "69d8e8030000"  #         imul ebx, eax, 1000
    "b9e8030000"  #           mov ecx, 1000
    "31c0"  #                 xor eax, eax
    "80bb0000010001"  # each: cmp byte ptr [ebx + 0x10000], 1
    "83d000"  #               adc eax, 0
    "43"  #                   inc ebx
    "e2f3"  #                 loop each
    "e714"  #                 out 0x14, eax
    "f4"  #                   hlt
)


class Ticket(Device):
    """Tells its machine which thousand to count, and takes the result."""

    number = Register(0x0, access="ro")
    found = Register(0x4)
    saved_attributes = ()

    def forked(self, parent: Self, identity: Identity, /) -> None:
        self.number = identity.seed


def main(children: int) -> None:
    with Machine(memory="64M", name="parent") as parent:
        parent.load(Flat(GUEST, at=0x1000, mode="protected"))
        ticket = parent.attach(Ticket(), pio=0x10)
        assert parent.run(timeout=60) == Exit.Halt(vcpu=0)
        fleet = [parent.fork(name=f"worker.{number}", seed=number) for number in range(children)]
    for child in fleet:
        child.start()  # their parent is closed already
    print(f"{'machine':10}  {'numbers':>14}  primes  KiB of its own")
    for child in fleet:
        assert child.wait(timeout=60) == Exit.Halt(vcpu=0)
        mine = child.copy_of(ticket)
        numbers = f"{mine.number * 1000} to {mine.number * 1000 + 999}"
        print(f"{child.name:10}  {numbers:>14}  {mine.found:6}  {child.stats.memory_bytes >> 10:14}")
        child.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
