"""One call of the command line: its settings, the runtime when a command asks for it, and how it ends.

`command` gives every command --data, --config and --debug, runs it, and closes what it opened.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from agents.settings import Settings
    from agents.wiring import Runtime

EXIT_FAILED = 1
EXIT_WAITS_FOR_PERSON = 6
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 and SIGPIPE, as other programs end when their reader leaves."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id, or any unique part of it.")]

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data folder (GAVOTTE_DATA).", rich_help_panel="Everywhere"),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A settings file (GAVOTTE_CONFIG).", rich_help_panel="Everywhere"),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an unexpected error came from.")]


class Call:
    """What a command gets. `data`, `config` and `debug` are its flags as given."""

    def __init__(self, data: Path | None, config: Path | None, *, debug: bool) -> None:
        self.data = data
        self.config = config
        self.debug = debug
        self._runtime: Runtime | None = None

    @functools.cached_property
    def settings(self) -> Settings:
        from agents.settings import load_settings

        return load_settings(data=self.data, config=self.config)

    async def runtime(self, *, create: bool = False) -> Runtime:
        """Store, bus and codec of the data folder; NotFound where there is none, unless `create` makes it."""
        if self._runtime is None:
            from agents.wiring import open_runtime
            from contracts.errors import NotFound

            if not create and not self.settings.has_record:
                raise NotFound(
                    f"nothing was ever recorded in {self.settings.data}",
                    hint="gavotte submit, or name the right folder with --data DIR",
                )
            self._runtime = await open_runtime(self.settings, create=create)
        return self._runtime

    async def close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()

    def suffix(self) -> str:
        """What a command named in a message needs besides, so that it finds the same folder."""
        return f" --data {self.data}" if self.data is not None else ""


Command = TypeVar("Command", bound=Callable[..., Any])


def command(app: typer.Typer, name: str | None = None, **options: Any) -> Callable[[Command], Command]:
    """Make a function a command. Its first parameter is the Call; it may be async and may return an exit code."""

    def made(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        _, *own = inspect.signature(function).parameters.values()
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        keyword = inspect.Parameter.KEYWORD_ONLY
        everywhere = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            inspect.Parameter("data", keyword, default=None, annotation=Data),
            inspect.Parameter("config", keyword, default=None, annotation=Config),
            inspect.Parameter("debug", keyword, default=False, annotation=Debug),
        ]

        @functools.wraps(function)
        def run(**given: Any) -> int:
            before = given.pop("context").find_root().params  # `gavotte --data DIR tasks` is `gavotte tasks --data DIR`
            data, config, debug = (given.pop(name) or before.get(name) for name in ("data", "config", "debug"))
            return _run(function, Call(data, config, debug=bool(debug)), given)

        del run.__wrapped__  # typer would read the signature of the function behind
        parameters = [p.replace(kind=keyword) for p in own] + everywhere
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        short = re.split(r"[:;.,]", function.__doc__ or "")[0]
        app.command(name, short_help=short, **options)(run)
        return function

    return made


def _run(function: Callable[..., Any], call: Call, given: dict[str, Any]) -> int:
    try:
        return _finished(function, call, given)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to say has no reader
        return EXIT_BROKEN_PIPE


def _finished(function: Callable[..., Any], call: Call, given: dict[str, Any]) -> int:
    if not inspect.iscoroutinefunction(function):
        return int(function(call, **given) or 0)

    async def whole() -> int:
        try:
            return int(await function(call, **given) or 0)
        finally:
            await call.close()

    return run_async(whole())


def run_async(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end; Ctrl-C cancels the work, which cleans up, and ends with 130."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
