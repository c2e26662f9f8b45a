"""Rolls dice for people who write "2d6" to it.

Run: .venv/bin/python -m examples.dice_bot
"""

import random
import re

from clients.bot import Bot, Message


async def roll(message: Message) -> str | None:
    if dice := re.search(r"(?<!\d)([1-9]\d?)d([1-9]\d{0,3})", message.text):
        rolls = [random.randint(1, int(dice[2])) for _ in range(int(dice[1]))]
        return f"{dice[0]}: {' + '.join(map(str, rolls))} = {sum(rolls)}"
    return None


Bot("parlance://127.0.0.1:8420", "Dice").run(roll)
