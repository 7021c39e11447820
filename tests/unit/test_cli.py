"""The command line in this process: what it refuses, how it says so, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console.cli.main import main
from tests.acceptance.commands import FIX, git, repository

UNKNOWN = "0192b3c4-0000-7000-8000-00000000dead"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "GAVOTTE_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GAVOTTE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GAVOTTE_OPERATOR__NAME", "ann")
    monkeypatch.chdir(tmp_path)

    def call(*words: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(list(words))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err)

    return call


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo")


def submit(cli: Cli, *words: str) -> Said:
    return cli("submit", "--repo", "repo", "--patch", "-", *words, stdin=FIX.encode())


def test_every_command_explains_itself(cli: Cli) -> None:
    names = cli("--help").out.partition("Commands:")[2].split("\n")
    for name in [line.split()[0] for line in names if line.strip()]:
        assert cli(name, "--help").code == 0, name


def test_what_holds_everywhere_may_stand_before_the_command_too(cli: Cli, repo: Path) -> None:
    task_id = submit(cli, "--data", "elsewhere", "--json").json["task_id"]
    assert [task["task_id"] for task in cli("--data", "elsewhere", "tasks", "--json").json] == [task_id]
    assert cli("--data", "elsewhere", "project", "list", "--json").json != []
    assert cli("--data", "nowhere", "tasks", "--data", "elsewhere", "--json").code == 0, "the nearer word counts"
    assert cli("--config", "none.toml", "tasks").code == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("show",), 2, "Missing argument 'TASK'"),
        (("submit", "--tokens", "many"), 2, "--tokens"),
        (("tasks",), 3, "nothing was ever recorded in"),
        (("show", UNKNOWN), 3, "nothing was ever recorded in"),
        (("log",), 2, "name a task, or say --all"),
        (("kill",), 2, "name one of --task, --role and --all"),
        (("kill", "--role", "cooking"), 2, "no agent has the role cooking"),
        (("budget", "raise", UNKNOWN), 2, "name at least one cap"),
        (("submit", "--author", "oracle"), 2, "no author is called 'oracle'"),
        (("submit", "--author", "patch"), 2, "needs a patch"),
        (("submit", "--author", "command"), 2, "needs a command"),
        (("submit", "--author", "command", "--patch", "x"), 2, "belong to one author each"),
        (("submit", "--command", "ruff 'check"), 2, "No closing quotation"),
        (("submit", "--patch", "absent.diff"), 2, "absent.diff cannot be read: No such file"),
        (("submit", "do it", "--repo", "absent"), 2, "there is no folder absent"),
        (("submit",), 2, "say what is to be done"),
        (
            ("submit", "w " * (130 << 10), "--author", "command", "--command", "true"),
            2,
            "the description has 259 KiB, the cap is 256",
        ),
        (("publish", "absent.json"), 2, "absent.json cannot be read"),
        (("contracts", "show", "TaskForgotten"), 3, "no event is called TaskForgotten"),
        (("tasks", "--config", "absent.toml"), 2, "there is no settings file"),
    ],
)
def test_what_is_off_is_said(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert said in done.err


@pytest.mark.parametrize("kind", ["missing", "plain", "empty", "bare"])
def test_what_is_no_repository_to_work_on_is_a_matter_of_usage(cli: Cli, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind != "missing":
        path.mkdir()
    if kind in {"empty", "bare"}:
        git(path, "init", "--quiet", *(["--bare"] if kind == "bare" else []))
    done = cli("submit", "--repo", str(path), "--patch", "-", stdin=FIX.encode())
    assert done.code == 2
    assert "  try: " in done.err
    assert cli("tasks").out == ""


def test_a_model_is_asked_for_once_the_repository_is_known(cli: Cli, repo: Path) -> None:
    done = cli("submit", "do it", "--repo", str(repo))
    assert (done.code, done.out) == (4, "")
    assert "no model is configured" in done.err


def test_who_registers_on_the_way_is_told_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    repository(tmp_path / "two words", {"a.txt": "a"})
    done = cli("submit", "--repo", "two words", "--command", "true")
    assert done.code == 0
    assert "no tests found" in done.err
    assert f"gavotte project add '{tmp_path / 'two words'}'" in done.err


def test_a_submission_is_stored_and_says_what_is_missing(cli: Cli, repo: Path) -> None:
    (repo / "größe 1.txt").write_text("left out")
    done = submit(cli, "--json", "--title", "Fix", "--steps", "7", "--dollars", "0.5")
    assert "1 changed or new file is left out" in done.err
    assert "no agents are running: gavotte up" in done.err
    shown = cli("show", done.json["task_id"][-6:], "--json").json
    assert (shown["title"], shown["status"], shown["waiting_for"]) == ("Fix", "running", "planning")
    assert (shown["budget"]["steps"], shown["budget"]["cost_microdollars"], shown["budget"]["tokens"]) == (
        7,
        500_000,
        200_000,
    )
    event = json.loads(cli("log", shown["task_id"], "--json").out)
    assert event["payload"]["base_commit"] == git(repo, "rev-parse", "HEAD").strip()
    assert event["trust"] == "untrusted"
    project = cli("project", "list", "--json").json[0]
    assert project["settings"]["approval"] == "always"


def test_one_key_is_one_task(cli: Cli, repo: Path) -> None:
    first = submit(cli, "--json", "--idempotency-key", "k").json["task_id"]
    assert submit(cli, "--json", "--idempotency-key", "k").json["task_id"] == first
    other = submit(cli, "--json", "--idempotency-key", "k", "--title", "another")
    assert other.code == 1
    assert first in other.err
    assert len(cli("tasks", "--json").json) == 1


def test_a_patch_that_is_no_text_travels_by_digest(cli: Cli, repo: Path) -> None:
    raw = FIX.replace("[share + 1]", "[share + 1]  # gr\xf6\xdfer").encode("latin-1")
    task_id = cli("submit", "--repo", "repo", "--patch", "-", "--json", stdin=raw).json["task_id"]
    patch = json.loads(cli("log", task_id, "--json").out)["payload"]["patch"]
    assert (patch["text"], patch["size_bytes"]) == (None, len(raw))


def test_descriptions_come_from_anywhere(cli: Cli, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "words.md").write_text("\n# From a file\n\nmore\n")
    assert submit(cli, "--file", "words.md", "--json").json["title"] == "# From a file"
    made = cli("submit", "-", "--repo", "repo", "--command", "true", "--json", stdin=b"from stdin\nmore")
    assert made.json["title"] == "from stdin"
    assert (
        cli("submit", "--repo", "repo", "--command", "ruff check --fix .", "--json").json["title"]
        == "Run ruff check --fix ."
    )


def test_ids_may_be_shortened_as_long_as_they_are_unique(cli: Cli, repo: Path) -> None:
    one, two = (submit(cli, "--json", "--title", title).json["task_id"] for title in "ab")
    assert cli("show", one[-8:], "--json").json["task_id"] == one
    both = cli("show", one[:4])
    assert both.code == 2
    assert one in both.err
    assert two in both.err
    assert cli("show", "zz").code == 3


def test_untrusted_text_does_not_reach_the_terminal(cli: Cli, repo: Path) -> None:
    task_id = submit(cli, "--json", "--title", "\x1b]0;owned\x07 \u202eevil [bold]x[/bold]").json["task_id"]
    for words in (("tasks",), ("show", task_id), ("log", task_id), ("why", task_id), ("tasks", "--json")):
        said = cli(*words)
        assert said.code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(said.out + said.err), words
    assert "[bold]x[/bold]" in cli("tasks").out


def test_why_and_at_and_show(cli: Cli, repo: Path) -> None:
    task_id = submit(cli, "--json").json["task_id"]
    why = cli("why", task_id, "--json").json
    assert (why["turn"], why["awaits"]) == ("planning", ["PlanProposed", "PlanRejected"])
    assert "No planning agent is running on this machine." in why["sentences"]
    assert cli("at", task_id, "--event", "1", "--json").json["step"] == "submitted"
    late = cli("at", task_id, "--event", "2")
    assert (late.code, "has 1 event, none has the number 2" in late.err) == (3, True)
    assert cli("diff", task_id).code == 3
    assert "submitted" in cli("show", task_id).out


def test_acts_are_recorded_and_signed_where_they_carry_authority(cli: Cli, repo: Path, tmp_path: Path) -> None:
    task_id = submit(cli, "--json").json["task_id"]
    assert cli("approve", task_id).code == 1
    assert cli("resume", task_id).code == 1
    assert cli("budget", "raise", task_id, "--tokens", "5").code == 0
    axes = cli("budget", "show", task_id, "--json").json["axes"]
    assert axes["tokens"] == {"spent": 0, "held": 0, "left": 5, "cap": 5}
    assert "30 min" in cli("budget", "show", task_id).out
    assert cli("cancel", task_id, "--reason", "enough").code == 0
    events = [json.loads(line) for line in cli("log", task_id, "--json").out.splitlines()]
    assert [event["type"] for event in events] == ["TaskSubmitted", "BudgetRaised", "TaskCancelRequested"]
    assert events[1]["payload"]["budget"]["tokens"] == 5
    assert events[1]["payload"]["budget"]["steps"] == 60
    assert events[1]["payload"]["signature"]["key_id"]
    assert events[1]["causation_id"] == events[0]["event_id"]
    assert events[1]["source"] == "urn:gavotte:operator"
    assert (tmp_path / ".config/gavotte/operator.key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "data/operators.pub").read_text().split()) == 1


def test_a_stranger_does_not_become_an_operator(cli: Cli, repo: Path, tmp_path: Path) -> None:
    task_id = submit(cli, "--json").json["task_id"]
    assert cli("budget", "raise", task_id, "--tokens", "5").code == 0
    key = tmp_path / ".config/gavotte/operator.key"
    key.unlink()
    refused = cli("budget", "raise", task_id, "--tokens", "6")
    assert refused.code == 4
    assert "is not among the operators" in refused.err
    assert len((tmp_path / "data/operators.pub").read_text().split()) == 1
    key.chmod(0o644)
    assert "can be read by others" in cli("budget", "raise", task_id, "--tokens", "6").err


def test_kill_and_lift(cli: Cli, repo: Path) -> None:
    task_id = submit(cli, "--json").json["task_id"]
    kill_id = cli("kill", "--task", task_id, "--reason", "smoke", "--json").json["event_id"]
    assert "A kill of task" in cli("why", task_id).out
    assert cli("lift", "ffff").code == 3
    assert cli("lift", kill_id[:9]).code == 0
    assert "A kill of" not in cli("why", task_id).out
    assert cli("kill", "--role", "coding").code == 0
    assert cli("lift", "--role", "coding").code == 0


PUBLISHED = {"type": "TaskCancelRequested", "payload": {"reason": "by hand"}}


def test_publish_records_what_is_right(cli: Cli, repo: Path) -> None:
    task_id = submit(cli, "--json").json["task_id"]
    done = cli("publish", "-", "--json", stdin=json.dumps({**PUBLISHED, "task_id": task_id}).encode())
    assert done.json["type"] == "TaskCancelRequested"
    assert cli("show", task_id, "--json").json["cancel_requested"] is True


@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        (b"{", 2, "stdin is not JSON"),
        (b"[1]", 2, "holds no JSON object"),
        (b"[" * 100_000, 2, "stdin is not JSON"),
        (b'{"payload": {}}', 2, "the event has no type"),
        (b'{"type": "TaskCancelRequested", "sequence": 3}', 2, "the event has no field 'sequence'"),
        (b'{"type": "TaskForgotten"}', 2, "no event is called TaskForgotten v1"),
        (b'{"type": "TaskCancelRequested", "version": 9}', 2, "no event is called TaskCancelRequested v9"),
        (b'{"type": "TaskSubmitted", "payload": {"title": 3}}', 2, "title: Input should be a valid string"),
        (b'{"type": "TaskCancelRequested", "payload": {"evil": 1}}', 2, "evil: Extra inputs are not permitted"),
        (b'{"type": "TaskCancelled"}', 4, "urn:gavotte:operator may not emit TaskCancelled"),
        (b'{"type": "TaskCancelled", "source": "urn:gavotte:agent:coding"}', 4, "a person does not speak as"),
        (b'{"type": "TaskCancelRequested"}', 2, "TaskCancelRequested needs a task_id"),
        (b'{"type": "TaskCancelRequested", "task_id": "abc"}', 2, "not a uuid"),
        (b'{"type": "TaskCancelRequested", "task_id": "%s"}' % UNKNOWN.encode(), 3, "there is no task"),
    ],
)
def test_publish_refuses_what_is_wrong(cli: Cli, event: bytes, code: int, said: str) -> None:
    done = cli("publish", "-", stdin=event)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_projects_are_shown_pinned_and_trusted(cli: Cli, repo: Path) -> None:
    added = cli("project", "add", "repo", "--test", "python -m pytest -x", "--approval", "risky", "--json").json
    assert (added["settings"]["test_command"], added["settings"]["approval"]) == (
        ["python", "-m", "pytest", "-x"],
        "risky",
    )
    (repo / "gavotte.toml").write_text('[project]\napproval = "never"\n')
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "be lax")
    shown = cli("project", "show", "repo").out
    assert "it is not pinned" in shown
    assert cli("project", "show", "repo", "--json").json["settings"]["approval"] == "risky"
    assert cli("project", "trust", "repo", "--json").json["settings"]["approval"] == "never"
    assert cli("project", "add", "repo", "--approval", "sometimes").code == 2
    assert cli("project", "show", "nobody").code == 3


def test_settings_are_shown_with_their_origin(cli: Cli) -> None:
    rows = {row["key"]: row for row in cli("config", "show", "--json").json}
    assert rows["operator.name"] == {"key": "operator.name", "value": "ann", "origin": "GAVOTTE_OPERATOR__NAME"}
    assert rows["worker.concurrency"]["origin"] == "default"


def test_doctor_finds_what_is_here(cli: Cli, repo: Path) -> None:
    before = {found["name"]: found for found in cli("doctor", "--json").json}
    assert before["python"]["verdict"] == "ok"
    assert "record" not in before
    submit(cli)
    after = {found["name"]: found for found in cli("doctor", "--json").json}
    assert after["record"]["finding"] == "sqlite answers: 1 event"
    assert after["bus"]["finding"].startswith("embedded answers")
    assert (after["tasks"]["verdict"], after["tasks"]["hint"].split(",")[0]) == ("better", "gavotte up")
    assert "kill" not in after
    assert cli("kill", "--all", "--reason", "too hot").code == 0
    stopped = next(found for found in cli("doctor", "--json").json if found["name"] == "kill")
    assert stopped["finding"] == "everything is stopped: too hot"
    assert cli(*stopped["hint"].split()[1:]).code == 0
    assert "kill" not in {found["name"] for found in cli("doctor", "--json").json}
    assert "is made at first use" in before["data"]["finding"]
    assert "GiB free" in after["data"]["finding"]


def test_contracts_agree(cli: Cli) -> None:
    assert cli("contracts", "check").code == 0
    rows = cli("contracts", "list", "--json").json
    assert [row["schema_id"] for row in rows] == list(range(1, len(rows) + 1))
    assert json.loads(cli("contracts", "show", "PlanProposed", "--schema").out)["name"] == "PlanProposed"
    assert "risk" in cli("contracts", "show", "PlanProposed").out


def test_a_noun_without_a_verb_shows_its_verbs(cli: Cli) -> None:
    for words in ((), ("dlq",)):
        done = cli(*words)
        assert (done.code, done.out) == (2, "")
        assert "\nCommands:\n" in done.err


def test_version(cli: Cli) -> None:
    assert cli("--version").out == cli("version").out
    assert cli("version", "--json").json["gavotte"]
    assert cli("version").out.startswith("gavotte ")


def test_an_unexpected_error_is_one_line_and_a_file(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("no\nway")

    monkeypatch.setattr("agents.settings.load_settings", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = cli("config", "show")
    assert done.code == 1
    assert done.err.startswith("error: something unexpected went wrong: ZeroDivisionError: no\n")
    log = next(tmp_path.glob("gavotte-error-*.log"))
    assert str(log) in done.err
    assert "Traceback" in log.read_text()


def test_ctrl_c_before_the_command_begins_is_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    said = cli("tasks")
    assert (said.code, said.err) == (130, "error: aborted\n")
