"""A release target switches whole versions, once per effect key, and tells what happened to it."""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agents.tools import releases
from agents.tools.releases import Health, Released, ReleaseTarget, check_target
from agents.tools.trees import folder_digest
from contracts.errors import Corrupt, Fenced, Refused, Rejected, Unavailable


class Versions:
    """Trees by name, with their digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def digest(self, name: str) -> str:
        sample = self.folder / name
        if not sample.exists():
            self.write(sample, name)
        return folder_digest(sample)

    def export(self, name: str) -> Callable[[Path], Awaitable[None]]:
        async def write(into: Path) -> None:
            self.write(into, name)

        return write

    @staticmethod
    def write(into: Path, name: str) -> None:
        (into / "deep").mkdir(parents=True)
        (into / "app.py").write_text(f"version = {name!r}\n")
        (into / "deep" / "run.sh").write_text("#!/bin/sh\n")
        (into / "deep" / "run.sh").chmod(0o755)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "versions")


@pytest.fixture
def target(tmp_path: Path) -> ReleaseTarget:
    return ReleaseTarget(tmp_path / "site" / "production")


Checker = Callable[[Path], Awaitable[Health]]


async def release(
    target: ReleaseTarget,
    versions: Versions,
    name: str,
    *,
    key: str = "",
    token: int = 1,
    task: str = "t",
    health: Checker | None = None,
) -> Released:
    return await target.release(
        task_id=task,
        effect_id=key or f"release:{name}",
        digest=versions.digest(name),
        token=token,
        time_us=7,
        export=versions.export(name),
        health=health,
    )


async def sick(_live: Path) -> Health:
    return Health(healthy=False, summary="status 500")


async def broken(_live: Path) -> Health:
    raise OSError("no such command")


async def test_a_release_goes_live_whole(target: ReleaseTarget, versions: Versions) -> None:
    done = await release(target, versions, "one")
    assert (done.rolled_back, done.repeated, done.health.healthy) == (False, False, True)
    assert (target.path / "app.py").read_text() == "version = 'one'\n"
    assert os.access(target.path / "deep" / "run.sh", os.X_OK)
    assert not target.path.readlink().is_absolute()
    state = target.describe()
    assert state.live_digest == versions.digest("one")
    assert [line.effect for line in state.lines] == ["release", "confirm"]
    assert folder_digest(target.path.resolve()) == versions.digest("one")


async def test_the_same_effect_key_acts_once(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")
    ledger = (target.releases / "ledger.jsonl").read_bytes()
    again = await release(target, versions, "one")
    assert again.repeated
    assert (target.releases / "ledger.jsonl").read_bytes() == ledger
    with pytest.raises(Refused, match="one digest"):
        await release(target, versions, "two", key="release:one")


async def test_an_unhealthy_release_is_rolled_back(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")
    for name, health in (("two", sick), ("three", broken)):
        done = await release(target, versions, name, health=health)
        assert done.rolled_back
        assert done.line.digest == versions.digest("one")
        assert (target.path / "app.py").read_text() == "version = 'one'\n"
        again = await release(target, versions, name)
        assert (again.rolled_back, again.repeated) == (True, True)


async def test_a_first_release_that_is_unhealthy_leaves_nothing(target: ReleaseTarget, versions: Versions) -> None:
    done = await release(target, versions, "one", health=sick)
    assert done.rolled_back
    assert not target.path.exists()
    assert target.describe().live_digest is None
    assert (await release(target, versions, "one", key="later")).health.healthy


async def test_a_tree_with_another_digest_is_never_switched_to(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")
    with pytest.raises(Refused, match="not the approved"):
        await target.release(
            task_id="t",
            effect_id="e",
            digest=versions.digest("two"),
            token=1,
            time_us=1,
            export=versions.export("three"),
        )
    assert (target.path / "app.py").read_text() == "version = 'one'\n"
    assert [p.name for p in target.releases.iterdir() if p.name.startswith(".new")] == []


async def test_a_stale_token_is_refused(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one", token=5)
    with pytest.raises(Fenced, match="stale"):
        await release(target, versions, "two", token=4)
    await release(target, versions, "two", token=5)
    await release(target, versions, "three", token=1, task="another task")
    assert (await release(target, versions, "one", token=1)).repeated


async def test_rollback_takes_back_the_last_release(target: ReleaseTarget, versions: Versions) -> None:
    with pytest.raises(Rejected, match="no release"):
        await target.rollback(task_id="t", effect_id="r", token=1, time_us=1, reason="operator")
    await release(target, versions, "one")
    await release(target, versions, "two")
    for _ in range(2):
        line = await target.rollback(task_id="t", effect_id="r", token=1, time_us=1, reason="operator")
        assert line.digest == versions.digest("one")
    assert (target.path / "app.py").read_text() == "version = 'one'\n"
    assert len([line for line in target.describe().lines if line.effect == "rollback"]) == 1


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", ["_append", "_point", "_verdict", "_settle"])
async def test_a_death_at_any_step_is_finished_by_a_repeat(
    target: ReleaseTarget, versions: Versions, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await release(target, versions, "one")

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(target, at, die)
        with pytest.raises(Died):
            await release(target, versions, "two")
    state = target.describe()
    assert state.outcome("release:two") is None
    assert state.live_digest in {versions.digest("one"), versions.digest("two")}
    assert state.live_digest == folder_digest(target.path.resolve())
    done = await release(target, versions, "two")
    assert not done.rolled_back
    assert target.describe().live_digest == versions.digest("two")
    assert [line.effect for line in target.describe().lines] == ["release", "confirm"] * 2


async def test_a_cut_release_that_another_replaced_takes_nothing_back(
    target: ReleaseTarget, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(target, "_verdict", die)
        with pytest.raises(Died):
            await release(target, versions, "one")
    await release(target, versions, "two", task="other")
    assert not (await release(target, versions, "one")).rolled_back
    assert target.describe().live_digest == versions.digest("two")


async def test_a_torn_ledger_line_never_happened(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")
    with (target.releases / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"effect": "rel')
    assert len(target.describe().lines) == 2
    await release(target, versions, "two")
    lines = (target.releases / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["effect"] for line in lines] == ["release", "confirm"] * 2


async def test_a_full_disk_makes_no_half_switch(
    target: ReleaseTarget, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await release(target, versions, "one")
    ledger = (target.releases / "ledger.jsonl").read_bytes()

    def full(handle: int, raw: bytes) -> int:
        return real(handle, raw[:10])

    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(Unavailable, match="No space left") as refused:
            await release(target, versions, "two")
    assert "still live" in refused.value.hint
    assert (target.releases / "ledger.jsonl").read_bytes() == ledger
    assert (target.path / "app.py").read_text() == "version = 'one'\n"
    assert (await release(target, versions, "two")).health.healthy


async def test_an_export_that_fails_leaves_the_live_version(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")

    async def fail(into: Path) -> None:
        (into / "half").write_text("written")
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(Unavailable, match="Read-only"):
        await target.release(task_id="t", effect_id="e", digest=versions.digest("two"), token=1, time_us=1, export=fail)
    assert target.describe().live_digest == versions.digest("one")


async def test_two_releases_at_once_do_not_mix(target: ReleaseTarget, versions: Versions) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def slow(_live: Path) -> Health:
        began.set()
        await go.wait()
        return Health(healthy=True, summary="fine")

    first = asyncio.create_task(release(target, versions, "one", health=slow))
    await began.wait()
    with pytest.raises(Unavailable, match="under way"):
        await release(ReleaseTarget(target.path), versions, "two")
    go.set()
    assert (await first).health.summary == "fine"


async def test_a_live_folder_changed_by_hand_is_not_thrown_away(target: ReleaseTarget, versions: Versions) -> None:
    await release(target, versions, "one")
    (target.path / "app.py").write_text("hot fix\n")
    with pytest.raises(Refused, match="changed by hand"):
        await release(target, versions, "one", key="again")
    assert (target.path / "app.py").read_text() == "hot fix\n"


async def test_old_versions_are_forgotten(target: ReleaseTarget, versions: Versions) -> None:
    for number in range(9):
        await release(target, versions, f"v{number}")
    folders = [p for p in target.releases.iterdir() if p.is_dir()]
    assert 2 <= len(folders) <= releases.VERSIONS_KEPT
    assert target.describe().live_digest == versions.digest("v8")


async def test_a_path_that_would_lose_something_is_refused(tmp_path: Path, versions: Versions) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "f").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file", "link"):
        with pytest.raises(Refused) as refused:
            check_target(tmp_path / name)
        assert refused.value.hint
        with pytest.raises(Refused):
            await release(ReleaseTarget(tmp_path / name), versions, "one")
    check_target(tmp_path / "empty")
    check_target(tmp_path / "absent")
    await release(ReleaseTarget(tmp_path / "empty"), versions, "one")
    check_target(tmp_path / "empty")
    assert (tmp_path / "empty").is_symlink()


async def test_an_impossible_place_is_a_clear_error(tmp_path: Path, versions: Versions) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="cannot be written"):
        await release(ReleaseTarget(tmp_path / "file" / "site"), versions, "one")


async def test_a_foreign_ledger_is_named(target: ReleaseTarget) -> None:
    target.releases.mkdir(parents=True)
    (target.releases / "ledger.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(Corrupt, match="not ours"):
        target.describe()
