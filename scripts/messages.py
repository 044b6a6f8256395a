"""Writes docs/messages.md: every message of an error that hyperpy can raise, with its class and what the source says of it.

`python scripts/messages.py` writes the page; the tests hold it against the sources. Messages are found where they are
made: the `#[error]` of Rust's enums and the native module's own, and the calls that make exceptions in Python. A value in a message is
shown as `…`. What to do about a family of them is told by people, in docs/troubleshooting.md.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "messages.md"
# What the core's enums become in Python (crates/hyperpy-python/src/errors.rs), and the messages that become another class.
CLASSES = {
    "AccelError": "KvmUnavailable",
    "AttachError": "DeviceError",
    "BootError": "BootError",
    "BusError": "DeviceError",
    "DmaError": "MemoryAccessError",
    "FwCfgError": "ValueError",
    "LayoutError": "DeclarationError",
    "LoadError": "SnapshotError",
    "MemoryError": "ValueError",
    "OpenError": "SnapshotError",
    "RouteError": "ValueError",
    "RunError": "StateError",
    "SaveError": "SnapshotError",
    "SnapshotError": "SnapshotError",
    "StateFault": "SnapshotError",
    "TrapError": "ValueError",
}
EXCEPTIONS = {
    "… failed: …": "KvmError",
    "cannot …: the machine is": "StateError",
    "the machine has no interrupt controller": "StateError",
    "no memory at": "MemoryAccessError",
    "memory region at … has an alias": "StateError",
    "dirty pages are not tracked": "StateError",
    "cannot …: a vcpu does not come out": "StateError",
    "cannot use the memory": "StateError",
    "the host gave no memory": "HostMemoryError",
    "device … panicked": "DeviceError",
    "no such vcpu": "IndexError",
    "… refuses msr": "KvmError",
    "… cannot be set": "RegisterError",
    "cr3 cannot be set": "RegisterError",
}
# Never shown: they stand for an exception that Python has already.
INTERNAL = {
    "interrupted",
    "a device raised an exception",
    "no exception",
    "not a file: …",
    "snapshot cannot be read: …",
    "snapshot cannot be written: …: …",
}
_EXCEPTION = re.compile(r"[A-Z]\w*(Error|Unavailable|Fault)")
_TEXT = r'"((?:[^"\\]|\\.)*)"'
_HEAD = """\
# Every message

Written by `scripts/messages.py` from the sources; `…` stands for a value. Each error is shown with a hint of its own; what lies
behind a family of them is told in [troubleshooting](troubleshooting.md).

| message | raised as | the source says |
|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Message:
    """A message as it is shown, without its hint; the class; a sentence about it, or ""; and whether it has a hint."""

    text: str
    raised_as: str
    says: str = ""
    has_hint: bool = True

    def row(self) -> str:
        """Its line of the table."""
        cells = (
            f"`` {self.text} ``" if "`" in self.text else f"`{self.text}`",
            f"`{self.raised_as}`",
            self.says,
        )
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def messages() -> list[Message]:
    """All messages, sorted; one that several places make is there once for each class."""
    found = {}
    for message in (*_rust(), *_python()):
        if message.text not in INTERNAL and re.search(r"[a-z]{3}", message.text):
            # One whose hint was found, which has a name, stands for the same without.
            key = (message.text, message.raised_as)
            before = found.get(key, message)
            best = max(before, message, key=lambda one: bool(one.says))
            found[key] = replace(best, has_hint=before.has_hint and message.has_hint)
    return sorted(found.values(), key=lambda message: (message.text.strip("… /").lower(), message))


def page() -> str:
    """The page as it should be."""
    return _HEAD + "".join(f"{message.row()}\n" for message in messages())


def _shown(text: str) -> tuple[str, str]:
    """A message with its values left out, and its hint."""
    text = re.sub(r"\{\{.*?\}\}|\{[^{}]*\}", "…", text).replace("\\n", "\n").replace('\\"', '"')
    message, _, hint = text.partition("\n\nhint: ")
    return message.split("\n")[0].strip(), hint.strip()


def _hinted(hint: str) -> str:
    return f"Hint: {hint}" if re.search(r"[a-z]{3}", hint) else ""


def _hinting() -> set[str]:
    """Rust's enums and structs whose `hint` always gives one, or for which another's or the bindings' do."""
    core = "".join(path.read_text() for path in ROOT.glob("crates/hyperpy-core/src/**/*.rs"))
    method = r"^impl (\w+) \{\n(?:(?!\}\n).*\n)*?    pub fn hint\(&self\) -> (?:String|&'static str) "
    return {"AttachError", "BusError", "FwCfgError", "Invalid", *re.findall(method, core, re.MULTILINE)}


def _rust() -> Iterator[Message]:
    hinting = _hinting()
    for path in sorted(ROOT.glob("crates/*/src/**/*.rs")):
        if path.stem.endswith("_test") or path.stem in {"testing", "scripted"}:
            continue
        source = path.read_text()
        enum = ""
        for found in re.finditer(
            rf"pub (?:enum|struct) (\w+)|((?:^ *///[^\n]*\n)+)(?:^ *#\[(?!error)[^\n]*\n)* *#\[error\(\s*{_TEXT}",
            source,
            re.MULTILINE,
        ):
            if found[1]:
                enum = found[1]
                continue
            comment = " ".join(line.strip().removeprefix("///").strip() for line in found[2].splitlines())
            text = _shown(found[3])[0]
            other = (name for start, name in EXCEPTIONS.items() if text.startswith(start))
            of_struct = re.match(r"[^\]]*\]\n(?: *#\[.*\n)*pub struct (\w+)", source[found.end() :])
            owner = of_struct[1] if of_struct else enum
            comment = re.sub(r"\[`(?:\w+::)*(\w+)`\]", r"`\1`", comment)
            yield Message(text, next(other, CLASSES.get(enum, "StateError")), comment, owner in hinting)
        for kind, text in re.findall(rf"Py(\w+)::new_err\(\s*(?:format!\(\s*)?{_TEXT}", source):
            message, hint = _shown(text)
            yield Message(message, kind, _hinted(hint), bool(hint))
        for kind, text in re.findall(rf'Raise::new\(\s*"(\w+)",\s*(?:format!\(\s*)?{_TEXT}', source):
            yield Message(_shown(text)[0], kind)


def _python() -> Iterator[Message]:
    for path in sorted((ROOT / "python/hyperpy").glob("**/*.py")):
        tree = ast.parse(path.read_text())
        yield from _calls(tree, {})
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                yield from _calls(function, _named(function))


def _calls(tree: ast.AST, named: dict[str, str]) -> Iterator[Message]:
    """The exceptions that are made below `tree`, where texts may have names."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        text = _literal(node.args[0]) or named.get(getattr(node.args[0], "id", ""), "")
        if not text or not _EXCEPTION.fullmatch(name):
            continue
        message, hint = _shown(text)
        for keyword in node.keywords:
            if keyword.arg == "hint":
                hint = _shown(_literal(keyword.value) or named.get(getattr(keyword.value, "id", ""), ""))[0]
        has_hint = bool(hint) or any(keyword.arg == "hint" for keyword in node.keywords)
        yield Message(message, name, _hinted(hint), has_hint or "hint: " in text)


def _named(function: ast.FunctionDef) -> dict[str, str]:
    """The texts that a function gives names to, such as `message` and `hint`."""
    return {
        target.id: text
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and (text := _literal(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _literal(node: ast.expr) -> str:
    """The text of a string in the source, with `{}` for its values; "" for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_literal(value) if isinstance(value, ast.Constant) else "{}" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_literal(left) or "{}") + (_literal(right) or "{}")
    return ""


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
