"""Small pieces of code that the partner can show."""

from __future__ import annotations

import re

from ai_bridge.partner.language import Lang

_PYTHON_COUNT = '''```python
from collections import Counter

def most_common_words(text: str, count: int = 5) -> list[tuple[str, int]]:
    """Return the words that occur most often, with their numbers."""
    words = (word.strip(".,;!?").lower() for word in text.split())
    return Counter(word for word in words if word).most_common(count)

print(most_common_words("the cat and the dog and the bird", 2))
# [('the', 3), ('and', 2)]
```'''
_PYTHON_FIBONACCI = '''```python
from collections.abc import Iterator

def fibonacci(limit: int) -> Iterator[int]:
    """Yield the Fibonacci numbers below the limit."""
    a, b = 0, 1
    while a < limit:
        yield a
        a, b = b, a + b

print(list(fibonacci(50)))
# [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
```'''
_JAVASCRIPT = """```javascript
// Runs fn at most once in every `ms` milliseconds.
function throttle(fn, ms) {
  let last = 0;
  return (...args) => {
    const now = Date.now();
    if (now - last >= ms) {
      last = now;
      fn(...args);
    }
  };
}
```"""
_SQL = """```sql
-- The ten people who wrote most this month.
SELECT author, COUNT(*) AS messages
FROM messages
WHERE sent_at >= DATE('now', 'start of month')
GROUP BY author
ORDER BY messages DESC
LIMIT 10;
```"""
_BASH = """```bash
#!/usr/bin/env bash
set -euo pipefail
# The ten largest files below this folder.
find . -type f -printf '%s %p\\n' | sort -rn | head -n 10
```"""

_SAMPLES = (
    (re.compile(r"javascript|\bjs\b|typescript", re.I), _JAVASCRIPT),
    (re.compile(r"\bsql\b|database|数据库", re.I), _SQL),
    (re.compile(r"\bbash\b|shell|脚本", re.I), _BASH),
    (re.compile(r"fibonacci|recurs|generator|斐波那契|递归|数列", re.I), _PYTHON_FIBONACCI),
)


def code_sample(text: str, lang: Lang) -> str:
    """Return the sample nearest to what is asked, with a line around it."""
    code = next((code for words, code in _SAMPLES if words.search(text)), _PYTHON_COUNT)
    if lang == "zh":
        return (
            f"给你一个小例子：\n\n{code}\n\n演示版只会这几段；接上真正的模型，就能按你的要求写了。"
        )
    return (
        f"Here is a small example:\n\n{code}\n\nAs a demo I know only a few of these by heart. "
        "A real model would write what you need."
    )
