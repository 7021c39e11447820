"""Choosing a sandbox, its environment, the filter of system calls, and what is taken out of it."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.tools import changes, sandbox, seccomp, walls
from agents.tools.contained import harmless
from agents.tools.environment import with_own_programs
from agents.tools.sandbox import (
    Bubblewrap,
    Environment,
    LandlockSandbox,
    Limits,
    Sandbox,
    UnsafeSandbox,
    choose_sandbox,
    find_environment,
)
from contracts.errors import Refused
from tests.unit.sandbox_play import kernel_abi


@pytest.fixture(params=["bubblewrap", "landlock"])
async def contained(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return await (sandbox.find_bubblewrap() if request.param == "bubblewrap" else sandbox.find_landlock())
    except Refused as error:
        pytest.skip(error.message)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice is remembered from before, and none is kept."""
    monkeypatch.setattr(sandbox, "_surveyed", {})
    yield
    monkeypatch.setattr(sandbox, "_surveyed", {})


# --- choosing ---


@pytest.mark.usefixtures("forgotten")
async def test_a_probed_sandbox_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = await choose_sandbox()
    assert chosen.strength in {"strong", "weaker"}

    async def not_again() -> Bubblewrap:
        raise AssertionError("looked for twice")

    monkeypatch.setattr(sandbox, "find_bubblewrap", not_again)
    assert await choose_sandbox(allow_unsafe=True) is chosen  # a real one is used even where none would be allowed


def without(monkeypatch: pytest.MonkeyPatch, *finders: str) -> None:
    async def missing() -> Sandbox:
        raise Refused("not there")

    for finder in finders:
        monkeypatch.setattr(sandbox, finder, missing)


@pytest.mark.usefixtures("forgotten")
async def test_without_bubblewrap_landlock_is_taken_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel_abi() < 1:
        pytest.skip("the kernel has no Landlock")
    monkeypatch.setenv("PATH", "/nonexistent")
    found = await sandbox.survey()
    assert (found.name, found.strength) == ("landlock+seccomp", "weaker")
    assert found.notes == ("bubblewrap is not installed",)


@pytest.mark.usefixtures("forgotten")
async def test_without_any_it_is_refused_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "find_bubblewrap", "find_landlock")
    with pytest.raises(Refused, match="apt install bubblewrap"):
        await choose_sandbox()
    unsafe = await choose_sandbox(allow_unsafe=True)
    assert isinstance(unsafe, UnsafeSandbox)
    assert unsafe.strength == "none"
    assert "unsafe" in unsafe.name


@pytest.mark.usefixtures("forgotten")
async def test_a_sandbox_that_does_not_hold_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaky() -> Sandbox:
        return UnsafeSandbox()

    without(monkeypatch, "find_landlock")
    monkeypatch.setattr(sandbox, "find_bubblewrap", leaky)
    with pytest.raises(Refused, match="does not hold"):
        await choose_sandbox()


@pytest.mark.parametrize("version", ["bubblewrap 0.4.0", "nonsense"])
async def test_an_old_bubblewrap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    old = tmp_path / "bwrap"
    old.write_text(f"#!/bin/sh\necho {version}\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"too old, 0\.8"):
        await sandbox.find_bubblewrap()


# --- failing closed ---


async def test_a_wall_that_fails_means_no_run(contained: Sandbox, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "assemble", lambda *_: b"\xff" * 64)
    with pytest.raises(Refused, match="was not run"):
        await contained.run(["sh", "-c", "echo ran"], tree=tree, environment=find_environment(None, None))


async def test_a_landlock_that_fails_means_no_run(tree: Path) -> None:
    with pytest.raises(Refused, match="did not come up"):
        await LandlockSandbox(-1).run(["true"], tree=tree, environment=find_environment(None, None))


async def test_bubblewrap_that_cannot_start_means_no_run(tree: Path) -> None:
    with pytest.raises(Refused, match="did not come up"):
        await Bubblewrap("/bin/false").run(["true"], tree=tree, environment=find_environment(None, None))


async def test_odd_requests_are_refused(contained: Sandbox, tree: Path) -> None:
    environment = find_environment(None, None)
    with pytest.raises(Refused, match="no command"):
        await contained.run([], tree=tree, environment=environment)
    with pytest.raises(Refused, match="no folder"):
        await contained.run(["true"], tree=tree / "none", environment=environment)
    with pytest.raises(Refused, match="plain file name"):
        await contained.run(["true"], tree=tree, environment=environment, report="../x")


async def test_a_tree_larger_than_its_disk_is_refused(contained: Sandbox, tree: Path) -> None:
    (tree / "big").write_bytes(b"0" * (3 << 20))
    try:
        ran = await contained.run(
            ["sleep", "30"], tree=tree, environment=find_environment(None, None), limits=Limits(disk_bytes=1 << 20)
        )
    except Refused as error:
        said = error.message
    else:
        said = ran.output
    assert "No space left" in said or "wrote more than" in said


# --- a run seen from outside ---


async def test_exit_codes_and_missing_commands(contained: Sandbox, tree: Path) -> None:
    async def code(*argv: str) -> int:
        return (await contained.run(argv, tree=tree, environment=find_environment(None, None))).exit_code

    assert await code("sh", "-c", "exit 3") == 3
    assert await code("sh", "-c", "kill -9 $$") in {137, 1, 2}
    assert await code("no-such-command") == 127


async def test_the_tree_may_hold_links_odd_names_and_a_git_folder(contained: Sandbox, tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".git" / "config").write_text("secret")
    (tree / "a file with spaces é.txt").write_text("x")
    (tree / "link").symlink_to("a file with spaces é.txt")
    (tree / "dangling").symlink_to("/nowhere")
    os.mkfifo(tree / "pipe")
    ran = await contained.run(
        ["sh", "-c", "ls -A; cat link"], tree=tree, environment=find_environment(None, None), collect_changes=True
    )
    assert ran.output == "a file with spaces é.txt\ndangling\nlink\nx"
    assert (ran.changed, ran.deleted) == ({}, ())


async def test_python_and_its_tools_are_the_environments(contained: Sandbox, tree: Path) -> None:
    (tree / "src").mkdir()
    (tree / "src" / "inside.py").write_text("here = 1\n")
    (tree / "top.py").write_text("here = 2\n")
    environment = find_environment(None, None)
    ran = await contained.run(
        ["python", "-c", "import sys, inside, top; print(sys.executable, sys.prefix); import pytest; print('pytest')"],
        tree=tree,
        environment=environment,
    )
    assert ran.output.splitlines() == [f"{environment.python} {sys.prefix}", "pytest"]
    which = await contained.run(["sh", "-c", "command -v pytest"], tree=tree, environment=environment)
    assert which.output.strip() == str(environment.python.parent / "pytest")


async def test_a_command_finds_our_programs_behind_those_of_its_environment(
    contained: Sandbox, tree: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    bare = find_environment(None, tmp_path / "venv")
    words = ["sh", "-c", "command -v ruff; ruff --version; command -v python"]
    assert "ruff: not found" in (await contained.run(words, tree=tree, environment=bare)).output
    ran = await contained.run(words, tree=tree, environment=with_own_programs(bare))
    ruff, version, python = ran.output.splitlines()
    assert Path(ruff) == find_environment(None, None).python.parent / "ruff"
    assert version.startswith("ruff ")
    assert Path(python) == bare.python


async def test_our_own_packages_cannot_be_imported(contained: Sandbox, tree: Path) -> None:
    program = "\n".join(
        f"try:\n import {name}.__init__\n print('imported {name}')\nexcept ImportError: pass\nexcept OSError: pass"
        for name in ("agents", "bus", "contracts", "state_store", "console", "embedded")
    )
    ran = await contained.run(
        ["python", "-c", program + "\nprint('end')"], tree=tree, environment=find_environment(None, None)
    )
    assert ran.output == "end\n"


async def test_an_installed_distribution_of_ours_is_hidden(contained: Sandbox, tree: Path, tmp_path: Path) -> None:
    prefix = fake_environment(tmp_path / "venv")
    prefix.parent.chmod(0o755)
    site = prefix / "lib" / "python3.11" / "site-packages"
    for name in ("bus/__init__.py", "kept/__init__.py", "gavotte-1.dist-info/METADATA", "__editable__.gavotte-1.pth"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("secret = 1\n")
    (site / "gavotte-1.dist-info" / "RECORD").write_text("bus/__init__.py,,\n../../../bin/gavotte,,\n")
    environment = find_environment(None, prefix)
    assert {path.name for path in environment.hidden} == {"bus", "gavotte-1.dist-info", "__editable__.gavotte-1.pth"}
    ran = await contained.run(
        [
            "sh",
            "-c",
            f"cd {site}; cat kept/__init__.py; cat bus/__init__.py __editable__.gavotte-1.pth gavotte-1.dist-info/RECORD",
        ],
        tree=tree,
        environment=environment,
    )
    assert ran.output.count("secret") == 1


# --- environments ---


def fake_environment(prefix: Path, home: Path | None = None) -> Path:
    """The files that make a virtual environment of the running interpreter."""
    base = Path(sys.base_prefix)
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(f"home = {home or base / 'bin'}\n")
    (prefix / "bin" / "python").symlink_to(Path(os.path.realpath(sys.executable)))
    return prefix


def test_the_configured_environment_comes_first(tmp_path: Path) -> None:
    fake_environment(tmp_path / "project" / ".venv")
    configured = fake_environment(tmp_path / "configured")
    assert find_environment(tmp_path / "project", configured).python == configured / "bin" / "python"
    own = find_environment(tmp_path / "project", None)
    assert own.path[0] == tmp_path / "project" / ".venv" / "bin"
    assert find_environment(tmp_path, None).python.parent == Path(sys.prefix) / "bin"


@pytest.mark.parametrize("home", ["/etc", "/root/.ssh", "/", "relative/bin", "/nonexistent/bin"])
def test_a_home_that_is_no_python_is_not_shown(tmp_path: Path, home: str) -> None:
    prefix = fake_environment(tmp_path / ".venv", Path(home))
    (prefix / "bin" / "python").unlink()
    (prefix / "bin" / "python").symlink_to("/bin/sh")
    try:
        shown = set(find_environment(None, prefix).read_only)
    except Refused:
        shown = set()
    assert shown <= {prefix}
    assert find_environment(tmp_path, None).read_only


def test_a_configured_folder_that_is_no_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a Python environment"):
        find_environment(None, tmp_path)


def test_read_only_places_name_no_folder_twice() -> None:
    environment = find_environment(None, None)
    for one in environment.read_only:
        assert not any(one != other and one.is_relative_to(other) for other in environment.read_only)


def test_hidden_files_are_left_out_of_the_grants(tmp_path: Path) -> None:
    for name in ("a/one", "a/two", "b"):
        (tmp_path / name).mkdir(parents=True)
    granted, listed = walls._without(tmp_path, (tmp_path / "a" / "two",))
    assert granted == [str(tmp_path / "a" / "one"), str(tmp_path / "b")]
    assert listed == [str(tmp_path), str(tmp_path / "a")]


# --- what comes out ---


def stream(*members: tuple[str, bytes, dict[str, object]], status: dict[str, object] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        state = json.dumps({"exit_code": 0} if status is None else status).encode()
        for name, content, more in (("status.json", state, {}), *members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in more.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_stream_is_compared_with_the_tree(tree: Path) -> None:
    (tree / "same").write_text("x")
    (tree / "gone").write_text("x")
    (tree / "mode").write_text("x")
    left = changes.read_stream(
        stream(
            ("report", b"<x/>", {}),
            ("tree/same", b"x", {"mode": 0o644}),
            ("tree/mode", b"x", {"mode": 0o755}),
            ("tree/sub/new", b"y", {"mode": 0o644}),
            status={"exit_code": 0, "deleted": ["gone", "never", "a.pyc"]},
        ),
        tree,
    )
    assert left.changed == {"mode": changes.Changed(b"x", True), "sub/new": changes.Changed(b"y", False)}
    assert left.deleted == ("gone",)
    assert left.report == b"<x/>"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tree/../x", {}),
        ("tree//etc/passwd", {}),
        ("/etc/passwd", {}),
        ("x", {}),
        ("tree/", {}),
        ("tree/a/.git/config", {}),
        ("tree/.Git", {}),
        ("tree/a\x1bb", {}),
        ("tree/a\\b", {}),
        ("tree/\udcff", {}),
        ("tree/a", {"type": tarfile.SYMTYPE, "linkname": "/etc", "size": 0}),
        ("tree/a", {"type": tarfile.LNKTYPE, "linkname": "x", "size": 0}),
        ("tree/a", {"type": tarfile.CHRTYPE, "size": 0}),
        ("tree/a", {"type": tarfile.BLKTYPE, "size": 0}),
        ("tree/a", {"type": tarfile.FIFOTYPE, "size": 0}),
        ("tree/a", {"type": tarfile.DIRTYPE, "size": 0}),
        ("tree/a", {"pax_headers": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999999"}}),
    ],
)
def test_a_hostile_stream_is_refused(tree: Path, name: str, more: dict[str, object]) -> None:
    with pytest.raises(Refused):
        changes.read_stream(stream((name, b"x", more)), tree)


@pytest.mark.parametrize("deleted", ["../x", "/etc/passwd", ".git/config", ""])
def test_hostile_deletions_are_refused(tree: Path, deleted: str) -> None:
    with pytest.raises(Refused):
        changes.read_stream(stream(status={"exit_code": 0, "deleted": [deleted]}), tree)


def test_a_broken_stream_is_refused(tree: Path) -> None:
    whole = stream(("tree/a", b"x" * 5000, {}))
    for broken in (b"", b"\0" * 1024, b"garbage" * 200, whole[:2000], stream(status={})):
        with pytest.raises(Refused):
            changes.read_stream(broken, tree)


def test_nothing_is_compared_through_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("x")
    (tree / "folder").symlink_to(tmp_path / "far")
    left = changes.read_stream(stream(("tree/folder/file", b"x", {"mode": 0o644})), tree)
    assert list(left.changed) == ["folder/file"]


def test_text_is_made_harmless() -> None:
    assert harmless(b"a\tb\r\nc\n") == "a\tb\nc\n"
    assert (
        harmless("\x1b[2J\x00\x85\u2028\u202e\u200b\ufeff".encode()) == "\\x1b[2J\\x00\\x85\\u2028\\u202e\\u200b\\ufeff"
    )
    assert harmless(b"\xff") == "\ufffd"
    assert harmless(b"\x1b[31m\x1b[1mERROR\x1b[0m test.py") == "ERROR test.py"


# --- the filter of system calls, by a small machine that runs BPF ---


def answer(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do: 0 allows, an errno refuses (-1 stands for success without effect), KILL kills."""
    data = struct.pack(
        "=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(value & (1 << 64) - 1 for value in (*arguments, *[0] * 6)[:6])
    )
    place, register = 0, 0
    while True:
        code, on_true, on_false, value = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == seccomp.LOAD:
            register = struct.unpack_from("=I", data, value)[0]
        elif code == seccomp.MASK:
            register &= value
        elif code == seccomp.JUMP_EQUAL:
            place += on_true if register == value else on_false
        elif code == seccomp.JUMP_GREATER:
            place += on_true if register > value else on_false
        else:
            assert code == seccomp.RETURN
            if value == seccomp.ALLOW:
                return 0
            return value if value == seccomp.KILL_PROCESS else (value & 0xFFFF) or -1


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_filter_refuses_by_number_and_argument(arch: str) -> None:
    audit, column = seccomp.AUDIT_ARCH[arch], 0 if arch == "x86_64" else 1
    strong = seccomp.assemble(seccomp.namespaced_rules(), arch)
    weak = seccomp.assemble(seccomp.bare_rules(landlock_abi=1, own_user=False), arch)

    def call(program: bytes, name: str, *arguments: int) -> int:
        number = seccomp.NUMBERS[name][column]
        assert number is not None
        return answer(program, audit, number, *arguments)

    for program in (strong, weak):
        assert answer(program, audit ^ 1, 0) == seccomp.KILL_PROCESS
        assert answer(program, audit, 0) == 0  # read, or io_setup
        assert answer(program, audit, 9999) == errno.ENOSYS
        assert answer(program, audit, 0x40000000 + 101) == errno.ENOSYS
        assert call(program, "ptrace") == call(program, "unshare") == call(program, "bpf") == errno.EPERM
        assert call(program, "clone3") == errno.ENOSYS
        assert call(program, "clone", 17) == 0
        for bit in range(17, 31):
            flag = 1 << bit
            assert (call(program, "clone", flag | 17) == errno.EPERM) == bool(flag & seccomp.FLAGS_OF_NEW_NAMESPACES)
        assert call(program, "ioctl", 0, 0x5412) == call(program, "ioctl", 0, 1 << 32 | 0x5412) == errno.EPERM
        assert call(program, "ioctl", 0, 0x5413) == 0
        assert call(program, "socket", 40) == call(program, "socket", 16) == errno.EPERM
    assert [call(strong, "socket", family) for family in (1, 2, 10)] == [0, 0, 0]
    assert [call(weak, "socket", family) for family in (1, 2, 10)] == [errno.EPERM] * 3
    assert (call(weak, "socketpair", 1), call(weak, "socketpair", 2)) == (0, errno.EPERM)
    assert call(weak, "fchmod") == call(weak, "utimensat") == -1
    assert call(strong, "fchmod") == call(strong, "kill", 5) == 0
    assert (call(weak, "kill", 5), call(weak, "kill", 0)) == (errno.EPERM, 0)
    assert (call(weak, "prlimit64", 5), call(weak, "prlimit64", 0)) == (errno.EPERM, 0)
    truncating = os.O_TRUNC | os.O_RDONLY
    assert (call(weak, "openat", 0, 0, truncating), call(weak, "openat", 0, 0, os.O_TRUNC | os.O_WRONLY)) == (
        errno.EPERM,
        0,
    )
    later = seccomp.assemble(seccomp.bare_rules(landlock_abi=6, own_user=False), arch)
    assert call(later, "kill", 5) == call(later, "truncate") == call(later, "openat", 0, 0, truncating) == 0
    alone = seccomp.assemble(seccomp.bare_rules(landlock_abi=1, own_user=True), arch)
    assert call(alone, "fchmod") == call(alone, "kill", 5) == 0
    assert call(alone, "socket", 2) == call(alone, "shmget") == errno.EPERM


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(Refused, match="riscv64"):
        seccomp.machine()


def test_an_environment_says_what_it_is() -> None:
    assert Environment(Path("/p"), (), ()).python_path == (".", "src")
