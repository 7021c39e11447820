"""Who may do what in the database: one login for each role, with the rights that its work takes and no others.

Events can only be read and added, and each login adds the types that the topology lets its role say: a trigger looks
them up in `writers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from contracts.topology import CORE_AGENTS, OPERATOR_EVENTS, OPERATOR_PRODUCER, TASK_EVENTS, Agent
from state_store.postgres.connections import explained, shown
from state_store.postgres.migrations import connect

PREFIX: Final = "gavotte_"
_ROWS_OF_WORK: Final = ("tasks", "deliveries", "leases", "steps", "effects", "partition_marks", "sweep_marks")
RIGHTS_OF_AGENTS: Final = {
    "INSERT": ("events", "bodies", *_ROWS_OF_WORK),
    "UPDATE": (
        *_ROWS_OF_WORK,
        "bodies (stored_at_us)",
        "kills (lifted_by)",  # a lift that comes over the bus before the store has it
    ),
    "DELETE": ("leases", "effects", "partition_marks"),
}
"""What a worker does. Deleting an effect is the withdrawal of an intent that has no receipt."""
RIGHTS_OF_FURTHER_AGENTS: Final = {"INSERT": ("agents", "schemas"), "UPDATE": ("agents",)}
"""An agent that registers itself needs these besides."""
RIGHTS_OF_OPERATORS: Final = {
    "INSERT": ("events", "bodies", "tasks", "kills", "projects"),
    "UPDATE": ("tasks", "deliveries", "kills", "steps", "bodies (stored_at_us)"),
    "DELETE": ("tasks", "bodies"),
}
"""Words of people, approvals, kills, redrives; views rebuilt, old words and bodies let go."""


@dataclass(frozen=True, slots=True)
class Login:
    """A role of the dance as the database knows it: its name there, its rights, the types that it may write."""

    role: str
    name: str
    rights: Mapping[str, Sequence[str]]
    types: tuple[str, ...]


def logins(further: Sequence[Agent] = (), names: Mapping[str, str] | None = None) -> list[Login]:
    """All roles, the operator last; `names` says how a role is called there, if not `gavotte_ROLE`."""
    called = names or {}
    found = []
    for agent in (*CORE_AGENTS, *further):
        own = RIGHTS_OF_AGENTS if agent.core else _joined(RIGHTS_OF_AGENTS, RIGHTS_OF_FURTHER_AGENTS)
        found.append(Login(agent.role, called.get(agent.role, PREFIX + agent.role), own, writable(agent)))
    operator = called.get(OPERATOR_PRODUCER, PREFIX + OPERATOR_PRODUCER)
    types = (*TASK_EVENTS, *OPERATOR_EVENTS)
    return [*found, Login(OPERATOR_PRODUCER, operator, RIGHTS_OF_OPERATORS, types)]


def writable(agent: Agent) -> tuple[str, ...]:
    """What it says itself, and what it may hear from the bus before the store has it."""
    heard = [type_ for type_ in agent.consumes if type_ in TASK_EVENTS or type_ in OPERATOR_EVENTS]
    return tuple(dict.fromkeys((*agent.emits, *heard)))


def statements(login: Login, password: str = "", schema: str = "public") -> list[str]:
    """What gives a login exactly its rights; safe to repeat. Without a password an existing one is left as it is."""
    schema = _quoted(schema)
    name, text = _quoted(login.name), login.name.replace("'", "''")
    secret = f" PASSWORD '{password.replace(chr(39), chr(39) * 2)}'" if password else ""
    exists = f"SELECT FROM pg_roles WHERE rolname = '{text}'"
    made = [f"DO $do$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {name} LOGIN; END IF; END $do$"]
    if password:
        made.append(f"ALTER ROLE {name}{secret}")
    made += [
        f"GRANT USAGE ON SCHEMA {schema} TO {name}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}",
    ]
    for right, tables in login.rights.items():
        made += [_grant(right, table, name) for table in tables]
    made.append(f"DELETE FROM writers WHERE db_role = '{text}'")  # noqa: S608  # names are quoted above
    rows = ", ".join(f"('{text}', '{type_}')" for type_ in login.types)
    made.append(f"INSERT INTO writers (db_role, type) VALUES {rows}")  # noqa: S608  # likewise
    return made


async def apply(url: str, wanted: Sequence[Login], passwords: Mapping[str, str]) -> None:
    """Give every login its rights, all or none; `passwords` by role. Raises Refused, Unavailable or Usage."""
    connection: Any = await connect(url)
    try:
        schema = await connection.fetchval("SELECT current_schema()")
        async with connection.transaction():
            for login in wanted:
                for statement in statements(login, passwords.get(login.role, ""), schema):
                    await connection.execute(statement)
    except Exception as error:
        raise explained(error, shown(url)) from error
    finally:
        await connection.close(timeout=5)


def _grant(right: str, table: str, name: str) -> str:
    plain, _, columns = table.partition(" ")
    return f"GRANT {right} {columns} ON {plain} TO {name}" if columns else f"GRANT {right} ON {plain} TO {name}"


def _joined(one: Mapping[str, Sequence[str]], other: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {right: (*one.get(right, ()), *other.get(right, ())) for right in {**one, **other}}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
