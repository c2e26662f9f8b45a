"""Moderation without a model: words that a test calls bad, each with its categories' scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
FLAGGED_FROM = 0.5

Bad = Mapping[str, Mapping[str, float]]


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """Return the texts of a request: a string, or a list of strings."""
    given = body.get("input", "")
    return [str(text) for text in given] if isinstance(given, list) else [str(given)]


def answer(body: Mapping[str, Any], model: str, bad: Bad) -> dict[str, Any]:
    """Return https://platform.openai.com/docs/api-reference/moderations/create."""
    return {
        "id": "modr-0",
        "model": model,
        "results": [_result(text, bad) for text in texts_of(body)],
    }


def _result(text: str, bad: Bad) -> dict[str, Any]:
    scores = dict.fromkeys(CATEGORIES, 0.01)
    for word, found in bad.items():
        if word in text:
            for category, score in found.items():
                scores[category] = max(score, scores.get(category, 0.0))
    categories = {name: score >= FLAGGED_FROM for name, score in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in scores},
    }
