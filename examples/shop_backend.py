"""A shop's backend lets a persona answer its customers, over HTTP, with nothing installed.

The shop signs its customers in under its own names for them. Every question has an id, so that
asking again after a lost connection brings the same answer, and asks nobody twice.

Run: export KEY=$(.venv/bin/python -m server token key add shop --scope exchange)
     python3 examples/shop_backend.py customer-17 question-4711 "Where is my parcel?"
"""

import json
import os
import sys
import urllib.request
from typing import Any

SERVER = "http://127.0.0.1:8420"


def call(token: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """Return the answer; GET without a body, POST with one."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    if key:
        headers["Idempotency-Key"] = key
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


customer, question, text = sys.argv[1:4]
token = call(os.environ["KEY"], "/api/v1/auth/exchange", {"user": customer})["token"]
persona = call(token, "/api/v1/personas?scope=2")["personas"][0]["id"]
talk = call(token, "/api/v1/conversations", {"title": "Shop", "persona": persona}, "shop")
path = f"/api/v1/conversations/{talk['conversation']['id']}/messages?wait=answer"
told = call(token, path, {"text": text}, question)
print(told["answer"]["text"] if "answer" in told else told["record"]["error_message"])
