"""The `gavotte` command: its nouns and verbs, and the one place where an error becomes words and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from console.cli import (
    acts,
    alarms,
    audit,
    bench,
    budgets,
    config,
    contracts,
    demo,
    evaluate,
    events,
    letters,
    llm,
    machine,
    model_server,
    processes,
    projects,
    store,
    submit,
    tasks,
    topics,
    watch,
)
from console.cli.call import Config, Data, Debug
from console.cli.output import put, say, styled
from console.harmless import harmless
from contracts.errors import GavotteError

EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 5
EXIT_INTERRUPTED: Final = 130
HINTS: Final = {
    errno.EMFILE: "let a process open more files: ulimit -n 1024",
    errno.ENFILE: "this machine has too many files open: end something",
    errno.ENOSPC: "free disk space; nothing recorded is lost",
    errno.EDQUOT: "free disk space; nothing recorded is lost",
    errno.EFBIG: "let a process write larger files: ulimit -f unlimited",
    errno.ENOMEM: "free memory, or let a process use more: ulimit -v unlimited",
}

app = typer.Typer(
    name="gavotte",
    help="Watch, steer and prove a dance of agents in which nobody leads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        put(machine.version_line())
        raise typer.Exit


@app.callback()
def _everything(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    data: Data = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """What stands before any command."""


for room in (
    processes,
    submit,
    tasks,
    watch,
    alarms,
    events,
    llm,
    acts,
    budgets,
    projects,
    letters,
    contracts,
    topics,
    store,
    config,
    machine,
    audit,
    demo,
    evaluate,
    bench,
):
    room.add_to(app)
model_server.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(app(given, prog_name="gavotte", standalone_mode=False) or 0)
    except GavotteError as error:
        return _explain(error.message, error.hint, error.exit_code)
    except (typer.Abort, KeyboardInterrupt):  # a command that has begun has its own way to end
        return _explain("aborted", "", EXIT_INTERRUPTED)
    except OSError as error:
        if error.strerror is None or "--debug" in given:
            return _unexpected(error, given)
        place = f"{error.filename}: " if error.filename else ""
        hint = HINTS.get(error.errno or 0, "gavotte doctor; with --debug it says where")
        return _explain(f"{place}{error.strerror}", hint, EXIT_UNAVAILABLE)
    except Exception as error:  # noqa: BLE001  the last resort: a person never meets a traceback
        if type(error).__name__ == "NoArgsIsHelpError":  # a noun without a verb
            say(str(error))
            return EXIT_USAGE
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's errors
            return _explain(error.format_message(), _help_for(error), EXIT_USAGE)
        return _unexpected(error, given)


def _explain(message: str, hint: str, code: int) -> int:
    say(f"{styled('error:', 'red', sys.stderr)} {harmless(message)}")
    if hint:
        say(f"  try: {harmless(hint)}")
    return code


def _help_for(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else 'gavotte'} --help"


def _unexpected(error: Exception, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
        return 1
    from tempfile import mkstemp

    kind = f"{type(error).__name__}: {error}".splitlines()[0]
    descriptor, name = mkstemp(prefix="gavotte-error-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"gavotte {' '.join(arguments)}\n\n")
        traceback.print_exception(error, file=file)
    return _explain(f"something unexpected went wrong: {kind}", f"look into {Path(name)}, or add --debug", 1)


if __name__ == "__main__":
    sys.exit(main())
