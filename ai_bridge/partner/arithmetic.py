"""Sums in words and figures: finds one in a sentence and works it out, exactly and bounded."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_EXPRESSION_CHARS = 80
MAX_POWER = 64
MAX_BITS = 4_096
MAX_DIGITS = 40

_WORDS = (
    (re.compile(r"\bmultiplied by\b|\btimes\b|乘以|乘", re.I), " * "),
    (re.compile(r"\bdivided by\b|\bover\b|除以", re.I), " / "),
    (re.compile(r"\bplus\b|加上|加", re.I), " + "),
    (re.compile(r"\bminus\b|减去|减", re.I), " - "),
    (re.compile(r"\bto the power of\b|的?次方|\*\*", re.I), "^"),
    (re.compile(r"(\d)\s*(?:%|percent)\s*of\s*(?=\d)", re.I), r"\1/100*"),
    (re.compile(r"\bsquared\b|的?平方", re.I), "^2"),
    (re.compile(r"[×xX](?=\s*\d)"), "*"),
    (re.compile(r"÷"), "/"),
    (re.compile(r"[（(]"), "("),
    (re.compile(r"[）)]"), ")"),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
)
_SIGNS = (*((re.compile(sign), to) for sign, to in
            ((r"\*\*", "^"), ("[×＊]", "*"), ("[÷／]", "/"), ("[（]", "("), ("[）]", ")"),
             ("[−－–]", "-"), ("＋", "+"))), _WORDS[-1])  # fmt: skip
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
"""
_SMALL_ENGLISH = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ENGLISH_NUMBER = re.compile(rf"\b({'|'.join(_SMALL_ENGLISH)})\b", re.I)
_CHINESE_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2}
_CHINESE_NUMBER = re.compile(
    r"[零一二两三四五六七八九十百]+(?=\s*[-+*/^()=等是])|"
    r"(?<=[-+*/^(])\s*[零一二两三四五六七八九十百]+"
)
_EXPRESSION = re.compile(r"(?:(?<![\w)])-)?[\d(][\d\s.+\-*/^()]*[\d)]")
_DATE = re.compile(r"^\d{1,4}[-/]\d{1,2}[-/]\d{1,4}$|^\d{4}[-/]\d{1,2}$")
_RANGE = re.compile(r"^\d+[-/]\d+$")  # "24/7", "5-10 people": a sum only where it is asked for
_ASKS = re.compile(r"[?？=]|what|how much|calculate|compute|多少|等于|几", re.I)
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/^()])")

_ONLY_TOKENS = re.compile(rf"(?:{_TOKEN.pattern})+")


class Unsolvable(Exception):
    """No number comes out of this."""


def solve(text: str) -> tuple[str, str] | None:
    """Return (sum, result) of the first sum in a sentence, None if there is none.

    The result is exact, or rounded to six places, or "" for a division by zero.
    """
    asked = text.strip()
    for pattern, sign in _WORDS:
        text = pattern.sub(sign, text)
    text = _ENGLISH_NUMBER.sub(lambda match: _SMALL_ENGLISH[match[1].lower()], text)
    text = _CHINESE_NUMBER.sub(lambda match: str(_chinese_number(match[0].strip())), text)
    for match in _EXPRESSION.finditer(text):
        shown = " ".join(_TOKEN.findall(match[0]))
        bare = match[0].strip()
        if not re.search(r"[\d)]\s*[-+*/^]", bare) or len(bare) > MAX_EXPRESSION_CHARS:
            continue
        if _DATE.match(bare) or (_RANGE.match(bare) and bare != asked and not _ASKS.search(asked)):
            continue
        try:
            return shown, _show(_Sum(bare).value())
        except ZeroDivisionError:
            return shown, ""
        except Unsolvable:
            continue
    return None


def evaluate(expression: str) -> str:
    """Return the exact value of + - * / ^ and brackets over decimal numbers.

    A value that is no decimal number of 15 digits is rounded to them.

    Raises:
        Unsolvable: not such an expression, or its value is out of bounds.
        ZeroDivisionError: as it says.
    """
    for pattern, sign in _SIGNS:
        expression = pattern.sub(sign, expression)
    text = expression.strip()
    if len(text) > MAX_EXPRESSION_CHARS or not _ONLY_TOKENS.fullmatch(text):
        raise Unsolvable
    value = _Sum(text).value()
    if value.denominator == 1:
        return _show(value)
    try:
        return f"{float(value):.15g}"
    except OverflowError:
        raise Unsolvable from None


def _chinese_number(text: str) -> int:
    total = 0
    digit = 0
    for char in text:
        if char == "十":
            total += (digit or 1) * 10
            digit = 0
        elif char == "百":
            total += (digit or 1) * 100
            digit = 0
        else:
            digit = _CHINESE_DIGITS[char]
    return total + digit


def _show(value: Fraction) -> str:
    if value.denominator == 1:
        text = str(value.numerator)
    else:
        if abs(value) >= 10**MAX_DIGITS:
            raise Unsolvable
        text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    if len(text) > MAX_DIGITS:
        raise Unsolvable
    return text


class _Sum:
    """Recursive descent over + - * / ^ and brackets, on exact fractions."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def value(self) -> Fraction:
        value = self._add()
        if self._at < len(self._tokens):
            raise Unsolvable
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _add(self) -> Fraction:
        value = self._multiply()
        while self._peek() in ("+", "-"):
            value = value + self._multiply() if self._next() == "+" else value - self._multiply()
        return value

    def _multiply(self) -> Fraction:
        value = self._signed()
        while self._peek() in ("*", "/"):
            value = value * self._signed() if self._next() == "*" else value / self._signed()
        return value

    def _signed(self) -> Fraction:
        """A minus binds weaker than a power: -3^2 is -9."""
        if self._peek() == "-":
            self._next()
            return -self._signed()
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._next()
        exponent = self._atom()
        if exponent.denominator != 1 or not 0 <= exponent <= MAX_POWER:
            raise Unsolvable
        if max(base.numerator.bit_length(), base.denominator.bit_length()) * exponent > MAX_BITS:
            raise Unsolvable
        return Fraction(base ** int(exponent))

    def _atom(self) -> Fraction:
        token = self._next()
        if token == "(":
            value = self._add()
            if self._next() != ")":
                raise Unsolvable
            return value
        if not token or not token[0].isdigit():
            raise Unsolvable
        return Fraction(token)
