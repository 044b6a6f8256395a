"""Who a copy of a machine is: a name, and a seed from which all that is to be its own is derived, the same each time.

`Machine.fork` makes an `Identity` for each copy, and tells it to each of its devices by `Device.forked`. What of it an operating system
learns is the device's to say, and by the VM generation id. A copy's time is in `clock`, and no part of who it is.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from hyperpy._value import Value

if TYPE_CHECKING:
    from random import Random

__all__ = ["Identity"]

_SEED_BITS = 128
_MAC_BYTES = 6


class Identity(Value):
    """Who a copy is: what is derived from one seed is always the same, and from another seed something else.

    Attributes:
        name: of the machine. Nothing is derived from it.
        seed: what the machine was given, or a random number: from 0 to 2**128 - 1.
        device: whom it is told: the place of a device, as "port 0x10"; empty for the machine itself, and on a bench. Two devices of one
            machine derive different things.

    Example:
        >>> import hyperpy
        >>> class Nic(hyperpy.Device):
        ...     mac = hyperpy.Register(0x0, width=8, access="ro")
        ...     saved_attributes = ()
        ...
        ...     def forked(self, parent: "Nic", identity: hyperpy.Identity, /) -> None:
        ...         self.mac = int.from_bytes(identity.mac(), "little")
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     nic, other = m.attach(Nic(), pio=0x80), m.attach(Nic(), pio=0x90)
        ...     with m.fork(seed=1) as a, m.fork(seed=1) as same, m.fork(seed=2) as b:
        ...         macs = [int(child.copy_of(nic).mac) for child in (a, same, b)]
        ...         print(macs[0] == macs[1], macs[0] == macs[2], a.copy_of(other).mac == macs[0])
        True False False
    """

    name: str
    seed: int
    device: str = ""

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        if not 0 <= operator.index(self.seed) < 1 << _SEED_BITS:
            raise ValueError(f"seed is out of range: {self.seed}\n\nhint: from 0 to 2**{_SEED_BITS} - 1")

    def derive(self, purpose: str, size: int) -> bytes:
        """Return `size` bytes for one purpose, such as a key or a serial number: others give other bytes.

        Nobody can tell the seed by them. From a small seed that somebody guesses he has them too.

        Raises:
            ValueError: `size` is below 0.

        Example:
            >>> from hyperpy import Identity
            >>> me = Identity("worker", seed=7)
            >>> me.derive("serial number", 4) == me.derive("serial number", 4), len(me.derive("key", 32))
            (True, 32)
        """
        if operator.index(size) < 0:
            raise ValueError(f"number of bytes is below 0: {size}\n\nhint: from 0")
        return self._bytes("bytes", f"{operator.index(size)} {purpose}", size)

    def mac(self, number: int = 0) -> bytes:
        """Return a MAC address of one's own: 6 bytes, locally administered, of no group.

        46 bits of it are derived. `number` tells those of one device apart.

        Example:
            >>> from hyperpy import Identity
            >>> Identity("worker", seed=7).mac().hex(":")
            '3a:b4:14:99:b2:6d'
        """
        first, *rest = self._bytes("mac", str(operator.index(number)), _MAC_BYTES)
        return bytes([first & 0xFC | 0x02, *rest])

    def random(self, purpose: str = "") -> Random:
        """Return a generator of random numbers that begins anew: the same numbers each time.

        It is no source of secrets (`random.Random`): `derive` is.

        Example:
            >>> from hyperpy import Identity
            >>> me, other = Identity("a", seed=1), Identity("b", seed=1)
            >>> me.random().random() == other.random().random()
            True
        """
        from random import Random  # noqa: PLC0415 - few programs derive anything

        return Random(self._bytes("random", purpose, _SEED_BITS // 8))

    def _generation(self, parent: int) -> int:
        """The VM generation id, of a copy of a machine that has this one: never the same, whatever the seed is."""
        return int.from_bytes(self._bytes("VM generation", str(parent), 16), "little")

    def _bytes(self, kind: str, purpose: str, size: int) -> bytes:
        """What no other kind or purpose has."""
        import hashlib  # noqa: PLC0415 - as above

        # `ascii` tells where one part ends, whatever is in it.
        text = ascii((operator.index(self.seed), self.device, kind, purpose))
        return hashlib.shake_256(text.encode()).digest(size)

    def _told(self, device: str) -> Identity:
        """The same, for a device."""
        return Identity(self.name, self.seed, device)
