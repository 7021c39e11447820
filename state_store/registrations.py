"""What operators and agents register: projects with every version of their settings, further agents with their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping

from contracts.errors import Conflict
from contracts.project import Project
from contracts.registry import FURTHER_ID_FIRST, Schema, fingerprint
from contracts.topology import Agent
from state_store.port import RegisteredAgent
from state_store.transaction import Transaction


async def put_project(tx: Transaction, project: Project) -> None:
    """Add a version of the project, unless it is the newest already. Raises Conflict where its name is another's."""
    named = await newest_project(tx, project.name)
    if named is not None and named.name == project.name and named.project_id != project.project_id:
        raise Conflict(f"a project is called {project.name} already: {named.path}", hint="give it another --name")
    if await newest_project(tx, project.project_id) == project:
        return
    row = (project.project_id, project.name, project.path, project.digest, project.model_dump_json())
    await tx.run("project_put", row)


async def newest_project(tx: Transaction, wanted: str) -> Project | None:
    """By id, name or path."""
    row = await tx.row("project_newest", {"wanted": wanted})
    return None if row is None else Project.model_validate_json(row[0])


async def pinned_project(tx: Transaction, project_id: str, digest: str) -> Project | None:
    """The settings that a task pinned."""
    row = await tx.row("project_pinned", (project_id, digest))
    return None if row is None else Project.model_validate_json(row[0])


async def projects(tx: Transaction) -> list[Project]:
    """The newest version of each, by name."""
    return [Project.model_validate_json(text) for (text,) in await tx.rows("projects_newest")]


async def put_agent(tx: Transaction, agent: Agent, schemas: Mapping[tuple[str, int], str]) -> RegisteredAgent:
    """Record the row, and give ids to schemas that are new. Raises Conflict where an event version is defined otherwise."""
    await tx.run("agent_put", (agent.role, json.dumps(agent.consumes), json.dumps(agent.emits)))
    for (type_, version), text in sorted(schemas.items()):
        known = await tx.row("schema_of", (type_, version))
        print_ = fingerprint(text)
        if known is None:
            new = {"role": agent.role, "type": type_, "version": version, "text": text, "fingerprint": print_}
            await tx.run("schema_put", new | {"first": FURTHER_ID_FIRST})
        elif known[2] != print_ or known[1] != agent.role:
            raise Conflict(
                f"{type_} v{version} was registered otherwise by {known[1]}",
                hint="released schemas do not change: raise the version, or choose another name",
            )
    return next(found for found in await agents(tx) if found.agent.role == agent.role)


async def agents(tx: Transaction) -> list[RegisteredAgent]:
    """All further agents by role, each with its schemas."""
    schemas: dict[str, list[Schema]] = {}
    for role, *columns in await tx.rows("schemas_all"):
        schemas.setdefault(role, []).append(Schema(*columns))
    return [
        RegisteredAgent(
            Agent(role, consumes=tuple(json.loads(consumes)), emits=tuple(json.loads(emits))),
            tuple(schemas.get(role, ())),
        )
        for role, consumes, emits in await tx.rows("agents_all")
    ]
