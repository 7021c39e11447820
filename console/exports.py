"""Exported ends of the record: a signed document, kept where agents cannot write, that shows later what is missing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import NotFound, Rejected, Unavailable, Unverified, Usage

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from agents.settings import Settings
    from contracts.authority import OperatorKey
    from state_store.port import Ends

FORMAT: Final = "gavotte.audit.v1"


class Fields(BaseModel):
    """What stands in the document; `heads` is task -> [sequence, hash]."""

    model_config = ConfigDict(extra="forbid")

    format: str
    made_at: datetime
    operator: str
    events: int
    position: int
    order: str
    heads: dict[str, tuple[int, str]]
    key: str
    signature: str


@dataclass(frozen=True)
class Export:
    """A document whose signature holds. `key_id` says who signed it."""

    ends: Ends
    made_at: datetime
    operator: str
    key_id: str


def made(ends: Ends, key: OperatorKey, operator: str) -> str:
    """The document, signed now."""
    fields = {
        "format": FORMAT,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "operator": operator,
        "events": ends.events,
        "position": ends.position,
        "order": ends.order,
        "heads": dict(ends.heads),
    }
    return json.dumps(key.sign_document(fields), sort_keys=True, indent=1) + "\n"


def write(path: Path, document: str) -> None:
    """Put the document in its place whole; raises Unavailable."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Unavailable(f"{path} cannot be written: {error.strerror}", hint="name another place with --to") from error


def read(path: Path, trusted: Collection[str]) -> Export:
    """A document signed by one of these public keys. Raises NotFound, Rejected or Unverified naming the file."""
    from contracts.authority import verify_document
    from state_store.port import Ends

    try:
        document: Any = json.loads(path.read_bytes())
        fields = Fields.model_validate(document)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint=f"gavotte audit export --to {path}") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, ValidationError, RecursionError):
        raise Rejected(f"{path} is no export of the ends of a record", hint="gavotte audit export makes one") from None
    if fields.format != FORMAT:
        raise Rejected(f"{path} has the format {fields.format!r}, not {FORMAT}", hint="a newer gavotte reads it")
    try:
        signer = verify_document(document, trusted)
    except Unverified as error:
        hint = "it proves nothing; --key says which public key you expect"
        raise Unverified(f"{path}: {error.message}", hint=hint) from None
    ends = Ends(fields.events, fields.position, fields.order, fields.heads)
    return Export(ends, fields.made_at, fields.operator, signer)


def trusted_keys(settings: Settings, named: str) -> list[str]:
    """The public keys that may have signed: the one named (itself, or a file of such), else yours and the operators'."""
    from pathlib import Path

    from contracts.authority import OperatorKey, is_public, public_keys

    if named:
        found = [named] if is_public(named) else public_keys(Path(named))
        if not found:
            raise Usage(f"{named!r} is neither a public key nor a file of such", hint="operators.pub is such a file")
        return found
    own = [OperatorKey.load_or_make(settings.operator_key).public] if settings.operator_key.exists() else []
    return own + public_keys(settings.operators_pub)
