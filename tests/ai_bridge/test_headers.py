"""What headers say about waiting, in every form that services use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.providers.headers import (
    RateLimits,
    rate_limits,
    reset_after_s,
    retry_after_s,
    span_s,
)

NOW_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "2023-11-14T22:14:20Z"}, 60.0),
        ({"retry-after": "Fri, 14 Nov 2099 22:13:50 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "Tue, 99 Nov 2023 99:99:99 GMT"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_provider_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now_s=NOW_S) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("1s", 1.0),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h0m1s", 3601.0),
        ("1d", 86_400.0),
        ("34.074824224s", 34.074824224),
        ("6m0", None),
        ("m", None),
        ("", None),
        ("6 m", None),
        ("-6m", None),
        ("999999999999d", None),
    ],
)
def test_spans_of_time(value: str, seconds: float | None) -> None:
    assert span_s(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        ("6m0s", 360.0),
        ("2023-11-14T22:13:25Z", 5.0),
        ("2023-11-15T06:13:25+08:00", 5.0),
        ("1700000009", 9.0),
        ("1700000002500", 2.5),
        ("2023-11-14T22:13:10Z", 0.0),
        ("2093-11-14T22:13:10Z", None),
        ("tomorrow", None),
        ("", None),
        ("-1", None),
    ],
)
def test_resets_come_as_seconds_spans_and_moments(value: str, seconds: float | None) -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": value}
    assert reset_after_s(headers, now_s=NOW_S) == seconds


def test_the_last_of_the_limits_that_are_used_up_counts() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:22Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:40Z",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:14:20Z",
    }
    assert reset_after_s(headers, now_s=NOW_S) == 20.0


def test_if_no_limit_admits_to_be_used_up_the_first_reset_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "12s",
        "x-ratelimit-remaining-tokens": "120",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert reset_after_s(headers, now_s=NOW_S) == 12.0
    assert reset_after_s({}, now_s=NOW_S) is None


def test_what_is_left_at_openai() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_limits(headers, now_s=NOW_S) == RateLimits(59, 1.0, 149_984, 360.0)


def test_of_several_kinds_of_tokens_the_scarcest_is_told() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:21Z",
        "anthropic-ratelimit-tokens-remaining": "50000",
        "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:21Z",
        "anthropic-ratelimit-input-tokens-remaining": "40000",
        "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:22Z",
        "anthropic-ratelimit-output-tokens-remaining": "7000",
        "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:13:30Z",
    }
    assert rate_limits(headers, now_s=NOW_S) == RateLimits(49, 1.0, 7000, 10.0)


@pytest.mark.parametrize("value", ["0", "-1", "", "many", "nan"])
def test_figures_that_azure_sends_with_every_answer_say_nothing(value: str) -> None:
    names = ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")
    assert rate_limits(dict.fromkeys(names, value)) is None


def test_a_figure_without_its_reset_is_still_a_figure() -> None:
    assert rate_limits({"x-ratelimit-remaining": "3"}) == RateLimits(requests_left=3)
    assert rate_limits({}) is None


_NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "anthropic-ratelimit-requests-reset",
    ]
)
_VALUES = st.text(max_size=30) | st.from_regex(r"[0-9TZ:.+hms-]{0,30}") | st.floats().map(str)


@given(st.dictionaries(_NAMES, _VALUES))
def test_no_header_makes_trouble(headers: dict[str, str]) -> None:
    rate_limits(headers)
    for wait_s in (retry_after_s(headers), reset_after_s(headers)):
        assert wait_s is None or 0 <= wait_s < 1e9
