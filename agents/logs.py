"""Lines that a process writes about itself: text for people, or one JSON object a line for whoever collects them."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from contracts.harmless import harmless, harmless_lines
from contracts.redaction import redacted

if TYPE_CHECKING:
    from agents.settings import Settings

TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def start_logging(settings: Settings, **everywhere: str) -> None:
    """Log as the settings say; `everywhere` (role, instance) stands in each JSON line."""
    handler = logging.StreamHandler(sys.stdout if settings.log.stream == "stdout" else sys.stderr)
    handler.setFormatter(JsonLines(everywhere) if settings.log.format == "json" else TextLines(TEXT))
    logging.basicConfig(level=settings.log.level.upper(), handlers=[handler])
    for chatty in ("httpcore2", "httpx2"):  # each request would be a line
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


class TextLines(logging.Formatter):
    """A log record for people: no secret of this process, and nothing that steers a terminal or forges a line."""

    def format(self, record: logging.LogRecord) -> str:
        said = logging.makeLogRecord({**record.__dict__, "msg": harmless(record.getMessage()), "args": None})
        text = super().format(said)
        return redacted(harmless_lines(text))


class JsonLines(logging.Formatter):
    """A log record as one line of JSON, with the ids of the delivery at work: task, event, correlation and trace."""

    def __init__(self, everywhere: dict[str, str]) -> None:
        super().__init__()
        self._everywhere = everywhere

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._everywhere,
            **at_work(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redacted(json.dumps(line, ensure_ascii=True, default=str))


def at_work() -> dict[str, str]:
    """The ids of the delivery on whose path this code is; empty outside of one."""
    from agents.observed import AT_WORK

    passage = AT_WORK.get()
    if passage is None or (envelope := passage.work.envelope) is None:
        return {}
    return {
        "task_id": envelope.task_id,
        "event_id": envelope.id,
        "event_type": envelope.type,
        "correlation_id": envelope.correlation_id,
        "trace_id": envelope.traceparent[3:35],
        "span_id": envelope.traceparent[36:52],
    }
