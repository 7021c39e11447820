"""The names of spans, attributes and metrics, pinned in this one place: conventions move, dashboards should not.

Messaging: OpenTelemetry semantic conventions 1.44 (status: development). GenAI: the repository
`open-telemetry/semantic-conventions-genai`, where they moved with 1.42. A test lists every name that is emitted.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "gavotte"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# -- span names: an operation and what it is about -----------------------------------------------------------------------

SEND: Final = "send"
PROCESS: Final = "process"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"

# -- attributes: messaging -----------------------------------------------------------------------------------------------

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_DESTINATION_PARTITION: Final = "messaging.destination.partition.id"
MESSAGING_CONSUMER_GROUP: Final = "messaging.consumer.group.name"
MESSAGING_CLIENT_ID: Final = "messaging.client.id"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGING_KAFKA_KEY: Final = "messaging.kafka.message.key"
MESSAGING_KAFKA_OFFSET: Final = "messaging.kafka.offset"

CLOUDEVENTS_ID: Final = "cloudevents.event_id"
CLOUDEVENTS_SOURCE: Final = "cloudevents.event_source"
CLOUDEVENTS_TYPE: Final = "cloudevents.event_type"
CLOUDEVENTS_SUBJECT: Final = "cloudevents.event_subject"
CLOUDEVENTS_SPEC_VERSION: Final = "cloudevents.event_spec_version"

# -- attributes: GenAI ---------------------------------------------------------------------------------------------------

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_AGENT_VERSION: Final = "gen_ai.agent.version"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

ERROR_TYPE: Final = "error.type"

# -- attributes: ours ----------------------------------------------------------------------------------------------------

TASK_ID: Final = "gavotte.task.id"
CORRELATION_ID: Final = "gavotte.correlation.id"
CAUSATION_ID: Final = "gavotte.causation.id"
EVENT_TYPE: Final = "gavotte.event.type"
DELIVERY_VERDICT: Final = "gavotte.delivery.verdict"
DELIVERY_ATTEMPT: Final = "gavotte.delivery.attempt"
DELIVERY_FOUND: Final = "gavotte.delivery.found"
"""How the event came: `bus`, or what the sweep found it by (`missed`, `retry`, `deadline` ...)."""
STEP_ORDINAL: Final = "gavotte.step.ordinal"
STEP_ATTEMPT: Final = "gavotte.step.attempt"
PROMPT_NAME: Final = "gavotte.prompt.name"
PROMPT_HASH: Final = "gavotte.prompt.hash"
COST_DOLLARS: Final = "gavotte.cost.usd"

# -- metrics -------------------------------------------------------------------------------------------------------------

PROCESS_SECONDS: Final = "messaging_process_duration_seconds"
SENT_MESSAGES: Final = "messaging_client_sent_messages_total"
CONSUMED_MESSAGES: Final = "messaging_client_consumed_messages_total"
CHAT_SECONDS: Final = "gen_ai_client_operation_duration_seconds"
TOKEN_USAGE: Final = "gen_ai_client_token_usage"  # noqa: S105  tokens of a model, no secret
TOOL_SECONDS: Final = "gen_ai_execute_tool_duration_seconds"

DELIVERIES: Final = "gavotte_deliveries_total"
RETRIES: Final = "gavotte_retries_total"
DEAD_LETTERS: Final = "gavotte_dead_letters_total"
HANDLE_SECONDS: Final = "gavotte_handle_duration_seconds"
COMMIT_SECONDS: Final = "gavotte_commit_duration_seconds"
MODEL_TOKENS: Final = "gavotte_model_tokens_total"
MODEL_COST_DOLLARS: Final = "gavotte_model_cost_dollars_total"
SPANS_DROPPED: Final = "gavotte_spans_dropped_total"
CONSUMER_LAG: Final = "gavotte_consumer_lag_messages"
INBOX_DELIVERIES: Final = "gavotte_inbox_deliveries"
OPEN_TASKS: Final = "gavotte_open_tasks"
KILLS: Final = "gavotte_kills_active"
READY: Final = "gavotte_ready"
BUILD_INFO: Final = "gavotte_build_info"

SECONDS_BUCKETS: Final = tuple(0.01 * 2**n for n in range(14))
"""10 ms doubling to 81.92 s, as the conventions advise."""
COMMIT_BUCKETS: Final = tuple(0.0005 * 2**n for n in range(14))
"""0.5 ms doubling to 4 s."""
TOKEN_BUCKETS: Final = tuple(4.0**n for n in range(14))
