"""Settings: which origin wins, what is refused and how, secrets, the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.settings import Settings, described, load_settings
from contracts.errors import Unavailable, Usage


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_are_those_of_the_design(data: Path) -> None:
    budget = load_settings(data=data, environ={}).tasks.budget()
    found = (budget.tokens, budget.steps, budget.wall_seconds, budget.cost_microdollars)
    assert found == (200_000, 60, 1800, 2_000_000)


def test_each_origin_beats_the_next(data: Path, tmp_path: Path) -> None:
    inside = write(data / "gavotte.toml", "[worker]\nconcurrency = 1\nbatch = 11\n[tasks]\nsteps = 21\nrevisions = 5\n")
    config = write(tmp_path / "c.toml", "[worker]\nconcurrency = 2\nbatch = 12\n[tasks]\nsteps = 22\n")
    environ = {"GAVOTTE_WORKER__CONCURRENCY": "3", "GAVOTTE_WORKER__BATCH": "13"}
    settings = load_settings(data=data, config=config, flags={"worker.concurrency": 4}, environ=environ)
    values = (settings.worker.concurrency, settings.worker.batch, settings.tasks.steps, settings.tasks.revisions)
    assert values == (4, 13, 22, 5)
    assert settings.origin("worker.concurrency") == "flag --concurrency"
    assert settings.origin("worker.batch") == "GAVOTTE_WORKER__BATCH"
    assert settings.origin("tasks.steps") == str(config)
    assert settings.origin("tasks.revisions") == str(inside)
    assert settings.origin("tasks.tokens") == "default"


def test_config_may_be_named_by_variable(data: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "[log]\nlevel = 'debug'\n")
    settings = load_settings(data=data, environ={"GAVOTTE_CONFIG": str(config)})
    assert settings.log.level == "debug"
    assert settings.environment() == {"GAVOTTE_DATA": str(data), "GAVOTTE_CONFIG": str(config)}


def test_the_data_folder_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path / "c.toml", "data = 'from-config'\n")
    environ = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    assert load_settings(environ=environ).data == tmp_path / "xdg" / "gavotte"
    assert load_settings(config=config, environ=environ).data == tmp_path / "from-config"
    environ["GAVOTTE_DATA"] = str(tmp_path / "variable")
    assert load_settings(config=config, environ=environ).data == tmp_path / "variable"
    monkeypatch.chdir(tmp_path)
    assert load_settings(data=Path("flag"), config=config, environ=environ).data == tmp_path / "flag"
    assert load_settings(environ={"XDG_DATA_HOME": "relative"}).data == Path.home() / ".local/share/gavotte"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[worker]\nconcurency = 3\n", "there is no setting worker.concurency"),
        ("[wrker]\nconcurrency = 3\n", "there is no setting wrker"),
        ("[worker]\nconcurrency = 'many'\n", "worker.concurrency: Input should be a valid integer"),
        ("[worker]\nconcurrency = 0\n", "worker.concurrency: Input should be greater than or equal to 1"),
        ("[model]\nprovider = 'oracle'\n", "model.provider: Input should be 'auto', 'none'"),
        ("worker = 3\n", "worker: Input should be"),
        ("data = '/elsewhere'\n", "data cannot be set here"),
        ("[worker\n", "is not TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(data: Path, text: str, said: str) -> None:
    write(data / "gavotte.toml", text)
    with pytest.raises(Usage) as refused:
        load_settings(data=data, environ={})
    assert said in refused.value.message
    assert str(data / "gavotte.toml") in refused.value.message


def test_mistakes_in_a_variable_are_named(data: Path) -> None:
    with pytest.raises(Usage, match=r"^GAVOTTE_WORKER__CONCURRENCY: worker.concurrency: Input"):
        load_settings(data=data, environ={"GAVOTTE_WORKER__CONCURRENCY": "many"})
    with pytest.raises(Usage, match=r"^GAVOTTE_WORKER__SPEED: there is no setting worker.speed") as refused:
        load_settings(data=data, environ={"GAVOTTE_WORKER__SPEED": "9"})
    assert "worker.concurrency" in refused.value.hint


def test_a_value_where_a_table_is_and_the_other_way_round(data: Path) -> None:
    write(data / "gavotte.toml", "worker = 3\n")
    with pytest.raises(Usage, match="worker"):
        load_settings(data=data, environ={"GAVOTTE_WORKER__BATCH": "9"})


def test_variables_of_others_are_left_alone(data: Path) -> None:
    assert load_settings(data=data, environ={"GAVOTTE_PYTHON": "/usr/bin/python3", "OTHER__X": "1"}).data == data


def test_a_named_file_must_be_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Usage, match="there is no settings file"):
        load_settings(data=data, config=tmp_path / "absent.toml", environ={})


def test_secrets_are_masked_and_come_from_files_too(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "key", "hush-hush\n")
    settings = load_settings(data=data, environ={"GAVOTTE_MODEL__API_KEY_FILE": str(file)})
    assert settings.model.api_key is not None
    assert settings.model.api_key.get_secret_value() == "hush-hush"
    rows = {key: (value, origin) for key, value, origin in settings.rows()}
    assert rows["model.api_key"] == ("********", "GAVOTTE_MODEL__API_KEY")
    assert "hush" not in repr(settings)
    with pytest.raises(Usage, match=r"GAVOTTE_MODEL__API_KEY_FILE: .* cannot be read"):
        load_settings(data=data, environ={"GAVOTTE_MODEL__API_KEY_FILE": str(tmp_path / "absent")})


def test_a_relative_path_in_a_file_is_meant_from_that_file(data: Path) -> None:
    write(data / "gavotte.toml", "[model]\nprovider = 'scripted'\nscript = 'answers.json'\n")
    assert load_settings(data=data, environ={}).model.script == data / "answers.json"


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path / "new" / "data", environ={}).make_folders()
    assert settings.data.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in settings.data.iterdir()} == {"bodies", "git", "work", "releases", "run", "logs"}
    settings.make_folders()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocked = write(tmp_path / "file", "")
    with pytest.raises(Unavailable, match="cannot be written: Not a directory"):
        load_settings(data=blocked / "data", environ={}).make_folders()


def test_every_setting_is_described() -> None:
    rows = described()
    assert [key for key, _, text in rows if not text.endswith(".")] == []
    known = [key for key, _, _ in load_settings(data=Path("/x"), environ={}).rows()]
    assert [key for key, _, _ in rows] == known


def test_settings_cannot_be_changed_afterwards(data: Path) -> None:
    settings = load_settings(data=data, environ={})
    with pytest.raises(ValueError, match="frozen"):
        settings.data = Path("/elsewhere")
    assert isinstance(settings, Settings)
