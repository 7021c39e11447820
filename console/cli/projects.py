"""`project`: the repositories under care, and what their operator pinned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import Call, Json, command
from console.cli.output import put, put_fields, put_json, put_table, say, warn
from console.harmless import clipped, harmless
from console.words import count, moment, short_digest

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from contracts.project import Project

Name = Annotated[str, typer.Argument(metavar="PROJECT", help="Name, id or path of a project.")]

project = typer.Typer(help="Repositories and their pinned settings.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(project, name="project")
    command(project)(add)
    command(project, "list")(list_)
    command(project)(show)
    command(project)(trust)


async def add(
    call: Call,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The repository.")],
    test: Annotated[str | None, typer.Option(metavar="CMD", help="How its tests are run.")] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="DIR", help="The virtual environment its tests see.")
    ] = None,
    prepare: Annotated[
        str | None, typer.Option(metavar="CMD", help="Makes that environment now, once, outside the sandbox.")
    ] = None,
    staging: Annotated[str | None, typer.Option(metavar="DIR", help="Where staging is released.")] = None,
    production: Annotated[str | None, typer.Option(metavar="DIR", help="Where production is released.")] = None,
    health: Annotated[str | None, typer.Option(metavar="CMD", help="Run in a release; it must exit with 0.")] = None,
    approval: Annotated[str | None, typer.Option(metavar="always|risky|never", help="When a person is asked.")] = None,
    test_timeout_seconds: Annotated[int | None, typer.Option(min=1, help="How long its tests may take.")] = None,
    json: Json = False,
) -> None:
    """Register a repository, or pin new settings; what is not named comes from its gavotte.toml, else is found out."""
    from agents.projects import proposal_from
    from console.submission import git_store, inspect, registry
    from contracts import ids

    said = {
        "test": test,
        "environment": environment,
        "prepare": prepare,
        "staging": staging,
        "production": production,
        "health": health,
        "approval": approval,
        "test_timeout_seconds": test_timeout_seconds,
    }
    flags = proposal_from({name: value for name, value in said.items() if value is not None}, "the command line")
    runtime = await call.runtime(create=True)
    git = git_store(runtime)
    facts = await inspect(git, path)
    known = registry(runtime, git)
    made = await known.add(facts.path, flags, time_us=ids.now_us())
    if made.settings.prepare and (prepare or not made.settings.environment):
        say(f"preparing its environment: {harmless(made.settings.prepare)}")
        made = await known.prepare(
            made, facts.head_commit, lambda line: say(f"  {clipped(line, 300)}"), time_us=ids.now_us()
        )
    if not made.settings.test_command:
        warn("no tests were found: name them with --test CMD")
    put_project(made, json=json)


async def list_(call: Call, json: Json = False) -> None:
    """List the projects."""
    runtime = await call.runtime()
    found = await runtime.store.projects()
    if json:
        put_json([each.model_dump(mode="json") for each in found])
        return
    if not found:
        say("no projects yet")
        return
    rows = [(each.name, each.path, " ".join(each.settings.test_command), each.settings.approval) for each in found]
    put_table(("project", "path", "tests", "approval"), rows)


async def show(call: Call, name: Name, json: Json = False) -> None:
    """Print what is pinned for a project, and what its repository proposes besides."""
    from console.submission import git_store, inspect, registry

    runtime = await call.runtime()
    found = await project_of(runtime, name)
    put_project(found, json=json)
    if json:
        return
    git = git_store(runtime)
    facts = await inspect(git, Path(found.path))
    await git.import_commit(facts.path, facts.head_commit)
    differences = await registry(runtime, git).differences(found, facts.head_commit)
    if differences:
        put()
        put(f"The repository proposes at {facts.head_commit[:12]}, and it is not pinned:")
        put_table(
            ("setting", "pinned", "proposed"), [(d.setting, shown(d.pinned), shown(d.proposed)) for d in differences]
        )
        say(f"  try: gavotte project trust {harmless(found.name)}{call.suffix()}")


async def trust(call: Call, name: Name, json: Json = False) -> None:
    """Pin what the repository's gavotte.toml proposes at HEAD now."""
    from console.submission import git_store, inspect, registry

    runtime = await call.runtime()
    found = await project_of(runtime, name)
    git = git_store(runtime)
    facts = await inspect(git, Path(found.path))
    await git.import_commit(facts.path, facts.head_commit)
    known = registry(runtime, git)
    differences = await known.differences(found, facts.head_commit)
    made = await known.trust(found, facts.head_commit)
    put_project(made, json=json)
    say(f"pinned {count(len(differences), 'setting')} as proposed at {facts.head_commit[:12]}")


async def project_of(runtime: Runtime, name: str) -> Project:
    """A project by name, id or path; raises NotFound."""
    from contracts.errors import NotFound
    from contracts.project import project_id_for

    found = await runtime.store.project(name) or await runtime.store.project(project_id_for(Path(name).expanduser()))
    if found is None:
        raise NotFound(f"there is no project {name}", hint="gavotte project list, or gavotte project add PATH")
    return found


def put_project(found: Project, *, json: bool) -> None:
    """A project's settings."""
    if json:
        put_json(found.model_dump(mode="json"))
        return
    settings = found.settings
    put_fields(
        [
            ("project", found.name),
            ("id", found.project_id),
            ("path", found.path),
            ("tests", " ".join(settings.test_command)),
            ("time for tests", f"{settings.test_timeout_seconds} s"),
            ("environment", found.environment),
            ("prepare", settings.prepare or ""),
            ("staging", settings.staging or ""),
            ("production", settings.production or ""),
            ("health", " ".join(settings.health)),
            ("approval", settings.approval),
            ("pinned as", short_digest(found.digest)),
            ("since", moment(found.registered_at_us)),
        ]
    )


def shown(value: Any) -> str:
    """A setting's value for a table."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
