"""Talks with a persona through OpenAI's own package: the persona is the model.

Run: .venv/bin/pip install openai
     export KEY=$(.venv/bin/python -m server token key add tryout --scope chat)
     .venv/bin/python examples/openai_client.py "Write a haiku about rain."
"""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8420/v1", api_key=os.environ["KEY"])
stream = client.chat.completions.create(
    model="nova", messages=[{"role": "user", "content": sys.argv[1]}], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
