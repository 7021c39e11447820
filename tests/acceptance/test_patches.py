"""Given patches of every kind: the right ones wait for a word, the wrong ones end with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.commands import FIX, SPLIT, TESTS, Person, git, repository

ODD = "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}"
LATIN = b"caf\xe9\n"
FILES = {"money.py": SPLIT, "test_money.py": TESTS, "two words.txt": "a\nb\n", f"{ODD}.txt": "warm\n"}
EVEN = "def test_even() -> None:\n    assert split(900, 3) == [300, 300, 300]\n\n\n"


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def written(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def replaced(folder: Path, name: str, old: str, new: str) -> None:
    assert old in (folder / name).read_text()
    (folder / name).write_text((folder / name).read_text().replace(old, new))


Edit = Callable[[Path], object]
RIGHT: dict[str, Edit] = {
    "the fix alone": lambda folder: None,
    "a name with a space": lambda folder: written(folder, "two words.txt", b"a\nB\n"),
    "a name that is not ASCII": lambda folder: written(folder, f"{ODD}.txt", b"cold\n"),
    "a folder that is new": lambda folder: written(folder, f"{ODD} {ODD}/{ODD}.txt", b"x\n"),
    "bytes that are not UTF-8": lambda folder: written(folder, "latin.txt", LATIN * 2),
    "line ends of DOS": lambda folder: written(folder, "dos.txt", b"a\r\nB\r\n"),
    "a binary": lambda folder: written(folder, "logo.bin", bytes(range(256))),
    "a mode": lambda folder: (folder / "dos.txt").chmod(0o755),
    "with a new source, shares.py, by its name": lambda folder: written(folder, "shares.py", b"x = 1\n"),
    "a file less": lambda folder: (folder / "two words.txt").unlink(),
}
WRONG: dict[str, tuple[Edit, str]] = {
    "a failing test": (lambda folder: replaced(folder, "money.py", "[share] *", "[share + 1] *"), "tests: "),
    "a deleted test": (lambda folder: replaced(folder, "test_money.py", EVEN, ""), "tests: test_money.py: the test test_even is gone"),
    "a skipped test": (
        lambda folder: replaced(folder, "test_money.py", "def test_even", "@pytest.mark.skip\ndef test_even"),
        "no longer counts",
    ),
    "a file outside the plan": (
        lambda folder: written(folder, "other/new.py", b"x = 1\n"), "scope: other/new.py: the plan does not name this file"
    ),
    "a secret": (lambda folder: written(folder, "k.txt", b"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"), "secrets: k.txt: "),
    "a link": (lambda folder: (folder / "link").symlink_to("/etc/hosts"), "symbolic link"),
    "a name that is not UTF-8": (lambda folder: written(folder, os.fsdecode(b"caf\xe9.txt"), b"x\n"), "is not UTF-8"),
}  # fmt: skip


def patch_of(clean: Path, edit: Edit) -> bytes:
    """What git prints of an edit on top of the fix; the clone is clean again afterwards."""
    git(clean, "apply", "--index", str(clean.parent / "fix.diff"))
    edit(clean)
    git(clean, "add", "--all")
    (clean.parent / "made.diff").unlink(missing_ok=True)
    git(clean, "diff", "--cached", "--binary", f"--output={clean.parent / 'made.diff'}")
    git(clean, "reset", "--quiet", "--hard")
    return (clean.parent / "made.diff").read_bytes()


def test_patches_end_as_they_deserve(ann: Person) -> None:
    repo = repository(ann.home / "repo", FILES)
    written(repo, "latin.txt", LATIN)
    written(repo, "dos.txt", b"a\r\nb\r\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "second")
    clean = ann.home / "clean"
    git(ann.home, "clone", "--quiet", str(repo), str(clean))
    (ann.home / "fix.diff").write_text(FIX)
    given = {name: patch_of(clean, edit) for name, edit in RIGHT.items()}
    given |= {name: patch_of(clean, edit) for name, (edit, _) in WRONG.items()}
    given |= {"nonsense": b"hello\n", "elsewhere": FIX.replace("money.py", "../money.py").encode()}
    reasons = {name: said for name, (_, said) in WRONG.items()}
    reasons |= {"nonsense": "the patch holds no change", "elsewhere": "'../money.py' leaves the repository"}
    before = git(repo, "for-each-ref")
    with ann.starts("up"):
        tasks = {
            name: ann.told("submit", "--repo", "repo", "--title", name, "--patch", "-", stdin=patch)["task_id"]
            for name, patch in given.items()
        }
        for name in RIGHT:
            ann.waits_for(tasks[name], "waiting")
        for name, said in reasons.items():
            outcome = ann.waits_for(tasks[name], "failed")["outcome"]
            assert outcome.startswith("review turned the change down: "), name
            assert said in outcome, name
            assert "ChangesRequested" in [event["type"] for event in ann.lines("log", tasks[name])]
        assert git(repo, "for-each-ref") == before
        assert git(repo, "status", "--short") == ""
        odd = tasks["bytes that are not UTF-8"]
        assert ann.says("approve", odd, "--yes").returncode == 0
        branch = ann.waits_for(odd, "succeeded")["branch"]
    assert (ann.data / "releases" / "repo" / "production" / "latin.txt").read_bytes() == LATIN * 2
    assert git(repo, "show", "--stat", "--format=", branch).count("|") == 2
