"""The deploy role's tools: release a reviewed tree, deliver its branch. Each act has a semantic key and acts once.

The role reads no free text: environments, commits and digests are all it handles.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from agents.tools.evidence import choose_project_sandbox, project_environment
from agents.tools.releases import Health, Released, ReleaseTarget
from agents.tools.toolbox import Toolbox, tool, tool_with_runs
from contracts import ids
from contracts.errors import Refused, Unverified
from contracts.events import ApprovalGranted
from contracts.project import Project


class ReleaseRequest(BaseModel):
    """Exactly what shall go live, and where. `round` counts the times a release of this task was taken back.

    `approval_id` names the event by which a person allowed it.
    """

    environment: Literal["staging", "production"]
    commit: str
    digest: str
    round: int = 0
    approval_id: str | None = None


class ReleaseResult(BaseModel):
    """What is live now. `healthy` False means that the release was taken back."""

    path: str
    digest: str
    previous_digest: str | None = None
    healthy: bool = True
    health: str = ""
    effect_key: str = ""


class ApprovalCheck(BaseModel):
    """Which grant is to be looked at."""

    approval_id: str


class ApprovalVerdict(BaseModel):
    """Why the grant does not count; empty where it does."""

    objection: str = ""


class DeliverRequest(BaseModel):
    """Which commit becomes the branch `gavotte/<task>` of the user's repository."""

    commit: str


class Delivery(BaseModel):
    """The branch as it stands in the user's repository."""

    branch: str


class DeployTools(Toolbox):
    """Two acts on the world, each intended, done and receipted."""

    @tool
    async def check_approval(self, arguments: ApprovalCheck) -> ApprovalVerdict:
        """Say whether whoever approved may do so: with four eyes not the person who submitted the task."""
        granted: Any = (await self.recall(arguments.approval_id)).payload
        return ApprovalVerdict(objection=self._four_eyes(granted))

    @tool_with_runs
    async def release(self, arguments: ReleaseRequest) -> ReleaseResult:
        """Make a tree live in an environment, check its health, take it back where it fails."""
        project = await self.project()
        task_id = self.session.delivery.task_id
        target = ReleaseTarget(self._target(project, arguments.environment))
        if arguments.environment == "production":
            await self._check_approval(project, arguments)
        key = f"release:{task_id}:{arguments.environment}:{arguments.digest}"
        if arguments.round:
            key = f"{key}:{arguments.round}"

        async def do(token: int) -> dict[str, Any]:
            released = await target.release(
                task_id=task_id,
                effect_id=key,
                digest=arguments.digest,
                token=token,
                time_us=ids.now_us(),
                export=lambda folder: self.resources.git.export(arguments.commit, folder),
                health=(lambda folder: self._health(project, folder)) if project.settings.health else None,
            )
            return _receipt(released)

        async def asked() -> dict[str, Any] | None:
            return None  # the target answers a repeated key from its own ledger, so asking is acting

        receipt = await self.session.act(key, arguments.environment, arguments.model_dump(), do, asked)
        return ReleaseResult(
            path=str(target.path),
            digest=arguments.digest,
            previous_digest=receipt["previous_digest"],
            healthy=receipt["healthy"],
            health=receipt["health"],
            effect_key=key,
        )

    @tool
    async def deliver(self, arguments: DeliverRequest) -> Delivery:
        """Add the task's commit to the user's repository as one new branch."""
        project = await self.project()
        task_id = self.session.delivery.task_id
        key = f"deliver:{task_id}:{arguments.commit}"

        async def do(token: int) -> dict[str, Any]:
            del token
            delivered = await self.resources.git.deliver(Path(project.path), task_id, arguments.commit)
            return dataclasses.asdict(delivered)

        async def asked() -> dict[str, Any] | None:
            return None  # the ref is compare-and-set: where it already holds the commit nothing is done

        receipt = await self.session.act(key, "deliver", arguments.model_dump(), do, asked)
        return Delivery(branch=str(receipt["ref"]).removeprefix("refs/heads/"))

    # -- inside

    async def _check_approval(self, project: Project, wanted: ReleaseRequest) -> None:
        """That an operator signed exactly this digest: read from the event, whatever the folded state says."""
        if wanted.approval_id is None:
            if project.settings.approval == "always":
                raise Unverified("nobody approved it, and the project's policy is always")
            return
        granted = await self.recall(wanted.approval_id)
        payload: Any = granted.payload
        if granted.type != "ApprovalGranted" or payload.digest != wanted.digest:
            raise Unverified(f"{granted.type} {granted.id} does not allow {wanted.digest}")
        self.resources.keyring.verify(granted, granted.envelope.time_us)
        if objection := self._four_eyes(payload):
            raise Refused(objection, hint="another operator approves it")

    def _four_eyes(self, granted: Any) -> str:
        return two_of_four(granted, self.session.state.submitter) if self.resources.four_eyes else ""

    def _target(self, project: Project, environment: str) -> Path:
        configured = project.settings.staging if environment == "staging" else project.settings.production
        return Path(configured) if configured else self.resources.releases / project.name / environment

    async def _health(self, project: Project, folder: Path) -> Health:
        sandbox = await choose_project_sandbox(self.resources)
        ran = await sandbox.run(
            project.settings.health,
            tree=folder,
            environment=project_environment(project),
            limits=self.resources.limits_of(project),
        )
        words = json.dumps(list(project.settings.health))
        if ran.exit_code == 0 and not ran.timed_out:
            return Health(healthy=True, summary=f"{words} passed")
        return Health(healthy=False, summary=f"{words} exited {ran.exit_code}: {ran.output[-400:].strip()}")


def two_of_four(granted: ApprovalGranted, submitter: str) -> str:
    """What four eyes have against this grant, empty where nothing: whoever submitted is not who approves."""
    if granted.operator not in {"", submitter} and not granted.self_approved:
        return ""
    return (
        f"four eyes: {granted.operator or 'somebody unnamed'} approved what {submitter or 'somebody unnamed'} submitted"
    )


def _receipt(released: Released) -> dict[str, Any]:
    return {
        "previous_digest": released.line.digest if released.rolled_back else released.line.previous_digest,
        "healthy": not released.rolled_back,
        "health": released.health.summary,
    }
