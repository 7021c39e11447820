"""What went wrong with Kafka, in the words of the house: who is at fault, and what to do.

aiokafka tells the reason of a failed connection to its logger alone. So this package listens there (`heard`): the
last reason goes into the error, and of lines that come again and again one in ten seconds is passed on.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from typing import Final

from aiokafka import errors

from bus.kafka.cluster import Cluster
from contracts.errors import GavotteError, Refused, TooLarge, Unavailable

log = logging.getLogger("bus.kafka")

REPEAT_SECONDS: Final = 10.0
HEARD_SECONDS: Final = 60.0

TOPICS_HINT: Final = "gavotte topics create, by somebody who may"
ACLS_HINT: Final = "gavotte acls print shows what each role needs; gavotte acls apply grants it"


class Listener(logging.Handler):
    """Stands in for the handlers of aiokafka's logger."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: BaseException | None = None
        """Why a connection could not be made, the last time one could not."""
        self._heard_at = float("-inf")
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        for value in record.args if isinstance(record.args, tuple) else ():
            if isinstance(value, BaseException):
                self.reason, self._heard_at = value, now
        line = str(record.msg)
        if now - self._said.get(line, float("-inf")) >= REPEAT_SECONDS:
            self._said[line] = now
            # what matters is raised, and said where it is caught
            level = logging.INFO if record.levelno > logging.INFO else logging.DEBUG
            log.log(level, "aiokafka: %s", record.getMessage())

    def recent(self) -> BaseException | None:
        """The last reason, if it is not an old story."""
        return self.reason if time.monotonic() - self._heard_at < HEARD_SECONDS else None


def listen() -> Listener:
    """Take over aiokafka's logger; calling it again changes nothing."""
    theirs = logging.getLogger("aiokafka")
    for handler in theirs.handlers:
        if isinstance(handler, Listener):
            return handler
    listener = Listener()
    theirs.addHandler(listener)
    theirs.setLevel(logging.INFO)
    theirs.propagate = False
    return listener


heard: Final = listen()


def explained(error: BaseException, cluster: Cluster, doing: str) -> GavotteError:
    """The error as one of ours. `doing` completes "while ..."; the cause is named as far as it is known."""
    if isinstance(error, GavotteError):
        return error
    found = _refused(error, cluster, doing) or _unreachable(error, cluster)
    return found or Unavailable(f"Kafka at {cluster.servers} did not serve {doing}: {_said(error)}")


def of_code(code: int, cluster: Cluster, doing: str, message: str | None = None) -> GavotteError:
    """An error code of an answer as one of ours."""
    known = errors.for_code(code)
    return explained(known(message) if message else known(), cluster, doing)


def _refused(error: BaseException, cluster: Cluster, doing: str) -> GavotteError | None:
    """What no waiting mends."""
    who = f"user {cluster.user}" if cluster.user else "this client"
    match error:
        case errors.TopicAuthorizationFailedError() | errors.GroupAuthorizationFailedError():
            return Refused(f"Kafka refuses {doing} to {who}: no ACL allows it", hint=ACLS_HINT, code="kafka_acl")
        case errors.ClusterAuthorizationFailedError():
            return Refused(f"Kafka refuses {doing} to {who}: that takes rights on the cluster", code="kafka_acl")
        case errors.SecurityDisabled():
            return Refused(f"these brokers know no rights: {doing}", hint="authorizer.class.name is not set there")
        case errors.UnknownTopicOrPartitionError():
            return Unavailable(f"a topic for {doing} is missing in Kafka", hint=TOPICS_HINT, code="kafka_topic")
        case errors.MessageSizeTooLargeError() | errors.RecordListTooLargeError():
            return TooLarge(f"Kafka refuses a record for its size: {doing}", hint="max.message.bytes of the topic")
        case errors.UnsupportedCodecError():
            hint = "set compression.type=uncompressed on the topic: the brokers then store what everybody reads"
            return Refused(f"a record is compressed in a way that is not known here: {_said(error)}", hint=hint)
        case errors.IncompatibleBrokerVersion() | errors.UnsupportedVersionError():
            return Refused(f"these brokers are too old: {_said(error)}", hint="Kafka 2.4 or newer")
        case (
            errors.PolicyViolationError() | errors.InvalidReplicationFactorError() | errors.InvalidConfigurationError()
        ):
            return Refused(f"Kafka refuses {doing}: {_said(error)}", hint="bus.replication, bus.retention_hours")
        case _:
            return None


def _unreachable(error: BaseException, cluster: Cluster) -> GavotteError | None:
    """Name, port, TLS or credentials: four faults that aiokafka reports alike."""
    at = f"Kafka at {cluster.servers}"
    reason = _root(error)
    if isinstance(reason, errors.KafkaConnectionError | errors.NodeNotReadyError) and heard.recent() is not None:
        reason = _root(heard.recent() or reason)
    match reason:
        case (
            errors.SaslAuthenticationFailed() | errors.UnsupportedSaslMechanismError() | errors.IllegalSaslStateError()
        ):
            hint = "bus.user and bus.password (GAVOTTE_BUS__PASSWORD_FILE); the mechanism is SCRAM-SHA-512"
            text = f"{at} refuses the credentials of {cluster.user or 'nobody'}: {_said(reason)}"
            return Refused(text, hint=hint, code="kafka_credentials")
        case ssl.SSLCertVerificationError():
            text = f"{at} shows a certificate that is not trusted: {reason.verify_message}"
            return Refused(text, hint="bus.cafile names the certificates to trust", code="kafka_tls")
        case ssl.SSLError():
            text = f"{at} does not speak TLS as this client does: {reason.reason or reason}"
            return Refused(text, hint="bus.security must fit the listener", code="kafka_tls")
        case socket.gaierror():
            return Unavailable(f"{at}: the name is not known to DNS", hint="bus.servers", code="kafka_dns")
        case ConnectionRefusedError():
            return Unavailable(f"{at}: nobody listens on that port", hint="is the broker up?", code="kafka_port")
        case TimeoutError() | errors.RequestTimedOutError() | errors.KafkaTimeoutError():
            return Unavailable(f"{at} did not answer in time", hint="a firewall, or an overloaded broker")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | OSError() | EOFError():
            hint = f"is it up, and is bus.security={cluster.security} what this listener speaks?"
            return Unavailable(f"{at} hung up or is gone: {_said(reason)}", hint=hint)
        case _:
            return None


def _root(error: BaseException) -> BaseException:
    """The cause behind what aiokafka wrapped."""
    while isinstance(error, errors.KafkaConnectionError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
