"""Makes hyperpy's pure modules importable before the native module is built: import this first."""

import sys
import types
from pathlib import Path

_package = types.ModuleType("hyperpy")
_package.__path__ = [str(Path(__file__).resolve().parent.parent / "python" / "hyperpy")]
sys.modules["hyperpy"] = _package
