"""Acts of authority are signed: Ed25519 over what exactly is allowed. The only importer of cryptography.

The operator's private key stays with the operator; agents hold public keys alone and verify.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import Refused, Unverified
from contracts.events import Payload, Signature

if TYPE_CHECKING:
    from contracts.envelope import Event


PUBLIC_BYTES: Final = 32


def signed_bytes(event: Event, expires_at: datetime) -> bytes:
    """What the signature covers: event id, type, task, expiry and every field of the payload but the signature."""
    fields: dict[str, Any] = event.payload.model_dump(mode="json", exclude={"signature"})
    covered = {
        "event_id": event.id,
        "type": event.type,
        "task_id": event.task_id,
        "expires_at": expires_at.isoformat(),
        "payload": fields,
    }
    return json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class OperatorKey:
    """The operator's private key in a file of mode 0600."""

    def __init__(self, raw: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(raw)

    @classmethod
    def load_or_make(cls, path: Path) -> OperatorKey:
        """Read the key, making it at first use; raises Refused where others may read it."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(os.urandom(32)) + b"\n")
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        if path.stat().st_mode & 0o077:
            raise Refused(f"the operator's key {path} can be read by others", hint=f"chmod 600 {path}")
        try:
            return cls(base64.b64decode(path.read_bytes()))
        except ValueError as error:
            raise Refused(
                f"the operator's key {path} is damaged: {error}",
                hint="put its copy back; or move it away, and a new one is made at the next act",
            ) from None

    @property
    def public(self) -> str:
        """The public half, base64."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    @property
    def key_id(self) -> str:
        return key_id(self.public)

    def sign(self, event: Event, expires_at: datetime) -> Event:
        """The event with its signature in the payload."""
        from contracts.envelope import Event as SignedEvent

        value = base64.b64encode(self._key.sign(signed_bytes(event, expires_at))).decode()
        signature = Signature(key_id=self.key_id, value=value, expires_at=expires_at)
        return SignedEvent(event.envelope, event.payload.model_copy(update={"signature": signature}))

    def sign_document(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a document that says its own `format`, with the public key and the signature over all of it."""
        signed = {**fields, "key": self.public}
        return {**signed, "signature": base64.b64encode(self._key.sign(_document_bytes(signed))).decode()}


def verify_document(document: Mapping[str, Any], trusted: Collection[str]) -> str:
    """That one of these public keys signed exactly this; returns the short name of the key. Raises Unverified."""
    signed = {name: value for name, value in document.items() if name != "signature"}
    public, value = signed.get("key"), document.get("signature")
    if not isinstance(public, str) or not isinstance(value, str) or not is_public(public):
        raise Unverified("it is not signed")
    if public not in trusted:
        raise Unverified(f"it is signed by an unknown key {key_id(public)}")
    if not _holds(public, value, _document_bytes(signed)):
        raise Unverified("its signature does not hold: it was changed since")
    return key_id(public)


def _document_bytes(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _holds(public: str, signature: str, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(base64.b64decode(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_id(public: str) -> str:
    """A short name of a public key."""
    return hashlib.sha256(base64.b64decode(public)).hexdigest()[:16]


def public_keys(path: Path) -> list[str]:
    """The keys of a file, one a line; none where there is no file. What is no key (a remark) is passed over."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [key for key in (line.strip() for line in lines) if is_public(key)]


def is_public(text: str) -> bool:
    """Whether a text is a public key, base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == PUBLIC_BYTES
    except ValueError:
        return False


class Keyring:
    """Public keys of operators, base64, one a line in a file that is read for each act: who is taken out counts no more."""

    def __init__(self, publics: tuple[str, ...] = (), path: Path | None = None) -> None:
        self._path = path
        self._keys = {key_id(public): public for public in publics}

    @classmethod
    def at(cls, path: Path) -> Keyring:
        """The keyring of a file; an absent file holds no keys yet."""
        return cls((), path)

    def _public(self, wanted: str) -> str | None:
        if self._path is not None:
            self._keys = {key_id(public): public for public in public_keys(self._path)}
        return self._keys.get(wanted)

    def verify(self, event: Event, now_us: int) -> None:
        """That a known operator signed exactly this and it has not expired; raises Unverified."""
        signature = signature_of(event.payload)
        if signature is None:
            raise Unverified(f"{event.type} {event.id} is not signed")
        public = self._public(signature.key_id)
        if public is None:
            raise Unverified(f"{event.type} {event.id} is signed by an unknown key {signature.key_id}")
        if not _holds(public, signature.value, signed_bytes(event, signature.expires_at)):
            raise Unverified(f"the signature of {event.type} {event.id} does not hold")
        if signature.expires_at.timestamp() * 1_000_000 < now_us:
            raise Unverified(f"the signature of {event.type} {event.id} expired at {signature.expires_at}")


def signature_of(payload: Payload) -> Signature | None:
    """The signature in a payload, if its type has one."""
    found = getattr(payload, "signature", None)
    return found if isinstance(found, Signature) else None
