"""Error bodies as the services document them, and what is made of them."""

from __future__ import annotations

import json

import pytest

from ai_bridge.backends import provider_of
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.failures import failure_of
from protocol.codes import Code

PROVIDER = provider_of(ProviderConfig(name="x", base_url="http://x"))


def classify(status: int, body: object, **headers: str) -> ProviderFailure:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return PROVIDER.classify(status, named, json.dumps(body).encode())


# Shapes from each service's page on errors; the texts are shortened.
BODIES = [
    # platform.openai.com/docs/guides/error-codes
    (429, {"error": {"type": "requests", "code": "rate_limit_exceeded"}}, "rate_limited"),
    (429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}, "no_credit"),
    (400, {"error": {"type": "invalid_request_error", "code": "context_length_exceeded"}},
     "context_too_long"),
    (503, {"error": {"message": "The engine is currently overloaded", "type": "server_error"}},
     "provider_error"),
    # platform.claude.com/docs/en/api/errors
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "prompt is too long: 210 tokens > 200 maximum"}},
     "context_too_long"),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "Your credit balance is too low to access"}},
     "no_credit"),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
                                      "message": "messages: field required"}}, "rejected"),
    (413, {"type": "error", "error": {"type": "request_too_large"}}, "context_too_long"),
    (529, {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded"),
    # ai.google.dev/gemini-api/docs/troubleshooting
    (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The input token count"
                     " (1200000) exceeds the maximum number of tokens allowed (1048576)."}},
     "context_too_long"),
    (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid.",
                     "details": [{"reason": "API_KEY_INVALID"}]}}, "bad_key"),
    (403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}, "bad_key"),
    (503, {"error": {"code": 503, "status": "UNAVAILABLE"}}, "overloaded"),
    (500, {"error": {"code": 500, "status": "INTERNAL"}}, "provider_error"),
    (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], "rate_limited"),
    # api-docs.deepseek.com/quick_start/error_codes
    (402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}},
     "no_credit"),
    # docs.vllm.ai: OpenAI-compatible server
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens.",
           "type": "BadRequestError", "code": 400}, "context_too_long"),
    (404, {"object": "error", "type": "NotFoundError", "code": 404}, "no_model"),
    # docs.mistral.ai
    (429, {"object": "error", "type": "service_tier_capacity_exceeded", "code": "3505"},
     "overloaded"),
    # platform.moonshot.ai/docs/api/chat#error-description
    (429, {"error": {"type": "exceeded_current_quota_error"}}, "no_credit"),
    (429, {"error": {"type": "rate_limit_reached_error"}}, "rate_limited"),
    (429, {"error": {"type": "engine_overloaded_error"}}, "overloaded"),
    (400, {"error": {"type": "content_filter"}}, "filtered"),
    # help.aliyun.com/zh/model-studio/error-code
    (400, {"error": {"code": "data_inspection_failed"}}, "filtered"),
    (400, {"error": {"code": "Arrearage"}}, "no_credit"),
    # docs.bigmodel.cn/cn/faq/api-code
    (400, {"error": {"code": "1301"}}, "filtered"),
    (429, {"error": {"code": "1302"}}, "rate_limited"),
    (429, {"error": {"code": "1113"}}, "no_credit"),
    # docs.siliconflow.cn
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, "no_credit"),
    (400, {"code": 20012, "message": "Model does not exist."}, "no_model"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), BODIES)
def test_each_services_errors_are_known(status: int, body: object, kind: str) -> None:
    failure = classify(status, body)
    assert (failure.kind, failure.status) == (kind, status)


def test_gemini_tells_the_wait_in_the_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}]
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}
    failure = classify(429, {"error": error})
    assert (failure.kind, failure.retry_after_s) == ("rate_limited", 34.07)
    assert classify(429, {"error": error}, retry_after="7").retry_after_s == 7.0


def test_a_limit_per_day_is_not_waited_for() -> None:
    violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}
    details = [{"violations": [violation]}, {"retryDelay": "20s"}]
    failure = classify(429, {"error": {"code": 429, "details": details}})
    assert (failure.kind, failure.remedy, failure.retry_after_s) == ("no_credit", Remedy.NEXT, None)
    assert "tomorrow" in failure.text


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, 62.0),
        (503, {"retry-after": "9"}, 9.0),
        (500, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, None),
    ],
)
def test_only_a_429_is_explained_by_the_limits(
    status: int, headers: dict[str, str], wait_s: float | None
) -> None:
    assert failure_of(status, headers, {}).retry_after_s == wait_s


@pytest.mark.parametrize(
    "error",
    [
        {"details": "x"},
        {"details": [5, {"violations": "x"}, {"violations": [5]}, {"retryDelay": 5}]},
        {"details": [{"retryDelay": "soon"}, {"reason": {}}]},
        {"code": {}, "type": [], "status": 5, "message": 5},
        {"code": "429"},
        {"code": True},
    ],
)
def test_odd_errors_harm_nobody(error: dict[str, object]) -> None:
    assert failure_of(429, {}, error).kind == "rate_limited"
    assert failure_of(0, {}, error).code in (Code.MODEL_UNAVAILABLE, Code.BUSY)


def test_a_status_within_an_error_in_mid_stream_counts() -> None:
    assert failure_of(0, {}, {"code": 429}).kind == "rate_limited"
    assert failure_of(0, {}, {"code": "529"}).kind == "overloaded"


@pytest.mark.parametrize(("status", "body", "kind"), BODIES)
def test_no_text_of_a_service_is_passed_on(status: int, body: object, kind: str) -> None:
    marked = json.loads(
        json.dumps(body).replace('"message": "', '"message": "sk-private https://x ')
    )
    failure = classify(status, marked)
    assert failure.kind == kind
    assert "private" not in failure.text + str(failure)
    assert "http" not in failure.text
