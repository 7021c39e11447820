"""Requests of the Kafka protocol that aiokafka lacks, or has in versions without the fields needed here.

Each `Api` is one row: key and version of the request, and what its fields are called. All are versions that every
broker from 2.4 to 4 understands, so that nothing is negotiated; `Request` is what aiokafka's connections expect of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import RequestHeader_v1, ResponseHeader_v0
from aiokafka.protocol.types import Array, Boolean, Bytes, Int8, Int16, Int32, Int64, Schema, String

TEXT: Final = String("utf-8")


@dataclass(frozen=True, slots=True)
class Api:
    """One request in one version. `answer` names the fields of what comes back."""

    name: str
    key: int
    version: int
    question: Any
    answer: Any

    def decode(self, data: BytesIO) -> dict[str, Any]:
        """The answer as field name -> value; arrays of records are lists of tuples."""
        return dict(zip(self.answer.names, self.answer.decode(data), strict=True))


class Request:
    """A question with its values, in the order of the fields."""

    def __init__(self, api: Api, values: tuple[Any, ...]) -> None:
        self.api = api
        self.values = values
        self.API_KEY = api.key
        self.API_VERSION = api.version
        self.RESPONSE_TYPE = api

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Request:
        """Itself, if the broker understands it."""
        oldest, newest = versions.get(self.api.key, (0, -1))
        if not oldest <= self.api.version <= newest:
            raise IncompatibleBrokerVersion(f"the broker does not know {self.api.name} in version {self.api.version}")
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> Any:
        return RequestHeader_v1(self, correlation_id=correlation_id, client_id=client_id)

    def parse_response_header(self, data: BytesIO) -> Any:
        return ResponseHeader_v0.decode(data)

    def encode(self) -> bytes:
        encoded: bytes = self.api.question.encode(self.values)
        return encoded

    def __repr__(self) -> str:
        """Values may hold what a log must not."""
        return f"{self.api.name}(...)"


def rows(*fields: tuple[str, Any]) -> Any:
    """An array of records with these fields."""
    return Array(Schema(*fields))


# -- groups ---------------------------------------------------------------------------------------------------------------

JOIN_GROUP: Final = Api(
    "JoinGroup",
    *(11, 5),
    Schema(
        ("group", TEXT),
        ("session_timeout_ms", Int32),
        ("rebalance_timeout_ms", Int32),
        ("member", TEXT),
        ("instance", TEXT),
        ("protocol_type", TEXT),
        ("protocols", rows(("name", TEXT), ("metadata", Bytes))),
    ),
    Schema(
        ("throttle_ms", Int32),
        ("error", Int16),
        ("generation", Int32),
        ("protocol", TEXT),
        ("leader", TEXT),
        ("member", TEXT),
        ("members", rows(("member", TEXT), ("instance", TEXT), ("metadata", Bytes))),
    ),
)
SYNC_GROUP: Final = Api(
    "SyncGroup",
    *(14, 3),
    Schema(
        ("group", TEXT),
        ("generation", Int32),
        ("member", TEXT),
        ("instance", TEXT),
        ("assignments", rows(("member", TEXT), ("assignment", Bytes))),
    ),
    Schema(("throttle_ms", Int32), ("error", Int16), ("assignment", Bytes)),
)
HEARTBEAT: Final = Api(
    "Heartbeat",
    *(12, 3),
    Schema(("group", TEXT), ("generation", Int32), ("member", TEXT), ("instance", TEXT)),
    Schema(("throttle_ms", Int32), ("error", Int16)),
)
LEAVE_GROUP: Final = Api(
    "LeaveGroup",
    *(13, 3),
    Schema(("group", TEXT), ("members", rows(("member", TEXT), ("instance", TEXT)))),
    Schema(
        ("throttle_ms", Int32),
        ("error", Int16),
        ("members", rows(("member", TEXT), ("instance", TEXT), ("error", Int16))),
    ),
)
OFFSET_COMMIT: Final = Api(
    "OffsetCommit",
    *(8, 7),
    Schema(
        ("group", TEXT),
        ("generation", Int32),
        ("member", TEXT),
        ("instance", TEXT),
        (
            "topics",
            rows(
                ("topic", TEXT),
                ("partitions", rows(("partition", Int32), ("offset", Int64), ("epoch", Int32), ("metadata", TEXT))),
            ),
        ),
    ),
    Schema(
        ("throttle_ms", Int32),
        ("topics", rows(("topic", TEXT), ("partitions", rows(("partition", Int32), ("error", Int16))))),
    ),
)
OFFSET_FETCH: Final = Api(
    "OffsetFetch",
    *(9, 5),
    Schema(("group", TEXT), ("topics", rows(("topic", TEXT), ("partitions", Array(Int32))))),
    Schema(
        ("throttle_ms", Int32),
        (
            "topics",
            rows(
                ("topic", TEXT),
                (
                    "partitions",
                    rows(
                        ("partition", Int32), ("offset", Int64), ("epoch", Int32), ("metadata", TEXT), ("error", Int16)
                    ),
                ),
            ),
        ),
        ("error", Int16),
    ),
)
SUBSCRIBED: Final = Schema(("version", Int16), ("topics", Array(TEXT)), ("data", Bytes))
"""What a member says of itself when it joins, as all consumers do."""
ASSIGNED: Final = Schema(
    ("version", Int16), ("topics", rows(("topic", TEXT), ("partitions", Array(Int32)))), ("data", Bytes)
)
"""What the leader says to a member, as all consumers do: the standard tools show it."""

# -- records, topics and rights ------------------------------------------------------------------------------------------

FETCH: Final = Api(
    "Fetch",
    *(1, 4),
    Schema(
        ("replica", Int32),
        ("wait_ms", Int32),
        ("bytes_min", Int32),
        ("bytes_max", Int32),
        ("isolation", Int8),
        (
            "topics",
            rows(("topic", TEXT), ("partitions", rows(("partition", Int32), ("offset", Int64), ("bytes_max", Int32)))),
        ),
    ),
    Schema(
        ("throttle_ms", Int32),
        (
            "topics",
            rows(
                ("topic", TEXT),
                (
                    "partitions",
                    rows(
                        ("partition", Int32),
                        ("error", Int16),
                        ("end", Int64),
                        ("stable_end", Int64),
                        ("aborted", rows(("producer", Int64), ("first", Int64))),
                        ("records", Bytes),
                    ),
                ),
            ),
        ),
    ),
)
CREATE_TOPICS: Final = Api(
    "CreateTopics",
    *(19, 4),
    Schema(
        (
            "topics",
            rows(
                ("topic", TEXT),
                ("partitions", Int32),
                ("replication", Int16),
                ("assignments", rows(("partition", Int32), ("brokers", Array(Int32)))),
                ("settings", rows(("name", TEXT), ("value", TEXT))),
            ),
        ),
        ("timeout_ms", Int32),
        ("validate_only", Boolean),
    ),
    Schema(("throttle_ms", Int32), ("topics", rows(("topic", TEXT), ("error", Int16), ("message", TEXT)))),
)
DESCRIBE_CONFIGS: Final = Api(
    "DescribeConfigs",
    *(32, 1),
    Schema(
        ("resources", rows(("kind", Int8), ("name", TEXT), ("settings", Array(TEXT)))),
        ("synonyms", Boolean),
    ),
    Schema(
        ("throttle_ms", Int32),
        (
            "resources",
            rows(
                ("error", Int16),
                ("message", TEXT),
                ("kind", Int8),
                ("name", TEXT),
                (
                    "settings",
                    rows(
                        ("name", TEXT),
                        ("value", TEXT),
                        ("read_only", Boolean),
                        ("source", Int8),
                        ("sensitive", Boolean),
                        ("synonyms", rows(("name", TEXT), ("value", TEXT), ("source", Int8))),
                    ),
                ),
            ),
        ),
    ),
)
_ACL: Final = (("kind", Int8), ("name", TEXT), ("pattern", Int8))
_GRANT: Final = (("principal", TEXT), ("host", TEXT), ("operation", Int8), ("permission", Int8))
CREATE_ACLS: Final = Api(
    "CreateAcls",
    *(30, 1),
    Schema(("acls", rows(*_ACL, *_GRANT))),
    Schema(("throttle_ms", Int32), ("results", rows(("error", Int16), ("message", TEXT)))),
)
DESCRIBE_ACLS: Final = Api(
    "DescribeAcls",
    *(29, 1),
    Schema(*_ACL, *_GRANT),
    Schema(
        ("throttle_ms", Int32),
        ("error", Int16),
        ("message", TEXT),
        ("resources", rows(*_ACL, ("grants", rows(*_GRANT)))),
    ),
)
