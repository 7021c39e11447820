"""Keys of operators: where they are kept, and what is not taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.authority import Keyring, OperatorKey, public_keys
from contracts.envelope import OPERATOR_SOURCE, Event, root
from contracts.errors import Refused, Unverified
from contracts.events import TaskResumed
from contracts.ids import SYSTEM_TASK, now_us


def act() -> Event:
    return root(TaskResumed(operator="ann"), task_id=SYSTEM_TASK, source=OPERATOR_SOURCE, trust="operator")


def signed(key: OperatorKey) -> Event:
    from datetime import UTC, datetime, timedelta

    return key.sign(act(), datetime.now(UTC) + timedelta(hours=1))


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "operator.key"
    made = OperatorKey.load_or_make(path)
    assert OperatorKey.load_or_make(path).public == made.public
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(Refused, match="can be read by others") as raised:
        OperatorKey.load_or_make(path)
    assert raised.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", b"c2hvcnQ=\n"])
def test_a_damaged_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "operator.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Refused, match=rf"{path} is damaged"):
        OperatorKey.load_or_make(path)


def test_remarks_and_rubbish_among_public_keys_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "operators.pub"
    ann, bob = OperatorKey(bytes(32)), OperatorKey(bytes(range(32)))
    path.write_bytes(b"# ann, since May\n" + ann.public.encode() + b"\n\xff\n\nc2hvcnQ=\n  " + bob.public.encode())
    assert public_keys(path) == [ann.public, bob.public]
    Keyring.at(path).verify(signed(bob), now_us())


def test_a_key_counts_as_long_as_it_is_in_the_file(tmp_path: Path) -> None:
    path, key = tmp_path / "operators.pub", OperatorKey(bytes(32))
    keyring, event = Keyring.at(path), signed(key)
    with pytest.raises(Unverified, match="unknown key"):
        keyring.verify(event, now_us())
    path.write_text(f"{key.public}\n")
    keyring.verify(event, now_us())
    path.write_text("# it was stolen\n")
    with pytest.raises(Unverified, match="unknown key"):
        keyring.verify(event, now_us())


def test_what_is_changed_after_signing_does_not_hold() -> None:
    key = OperatorKey(bytes(32))
    event = signed(key)
    other = Event(event.envelope, event.payload.model_copy(update={"operator": "mallory"}))
    with pytest.raises(Unverified, match="does not hold"):
        Keyring((key.public,)).verify(other, now_us())
    with pytest.raises(Unverified, match="is not signed"):
        Keyring((key.public,)).verify(act(), now_us())
    with pytest.raises(Unverified, match="expired"):
        Keyring((key.public,)).verify(event, now_us() + 2 * 3600 * 1_000_000)
