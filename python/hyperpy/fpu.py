"""x87, SSE and AVX registers of a vcpu as a script sees them while the machine stands still.

Values are whole numbers as wide as the register, so that nothing is lost: how bits make numbers of 32, 64 or 80 bits is
the guest's affair. Layout of the state: SDM vol. 1, 13.4.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hyperpy import _hyperpy
from hyperpy.vcpu import _File, _no_register

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FpuRegisters"]

_BITS = {
    "fcw": 16,
    "fsw": 16,
    "ftw": 8,
    "fop": 11,
    "mxcsr": 32,
    **{f"st{n}": 80 for n in range(8)},
    **{f"xmm{n}": 128 for n in range(16)},
    **{f"ymm{n}": 256 for n in range(16)},
}


class FpuRegisters(_File):
    """x87, SSE and AVX registers (SDM vol. 1, 8.1, 10.2 and 14.1).

    `fcw`, `fsw`, `fop` and `mxcsr` are as the processor has them; `ftw` is the abridged tag word, a bit for each physical
    x87 register that is not empty. `st0` to `st7` are the 80 bits of each register, counted from the top of the stack:
    sign in bit 79, exponent in bits 78 to 64, significand below. `xmm0` to `xmm15` have 128 bits, and `ymm0` to `ymm15`
    256, of which the lower half is the xmm register; these are there where the processor has AVX.

    Reading is allowed while an access is pending; writing completes the access first. Both raise `StateError` while
    the machine runs.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     fpu = m.vcpus[0].fpu
        ...     fpu.update(xmm0=1 << 127, st0=0x3FFF_8000000000000000)  # st0 = 1.0
        ...     print(hex(fpu.fcw), hex(fpu.mxcsr), fpu.xmm0 >> 127, hex(fpu.st0))
        0x37f 0x1f80 1 0x3fff8000000000000000
    """

    __slots__ = ()

    def all(self) -> dict[str, int]:
        """All of them at once, by name."""
        return {
            name: int.from_bytes(value, "little") for name, value in _hyperpy.fpu(self._native, self._index)
        }

    def update(self, values: Mapping[str, int] | None = None, /, **more: int) -> None:
        """Set several at once; where an xmm register and its ymm register are both given, the later one wins.

        Raises:
            AttributeError: there is no such register on this processor; nothing is changed then.
            ValueError: a value does not fit into its register.
            RegisterError: reserved bits of mxcsr are set.
        """
        wanted = {**(values or {}), **more}
        for name, value in wanted.items():
            if name not in _BITS:
                raise AttributeError(_no_register(name, _shown(_BITS)))
            if not 0 <= operator.index(value) < 1 << _BITS[name]:
                raise ValueError(
                    f"{name} takes {_BITS[name]} bits: {value:#x}\n\nhint: from 0 to 2**{_BITS[name]} - 1"
                )
        whole = [
            (name, operator.index(value).to_bytes((_BITS[name] + 7) // 8, "little"))
            for name, value in wanted.items()
        ]
        _hyperpy.set_fpu(self._native, self._index, whole)

    def __getattr__(self, name: str) -> int:
        values = self.all() if name in _BITS else {}
        if name not in values:
            raise AttributeError(_no_register(name, _shown(values or _BITS)))
        return values[name]

    def __setattr__(self, name: str, value: int) -> None:
        self.update({name: value})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_BITS]

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:>6} {value:0{(_BITS[name] + 3) // 4}x}" for name, value in self.all().items()
        )


def _shown(names: Iterable[str]) -> list[str]:
    """The first and the last of those that are numbered."""
    return [
        name
        for name in names
        if not name[-1].isdigit() or name in {"st7", "xmm15", "ymm15"} or name[-1] == "0"
    ]
