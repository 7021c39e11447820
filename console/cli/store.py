"""`store`: the tables of a PostgreSQL database, whether they are those of this build, and who may do what in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import Call, Json, command
from console.cli.machine import put_findings
from console.cli.output import put, put_json
from console.cli.topics import Also, Users, dancers

if TYPE_CHECKING:
    from agents.settings import Settings
    from state_store.postgres.grants import Login

store = typer.Typer(help="The store in a PostgreSQL database.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(store, name="store")
    command(store)(migrate)
    command(store)(check)
    command(store)(grants)


async def migrate(call: Call, json: Json = False) -> None:
    """Bring the tables to this build, as the owner; safe to repeat, and what is recorded stays."""
    from state_store.postgres.migrations import migrate as run

    done = await run(url_of(call.settings, owner=True))
    if json:
        put_json({"applied": [f"{migration.number:04d}" for migration in done]})
        return
    for migration in done:
        put(f"applied {migration.number:04d} {migration.name}")
    put("the tables are those of this build" + ("" if done else " already"))


async def check(call: Call, json: Json = False) -> int:
    """Compare server, tables and rights with what this build needs; exit 1 where something is missing."""
    from console.doctor import Finding
    from state_store.postgres.examination import examine

    found = await examine(url_of(call.settings))
    return put_findings([Finding(one.name, one.verdict, one.said, one.hint) for one in found], json=json)


async def grants(
    call: Call,
    apply: Annotated[bool, typer.Option("--apply", help="Run them, as the owner, instead of printing them.")] = False,
    user: Users = None,
    also: Also = None,
    passwords: Annotated[
        Path | None,
        typer.Option("--passwords", metavar="DIR", help="A folder with a file for each role that holds its password."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the statements that make a login for each role, with the rights that its work takes and no others."""
    from state_store.postgres.grants import apply as run
    from state_store.postgres.grants import statements

    wanted = needed(also, user)
    secrets = read_passwords(passwords, [login.role for login in wanted])
    if apply:
        await run(url_of(call.settings, owner=True), wanted, secrets)
    if json:
        put_json([{"role": login.role, "login": login.name, "types": login.types} for login in wanted])
        return
    for login in wanted:
        if apply:
            put(f"{login.name} may write {', '.join(login.types)}")
            continue
        put(f"-- {login.role}")
        for statement in statements(login, secrets.get(login.role, "")):
            put(f"{statement};")


def url_of(settings: Settings, *, owner: bool = False) -> str:
    """The database of the settings; Usage where they name a file."""
    from agents.record import postgres_url
    from contracts.errors import Usage

    if settings.store.backend != "postgres":
        raise Usage("the store is a file, which needs no migrations", hint="set store.backend = postgres and store.url")
    return postgres_url(settings, owner=owner)


def needed(also: list[Path] | None, user: list[str] | None) -> list[Login]:
    """The logins of all roles, under the names that were given."""
    from contracts.errors import Usage
    from state_store.postgres.grants import logins

    further = [agent for agent in dancers(also).agents if not agent.core]
    pairs = [text.partition("=") for text in user or ()]
    known = {login.role for login in logins(further)}
    for role, _, name in pairs:
        if role not in known or not name:
            raise Usage(f"--user {role}={name} names no role", hint=f"ROLE=NAME with one of {', '.join(sorted(known))}")
    return logins(further, {role: name for role, _, name in pairs})


def read_passwords(folder: Path | None, roles: list[str]) -> dict[str, str]:
    """Role -> password, of the roles that have a file in the folder."""
    from contracts.errors import Usage

    if folder is None:
        return {}
    if not folder.is_dir():
        raise Usage(f"there is no folder {folder}", hint="--passwords takes a folder with files named after roles")
    return {role: (folder / role).read_text("utf-8").strip() for role in roles if (folder / role).is_file()}
