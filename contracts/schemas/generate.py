"""Make the `.avsc` files and `ids.json` from the classes: `python -m contracts.schemas.generate`.

Ids are integers from 1, append only. A schema that differs from its recorded fingerprint is written anew only while
its release is open; once released, a change needs a new version of the event.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contracts.events import EVENTS, Payload
from contracts.registry import fingerprint

FOLDER = Path(__file__).parent
RELEASE = "0.1.0"
NAMESPACE = "gavotte.events.v1"


def avro_schema(cls: type[Payload]) -> str:
    """The Avro schema of an event class as indented JSON text."""
    import py_avro_schema

    options = (
        py_avro_schema.Option.LOGICAL_JSON_STRING
        | py_avro_schema.Option.JSON_INDENT_2
        | py_avro_schema.Option.USE_FIELD_ALIAS
    )
    made = py_avro_schema.generate(cls, namespace=NAMESPACE, options=options)
    plain: dict[str, Any] = json.loads(made)
    plain["name"] = cls.event_type()  # all versions of an event are one record, whatever their classes are called
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def generate(folder: Path = FOLDER) -> list[str]:
    """Write what is missing or changed and is not yet released; returns the names of what was written."""
    table = folder / "ids.json"
    rows: list[dict[str, Any]] = json.loads(table.read_text()) if table.exists() else []
    known = {(row["type"], row["version"]): row for row in rows}
    written = []
    for cls in EVENTS:
        type_, version = cls.event_type(), cls.event_version()
        text = avro_schema(cls)
        row = known.get((type_, version))
        if row is None:
            row = {"id": len(rows) + 1, "type": type_, "version": version, "since": RELEASE}
            rows.append(row)
        elif row["sha256"] == fingerprint(text):
            continue
        elif row["since"] != RELEASE or row.get("released"):
            raise SystemExit(f"{type_} v{version} was released in {row['since']}: make a v{version + 1} instead")
        row["sha256"] = fingerprint(text)
        target = folder / type_ / f"v{version}.avsc"
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
        written.append(f"{type_}/v{version}.avsc")
    table.write_text(json.dumps(rows, indent=1) + "\n")
    return written


if __name__ == "__main__":
    for name in generate():
        print(name)  # noqa: T201
