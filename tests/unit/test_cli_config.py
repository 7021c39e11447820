"""Settings by variables alone, shown with their origins and tried before an agent needs them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console.cli.main import main

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    for name in list(os.environ):
        if name.startswith(("GAVOTTE_", "XDG_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "no-home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str, **variables: str) -> tuple[int, Any]:
        with monkeypatch.context() as scope:
            for name, value in {"GAVOTTE_DATA": str(tmp_path / "data"), **variables}.items():
                scope.setenv(name, value)
            code = main(["config", *words, "--json"])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, json.loads(out) if out else err

    return call


def test_variables_alone_suffice_and_are_named_as_origins(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush\n")
    code, rows = run(
        "show",
        GAVOTTE_REGISTRY__URL="https://me:hush@registry:8081",
        GAVOTTE_REGISTRY__USER="me",
        GAVOTTE_REGISTRY__PASSWORD_FILE=str(secret),
        GAVOTTE_REGISTRY__TOKEN="hush",
        GAVOTTE_WORKER__CONCURRENCY="3",
    )
    assert code == 0
    known = {row["key"]: (row["value"], row["origin"]) for row in rows}
    assert known["worker.concurrency"] == ("3", "GAVOTTE_WORKER__CONCURRENCY")
    assert known["registry.user"] == ("me", "GAVOTTE_REGISTRY__USER")
    assert known["registry.password"][0] == known["registry.token"][0] == "********"
    assert known["registry.url"][0] == "https://me:********@registry:8081"
    assert known["worker.batch"][1] == "default"
    assert "hush" not in json.dumps(rows)


def test_nothing_set_is_nothing_wrong(run: Run, tmp_path: Path) -> None:
    code, found = run("check")
    assert code == 0
    assert {each["name"]: each["verdict"] for each in found} == {"settings": "ok", "registry": "ok", "store": "ok"}
    assert not (tmp_path / "data").exists(), "a check changes nothing"


def test_a_setting_that_does_not_exist_is_named(run: Run) -> None:
    code, said = run("check", GAVOTTE_REGISTRY__ADDRESS="http://x")
    assert code == 2
    assert "GAVOTTE_REGISTRY__ADDRESS: there is no setting registry.address" in said


def test_what_does_not_answer_is_named_with_the_way_forward(run: Run, tmp_path: Path) -> None:
    code, found = run(
        "check",
        GAVOTTE_REGISTRY__URL="http://127.0.0.1:9",
        GAVOTTE_REGISTRY__CAFILE=str(tmp_path / "absent.pem"),
    )
    assert code == 1
    lacking = {each["name"]: each["finding"] for each in found if each["verdict"] == "lacks"}
    assert lacking["files"] == f"registry.cafile: there is no file {tmp_path / 'absent.pem'}"
    assert "absent.pem cannot be used" in lacking["registry"]
    code, found = run("check", GAVOTTE_REGISTRY__URL="http://127.0.0.1:9")
    assert code == 1
    [wrong] = [each for each in found if each["verdict"] == "lacks"]
    assert wrong["name"] == "registry"
    assert "http://127.0.0.1:9 cannot be reached" in wrong["finding"]
    assert wrong["hint"] == "check registry.url"


def test_a_broker_that_is_not_there_is_found_before_there_is_a_store(run: Run, tmp_path: Path) -> None:
    code, found = run("check", GAVOTTE_BUS__BACKEND="kafka", GAVOTTE_BUS__SERVERS="127.0.0.1:9")
    assert code == 1
    [wrong] = [each for each in found if each["verdict"] == "lacks"]
    assert wrong["name"] == "bus"
    assert "127.0.0.1:9" in wrong["finding"]
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_is_no_database_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gavotte.db").write_bytes(b"no database" * 100)
    code, found = run("check")
    assert code == 1
    assert [each["name"] for each in found if each["verdict"] == "lacks"] == ["store, bus"]
