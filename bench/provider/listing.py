"""The list of models, in the shape of whoever is asked.

https://platform.openai.com/docs/api-reference/models/list,
https://docs.anthropic.com/en/api/models-list, https://ai.google.dev/api/models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def models(path: str, headers: Mapping[str, str], names: Sequence[str]) -> dict[str, Any]:
    """Return the list: Gemini by its path, Anthropic by its version header, else OpenAI."""
    if "/v1beta" in path:
        return {"models": [_gemini(name) for name in names]}
    if "anthropic-version" in headers:
        return {
            "data": [_anthropic(name) for name in names],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    listed = [
        {"id": name, "object": "model", "created": 1686935002, "owned_by": "scripted"}
        for name in names
    ]
    return {"object": "list", "data": listed}


def _anthropic(name: str) -> dict[str, str]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2025-02-19T00:00:00Z",
    }


def _gemini(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": 1048576,
        "outputTokenLimit": 65536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
