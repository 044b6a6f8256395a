"""Bytes into any stream: those without a descriptor too, as a notebook's standard output and `io.StringIO`."""

from __future__ import annotations

import codecs
import io
from typing import Any

__all__ = ["Writer", "descriptor_of"]


def descriptor_of(stream: Any) -> int | None:
    """A stream's descriptor; None if it has none."""
    try:
        return int(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None


class Writer:
    """Writes bytes to a stream; to one of text as UTF-8, where what is none becomes U+FFFD.

    Example:
        >>> stream = io.StringIO()
        >>> Writer(stream)(b"ok")
        >>> stream.getvalue()
        'ok'
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        is_text = isinstance(stream, io.TextIOBase) or hasattr(stream, "encoding")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if is_text else None

    def __call__(self, data: bytes) -> None:
        self._stream.write(data if self._decoder is None else self._decoder.decode(data))

    write = __call__

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        if hasattr(self._stream, "flush"):
            self._stream.flush()
