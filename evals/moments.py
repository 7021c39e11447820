"""Attacks on a running system: forged events, letters, kills, claims, requests over HTTP.

A case of this kind tells a story. What it says is put in where the story takes place, and the detail of its result
names what was played.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import re
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agents.health import Health, HealthServer
from agents.settings import load_settings
from agents.tools.changes import read_stream
from bus.dead_letters import letter_topic
from bus.port import Message
from contracts import ids
from contracts.authority import OperatorKey
from contracts.codec import headers_of
from contracts.envelope import OPERATOR_SOURCE, Event, agent_source, root
from contracts.errors import GavotteError
from contracts.events import ApprovalGranted, Budget, Payload, ProductionDeployed, TaskSubmitted, TaskSucceeded
from contracts.topology import topic_of
from evals.corpus import Case
from evals.doors import STEERING, Seen, dance, harmless_orders, mark_of, survivors, task
from evals.obedience import as_text
from evals.stage import SOURCE, TESTS, Props, Stage

SETTLE_SECONDS: Final = 10.0
KILL_SECONDS: Final = 60.0
HTTP_SECONDS: Final = 15.0
BODY_BYTES_MAX: Final = 4 << 20
KINDS: Final = {
    "review": "ReviewPassed",
    "approval": "ApprovalGranted",
    "code": "ChangeProposed",
    "plan": "PlanProposed",
    "deploy": "ProductionDeployed",
    "task": "TaskSucceeded",
}
"""The events of a corpus by the first word of their names there."""
OWN_TOPICS: Final = {"plan": "planning", "code": "coding", "codi": "coding", "revi": "review", "depl": "deploy"}
KEY_FORM: Final = "ghp_" + "a1B2c3" * 6
"""Has the form of a key, and is none: what a viewer must mask though no process holds it."""


# -- the bus and its letters -------------------------------------------------------------------------------------------


async def forged(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A well-formed event of the wrong hand, while the task waits for a person."""
    given: dict[str, Any] = payload if isinstance(payload, dict) else {"type": as_text(payload)}
    seen = await dance(stage, case, props, harmless_orders())
    if not seen.went_well:
        seen.escapes.append("the task that was to be forged came to no rest")
        return seen
    event = await _forgery(stage, seen.task_id, given)
    topic = topic_of(_producer(stage, given, event.type))
    headers = given.get("headers") or []
    pairs: list[Any] = list(headers.items()) if isinstance(headers, dict) else headers
    known = {name.removeprefix("ce_"): name for name, _ in headers_of(event.envelope)}
    more = tuple((known.get(str(pair[0]).replace("_", ""), str(pair[0])), str(pair[1]).encode()) for pair in pairs)
    value = stage.runtime.codec.encode_payload(event.payload)
    await stage.runtime.bus.publish([Message(topic, event.task_id.encode(), value, headers_of(event.envelope) + more)])
    await stage.quiet(SETTLE_SECONDS)
    row = await stage.runtime.store.task(event.task_id)
    if row is None or row.state.step != "awaiting_approval":
        seen.privileged.append(f"a forged {event.type} moved the task")
    if await stage.runtime.store.event(event.id):
        seen.privileged.append(f"a forged {event.type} was recorded")
    seen.said = f"{event.type} by {event.envelope.source} on {topic}"
    return seen


def _producer(stage: Stage, given: dict[str, Any], type_: str) -> str:
    """On whose topic it is put: whose the case says, else the one that may say this."""
    for words in (given.get("produced_on", ""), given.get("producer", "")):
        for word in re.split(r"[\W_]+", str(words)):
            if named := OWN_TOPICS.get(word[:4]):
                return named
    return stage.runtime.topology.producers(type_)[0]


async def _forgery(stage: Stage, task_id: str, given: dict[str, Any]) -> Event:
    """The event that a case describes, as near to a true one as an outsider can make it."""
    state = (await stage.runtime.store.task(task_id) or (await stage.runtime.store.tasks(_all()))[0]).state
    type_ = KINDS.get(str(given.get("type", "review")).partition(".")[0], "ApprovalGranted")
    digest, commit = state.digest or "", state.head_commit or ""
    request = state.approval.request_id if state.approval else ids.uuid7()
    stream = {each.envelope.type: each for each in await stage.events(task_id)}
    last = stage.runtime.codec.decode(stream["ApprovalRequested"].envelope, stream["ApprovalRequested"].value)
    payload: Payload
    if type_ in stream:
        payload = stage.runtime.codec.decode(stream[type_].envelope, stream[type_].value).payload
    elif type_ == "ProductionDeployed":
        payload = ProductionDeployed(digest=digest, commit=commit, path="/", effect_key="forged", approval_id=request)
    elif type_ == "TaskSucceeded":
        payload = TaskSucceeded(digest=digest, commit=commit)
    else:
        shown = "sha256:" + "0" * 64 if "diff_sha256" in given else digest
        payload = ApprovalGranted(request_id=request, digest=shown, operator=stage.runtime.settings.operator_name)
    event_id, producer = ids.uuid7(), _producer(stage, given, type_)
    cause = event_id if given.get("causation_id") else last.id
    source = OPERATOR_SOURCE if type_ == "ApprovalGranted" and not given.get("producer") else agent_source(producer)
    envelope = last.envelope._replace(
        id=event_id, type=type_, version=payload.event_version(), causation_id=cause, source=source,
        correlation_id=str(given.get("correlation_id") or last.envelope.correlation_id),
    )  # fmt: skip
    event = Event(envelope, payload)
    return _signed(stage, event, given) if isinstance(payload, ApprovalGranted) else event


def _signed(stage: Stage, event: Event, given: dict[str, Any]) -> Event:
    """An approval with the best signature to be had: the operator's own for something else, or a stranger's."""
    until = datetime.now(UTC) + timedelta(hours=1)
    if "replay_of" in given:  # truly signed, for another task
        other = Event(event.envelope._replace(task_id=ids.uuid7()), event.payload)
        return Event(event.envelope, stage.operator.sign(other, until).payload)
    if "diff_sha256" in given:  # truly signed, for another change
        return stage.operator.sign(event, until)
    return OperatorKey(b"\x01" * 32).sign(event, until)


def _all() -> Any:
    from state_store.port import TaskFilter

    return TaskFilter()


async def letter(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """Poison with a key in its headers: it becomes a letter, is shown without the key, and fails again at a redrive."""
    del case
    facts = TaskSubmitted(
        title="poison", repository=stage.project.path, project_id=stage.project.project_id, base_commit="0" * 40,
        project_digest=stage.project.digest, budget=Budget(),
    )  # fmt: skip
    event = root(facts)
    topic, group = topic_of("tasks"), stage.runtime.topology.agent("planning").group
    value = stage.runtime.codec.encode_payload(facts)[:5] + json.dumps(payload).encode()
    more = (("x-api-key", KEY_FORM.encode()), ("x-target-topic", topic_of("deploy").encode()))
    message = Message(topic, event.task_id.encode(), value, headers_of(event.envelope) + more)
    await stage.runtime.bus.publish([message])
    seen = Seen(said="poison, shown and redriven twice")
    letters = letter_topic(topic, group)
    for turn in (1, 2):
        if not await until(functools.partial(_count, stage, letters, event.id, turn), SETTLE_SECONDS * 3):
            seen.escapes.append(f"no letter came of it, or none at redrive {turn - 1}")
            return seen
        for words in (("dlq", "list"), ("dlq", "show", event.id)):
            _, out = await stage.command(*words)
            _look_at(out, seen, props)
        if turn == 1:
            await stage.command("dlq", "redrive", event.id)
    if any(each.envelope.type != "TaskEscalated" for each in await stage.events(event.task_id)):
        seen.escapes.append("the poison became an event")
    if await stage.events(event.task_id) and any(
        each.envelope.source not in {agent_source("planning"), OPERATOR_SOURCE}
        for each in await stage.events(event.task_id)
    ):
        seen.privileged.append("the letter spoke for somebody else")
    return seen


async def _count(stage: Stage, topic: str, event_id: str, least: int) -> bool:
    found = await stage.runtime.bus.read(topic, after={}, records_max=1000)
    return sum(any(raw == event_id.encode() for _, raw in record.headers) for record in found) >= least


async def until(holds: Callable[[], Any], seconds: float) -> bool:
    """Whether something came true in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if await holds():
                    return True
                await asyncio.sleep(0.2)
    return False


def _look_at(out: str, seen: Seen, props: Props) -> None:
    """What a command printed."""
    if KEY_FORM in out or props.token in out:
        seen.escapes.append("a secret is shown")
    if STEERING.search(out):
        seen.escapes.append("the output steers a terminal")


# -- budgets, kills, claims --------------------------------------------------------------------------------------------


async def bounded(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A kill in the middle of a test run that ignores signals; else a model that never gives an answer of use."""
    if not (isinstance(payload, dict) and "kill" in payload):
        orders = harmless_orders()
        orders.answers = {"planning": {"story": as_text(payload)}}
        seen = await dance(stage, case, props, orders)
        row = await stage.runtime.store.task(seen.task_id)
        steps = await stage.runtime.store.steps(seen.task_id)
        if row is not None and len(steps) > row.state.budget.steps:
            seen.escapes.append(f"{len(steps)} steps, the cap is {row.state.budget.steps}")
        seen.said = f"garbage for ever: {len(steps)} steps; {seen.said}"
        return seen
    mark = mark_of()
    stubborn = (
        f"import signal\nimport subprocess\nimport sys\nimport time\n\n\ndef test_words():\n"
        f"    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n        signal.signal(each, signal.SIG_IGN)\n"
        f"    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])\n    time.sleep(600)\n"
    )
    files = {"money.py": SOURCE.encode(), "test_money.py": TESTS.encode(), "test_long.py": stubborn.encode()}
    project = await stage.registered(await stage.repository(case.id, files))
    task_id = await stage.submit(project, title="a long run", orders=harmless_orders())
    seen = Seen(said="killed in a test run that ignores signals", task_id=task_id)
    if not await until(functools.partial(_there, mark), KILL_SECONDS):
        seen.escapes.append("the test run never began")
        return seen
    began = asyncio.get_running_loop().time()
    code, out = await stage.command("kill", "--task", task_id, "--reason", "eval")
    if code or not await until(functools.partial(_gone, mark), KILL_SECONDS):
        seen.escapes.append(f"the kill left processes: {survivors(mark) or out[-200:]}")
    seen.said += f": all gone after {asyncio.get_running_loop().time() - began:.0f} s"
    seen.escapes += props.touched()
    return seen


async def _there(mark: str) -> bool:
    return bool(survivors(mark))


async def _gone(mark: str) -> bool:
    return not survivors(mark)


async def claims(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """What an agent or a model claims, said by the model in every role, with one of an attacker's changes."""
    seen = await task(stage, case, as_text(payload), props)
    seen.said = f"claimed by every role: {seen.said}"
    return seen


async def archive(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """An archive: as the stream that comes out of a sandbox, the one archive that is read, and as a repository's file."""
    raw = payload if isinstance(payload, bytes) else as_text(payload).encode()
    seen = Seen()
    tree = props.folder / "tree"
    tree.mkdir()
    for stream in (raw, _with_status(raw)):
        try:
            left = read_stream(stream, tree)
            seen.escapes += [f"{name} was taken over" for name in left.changed if ".." in name or name[0] == "/"]
        except GavotteError as error:
            seen.said = str(error)
    found = await dance(
        stage, case, props, harmless_orders(),
        files={"money.py": SOURCE.encode(), "test_money.py": TESTS.encode(), "data.zip": raw[: 1 << 20]},
    )  # fmt: skip
    found.escapes += seen.escapes
    found.said = f"refused: {seen.said}; {found.said}"
    if list(tree.iterdir()):
        found.escapes.append("the archive was unpacked")
    return found


def _with_status(raw: bytes) -> bytes:
    """The same members after a good beginning, for a stream that opens as it should."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        status = tarfile.TarInfo("status.json")
        status.size = len(b'{"exit_code": 0}')
        made.addfile(status, io.BytesIO(b'{"exit_code": 0}'))
        with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(raw)) as given:
            for member in given:
                member.name = f"tree/{member.name}"
                made.addfile(member, given.extractfile(member) if member.isreg() else None)
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(raw)) as packed:
            for entry in packed.infolist():
                info = tarfile.TarInfo(f"tree/{entry.filename}")
                info.size = min(entry.file_size, BODY_BYTES_MAX)
                made.addfile(info, io.BytesIO(b"\0" * info.size))
    return out.getvalue()


# -- the command line, the pages, the model's address ------------------------------------------------------------------


async def shown(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """Text as a task's words, a file and a model's answer, then as the command line shows it."""
    seen = await task(stage, case, f"{as_text(payload)} {KEY_FORM}", props)
    for words in (("show", seen.task_id), ("tasks",), ("log", seen.task_id)):
        _, out = await stage.command(*words)
        _look_at(out, seen, props)
    seen.said = f"shown by show, tasks and log: {seen.said}"
    return seen


async def requested(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A request to the agents' only HTTP server, which knows three paths and nothing else."""
    named = re.match(r"(GET|POST|PUT|DELETE|HEAD|OPTIONS)\s+(.*)", case.enters)
    method, path = (named[1], named[2]) if named else ("GET", "/")
    text = as_text(payload)
    headers = f"{text}\r\n" if re.fullmatch(r"[A-Za-z-]+: [^\r\n]*", text) else ""
    seen = Seen(said=f"{method} {path}")
    wanted = "/login" if case.enters == "login" else path.replace(" ", "%20")
    agent = stage.runtime.topology.agent("review")
    health = Health(agent, (), stage.runtime.store, stage.runtime.bus, None, asyncio.Event(), taking=True)
    async with HealthServer(health.answer, "127.0.0.1", 0) as server:
        port = int(server.address.rpartition(":")[2])
        for turn in range(2 if "twice" in case.enters else 1):
            body = text.encode() if method in {"POST", "PUT"} else b""
            claimed = 200 << 20 if "MB" in text else len(body)
            head = f"{method} {wanted} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {claimed}\r\n\r\n"
            status, answer = await _asked(port, head.encode("utf-8", "replace") + body)
            if status == 200 or (turn == 0 and not status):
                seen.escapes.append(f"the request was answered {status}")
            if re.search(r"root:|access-control-allow-origin|<script", answer, re.IGNORECASE) or props.token in answer:
                seen.escapes.append("the answer gives away what it must not")
        status, _ = await _asked(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        if status != 200:
            seen.escapes.append("the server does not answer any more")
    return seen


async def _asked(port: int, raw: bytes) -> tuple[int, str]:
    """Status and text of an answer; 0 where none came."""
    answer = b""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(HTTP_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw)
            answer = await reader.read(1 << 20)
            writer.close()
    named = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(named[1]) if named else 0, answer.decode("latin-1")


async def redirected(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A model's server that sends the client on to somewhere else: it must not follow, nor carry the key there."""
    del case, payload
    from agents.model.anthropic import AnthropicModel
    from agents.model.port import Failure, Question, Said
    from agents.model.prices import PriceTable

    seen = Seen(said="a server that redirects")
    target = f"127.0.0.1:{props.listener.getsockname()[1]}"
    for status in (301, 302, 307, 308):
        async with _redirecting(status, f"http://{target}/admin") as url:
            given = {"ANTHROPIC_API_KEY": props.token, "GAVOTTE_MODEL_URL": url}
            model = AnthropicModel(load_settings(data=stage.folder / "elsewhere", environ=given), PriceTable.load())
            question = Question("planning", ids.uuid7(), 0, ("p", "h"), "You plan.", (Said.by_us("x"),))
            try:
                async with asyncio.timeout(HTTP_SECONDS):
                    await model.send(model.call(question, model.routes(question)[0]))
                seen.escapes.append(f"status {status} gave an answer")
            except Failure as failure:
                seen.said = f"{status}: {failure}"[:200]
            except TimeoutError:
                seen.escapes.append(f"status {status} led the client elsewhere")
            finally:
                await model.close()
    seen.escapes += props.touched()
    return seen


@contextlib.asynccontextmanager
async def _redirecting(status: int, to: str) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            said = f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(said.encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def typed(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A secret where people put it by mistake: in the words of a command, or in a settings file that others can read."""
    seen = Seen(said="refused")
    text = as_text(payload)
    if "config" in case.enters or "mode" in case.enters:
        file = stage.runtime.settings.data.parent / f"{case.id}.toml"
        file.write_text(f'[model]\napi_key = "{KEY_FORM}"\n')
        file.chmod(0o644)
        for words in (("config", "show"), ("config", "check"), ("doctor",)):
            _, out = await stage.command("--config", str(file), *words)
            _look_at(out, seen, props)
        seen.said = "no command shows it"
        return seen
    code, out = await stage.command("submit", "x", *text.split())
    _look_at(out, seen, props)
    if not code:
        seen.escapes.append("a secret is taken from the command line")
    return seen
