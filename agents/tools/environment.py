"""What the sandbox shows besides the tree: which Python, which installed packages, which of our own files it hides."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from contracts.errors import Refused

DISTRIBUTION = "gavotte"
SYSTEM_PREFIX = Path("/usr")  # shown to every command


@dataclass(frozen=True, slots=True)
class Environment:
    """The Python and other programs that a command sees, all read-only, at the paths they have on the host.

    `path`: folders first in PATH. `python_path`: import roots relative to the tree, those that exist are used.
    `hidden`: files and folders under `read_only` that the command must not see.
    """

    python: Path
    read_only: tuple[Path, ...]
    path: tuple[Path, ...]
    python_path: tuple[str, ...] = (".", "src")
    hidden: tuple[Path, ...] = ()


def find_environment(tree: Path | None, configured: Path | None) -> Environment:
    """The configured virtual environment, else the project's `.venv`, else the interpreter Gavotte runs with.

    `tree` is the project's folder. Nothing of an environment is run here: it may be the project's own doing.
    """
    if configured is not None:
        return virtual_environment(configured)
    if tree is not None and (tree / ".venv" / "pyvenv.cfg").is_file():
        try:
            return virtual_environment(tree / ".venv")
        except Refused:
            pass  # not a working one: the project's tests may well do without
    return own_environment()


def virtual_environment(folder: Path) -> Environment:
    """The virtual environment in `folder`, with the installation it was made from."""
    prefix = folder.expanduser().resolve()
    python = prefix / "bin" / "python"
    home = _home_of(prefix / "pyvenv.cfg")
    if home is None or not os.access(python, os.X_OK):
        raise _not_an_environment(folder, "it has no pyvenv.cfg with a home, or no bin/python")
    prefixes = {_installation(place) for place in (home, home.resolve(), python.resolve().parent)}
    bases = {base for base in prefixes if base is not None and base != prefix}
    if not bases:
        raise _not_an_environment(folder, f"its home {home} belongs to no Python installation")
    return Environment(
        python=python,
        read_only=_outermost({prefix, *bases}),
        path=(prefix / "bin",),
        hidden=first_party(prefix),
    )


def own_environment() -> Environment:
    """The interpreter this process runs with; Gavotte's own packages are hidden, so no test imports them by accident."""
    prefix, base = Path(sys.prefix), Path(sys.base_prefix)
    return Environment(
        python=prefix / "bin" / Path(sys.executable).name,
        read_only=_outermost({prefix, base, prefix.resolve(), base.resolve()}),
        path=tuple(dict.fromkeys((prefix / "bin", base / "bin"))),
        hidden=tuple(sorted({*first_party(prefix), *first_party(prefix.resolve())})),
    )


def with_own_programs(environment: Environment) -> Environment:
    """The same, and last in PATH the programs that Gavotte brings, such as ruff: a project need not install them."""
    own = own_environment()
    return replace(
        environment,
        read_only=_outermost({*environment.read_only, *own.read_only}),
        path=tuple(dict.fromkeys((*environment.path, *own.path))),
        hidden=tuple(sorted({*environment.hidden, *own.hidden})),
    )


def steward_python() -> tuple[Path, Path]:
    """The bare interpreter and its prefix, for the program that confines: no virtual environment, no packages."""
    executable = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    return executable, Path(sys.base_prefix).resolve()


def first_party(prefix: Path) -> tuple[Path, ...]:
    """What our own distribution put into an environment: packages, or the finder of an editable install."""
    found: set[Path] = set()
    for site in {
        place.resolve() for place in prefix.glob("lib*/python*/site-packages")
    }:  # lib64 is often a link to lib
        for record in site.glob(f"{DISTRIBUTION}-*.dist-info/RECORD"):
            found.add(record.parent)
            for line in record.read_text(encoding="utf-8").splitlines():
                top = line.split(",")[0].strip('"').split("/")[0]
                if top not in {"", "..", "__pycache__"}:
                    found.add(site / top)
        found.update(site.glob(f"__editable__*{DISTRIBUTION}*"))
    return tuple(sorted(path for path in found if path.exists()))


def _home_of(config: Path) -> Path | None:
    """`home` of a pyvenv.cfg: the folder of the interpreter that the environment was made with."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip().lower() == "home" and value.strip().startswith("/"):
            return Path(value.strip())
    return None


def _installation(folder: Path) -> Path | None:
    """The prefix of the Python whose `bin` this is; None if it is no installation, so that no other folder is shown."""
    prefix = folder.parent
    is_python = any(prefix.glob("lib*/python3*/os.py")) and any(folder.glob("python3*"))
    return prefix if is_python and len(prefix.parts) > 1 and prefix != Path.home() else None


def _outermost(paths: set[Path]) -> tuple[Path, ...]:
    """Without what lies under another of them or under /usr, which is shown anyway."""
    shown = {path for path in paths if not path.is_relative_to(SYSTEM_PREFIX)}
    return tuple(
        sorted(path for path in shown if not any(path != other and path.is_relative_to(other) for other in shown))
    )


def _not_an_environment(folder: Path, why: str) -> Refused:
    return Refused(
        f"{folder} is not a Python environment: {why}",
        hint=f"make one with: python3 -m venv {folder}",
        code="environment_unusable",
    )
