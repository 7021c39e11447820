"""A corpus of cases, one JSON object a line: what enters where, and what must not follow. docs/security.md has the format."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from contracts.errors import Usage

OWN: Final = Path(__file__).parent / "cases" / "adversarial.jsonl"
"""The corpus that comes with the program."""
BENIGN: Final = "benign"
GENERATED_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `kind` is its class up to the slash; a `benign` one must pass, any other must not have its effect."""

    id: str
    class_: str
    enters: str
    encoding: str
    payload: Any
    must: str = ""
    severity: str = "high"
    oracle: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.class_.partition("/")[0]

    @property
    def is_benign(self) -> bool:
        return self.kind == BENIGN

    @property
    def door(self) -> str:
        """Which entrance it takes: of a benign case, what stands behind the slash."""
        return self.class_.partition("/")[2] if self.is_benign else self.kind


def load(path: Path) -> list[Case]:
    """The cases of a file; raises Usage naming the line that is off."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"the corpus {path} cannot be read: {error}") from None
    cases: dict[str, Case] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            case = Case(
                id=str(found["id"]),
                class_=str(found["class"]),
                enters=str(found.get("enters", "")),
                encoding=str(found.get("encoding", "text")),
                payload=found["payload"],
                must=str(found.get("must", "")),
                severity=str(found.get("severity", "high")),
                oracle=found.get("oracle") or {},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Usage(f"{path}:{number} is no case: {error!r}", hint="docs/security.md has the format") from None
        if case.id in cases:
            raise Usage(f"{path}:{number}: a second case is called {case.id}", hint="give each an id of its own")
        cases[case.id] = case
    return list(cases.values())


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """The payload with `{{NAME}}` replaced and `{"$gen": ...}` made, down to its leaves; bytes where it makes bytes."""
    if isinstance(value, str):
        for name, known in names.items():
            value = value.replace("{{" + name + "}}", known)
        return value
    if isinstance(value, dict):
        if "$gen" in value:
            return generated({key: filled(each, names) for key, each in value.items()})
        return {key: filled(each, names) for key, each in value.items()}
    return [filled(each, names) for each in value] if isinstance(value, list) else value


def generated(wanted: Mapping[str, Any]) -> str | bytes:
    """What a generator makes: text for `repeat` and `many_files_patch`, bytes for the others. Raises Usage."""
    kind, n = str(wanted["$gen"]), int(wanted.get("n", 0))
    text = str(wanted.get("text", "x"))
    match kind:
        case "repeat":
            return text * min(n, GENERATED_BYTES_MAX // max(1, len(text)))
        case "many_files_patch":
            return "".join(_new_file(f"f{index}.txt") for index in range(n))
        case "bytes_random":
            return random.Random(int(wanted.get("seed", 0))).randbytes(min(n, GENERATED_BYTES_MAX))  # noqa: S311
        case "empty_value":
            return b""
        case "huge_value":
            return b"A" * min(n, GENERATED_BYTES_MAX)
        case "json_instead":
            return text.encode()
        case "unknown_fingerprint" | "future_version" | "old_version" | "avro_nan_cost" | "null_value":
            return b"" if kind == "null_value" else kind.encode()
        case "zip_bomb" | "zip_traversal" | "zip_nested" | "tar_symlink":
            return _archive(kind, n)
        case _ if kind.startswith("avro_"):
            return _avro(kind, n)
        case _:
            raise Usage(f"there is no generator {kind}", hint="docs/security.md lists them")


def _archive(kind: str, n: int) -> bytes:
    """Archives that are larger inside, lead elsewhere, or hold each other."""
    if kind == "tar_symlink":
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            link, device = tarfile.TarInfo("ln"), tarfile.TarInfo("dev")
            link.type, link.linkname, device.type = tarfile.SYMTYPE, "../..", tarfile.CHRTYPE
            made.addfile(link)
            made.addfile(tarfile.TarInfo("ln/canary"))
            made.addfile(device)
        return out.getvalue()
    if kind == "zip_traversal":
        return _zip({"../../canary": b"x", "/canary": b"x", "ok.txt": b"x"})
    if kind == "zip_bomb":
        return _zip({"a.txt": bytes(min(n, GENERATED_BYTES_MAX))})
    inner = b"0" * 100_000
    for level in range(min(n, 50)):
        inner = _zip({f"level{level}.zip": inner})
    return inner


def _zip(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return out.getvalue()


def _new_file(name: str) -> str:
    return f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"


def _avro(kind: str, n: int) -> bytes:
    """Small Avro bodies that ask for much, or are no value of any schema."""
    match kind:
        case "avro_recursion":
            return _long(1) * min(n, GENERATED_BYTES_MAX) + _long(0)
        case "avro_overlong_varint":
            return b"\xff" * n + b"\x01"
        case "avro_trailing":
            return _long(1) + b"T" * n
        case "avro_truncated":
            return _long(1)[:n]
        case "avro_invalid_utf8":
            return _long(2) + b"\xff\xfe"
        case _:
            return _long(n) + _long(0)


def _long(number: int) -> bytes:
    """A number as Avro writes it: zigzag, seven bits a byte, the lowest first."""
    number = (number << 1) ^ (number >> 63)
    return bytes(_digits(number))


def _digits(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
