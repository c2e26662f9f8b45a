"""Guessing gets slower, tables stay small."""

from server.throttle import Allowance, GuessDelay, address_key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_tries_are_free_and_then_waits_double_up_to_a_minute() -> None:
    clock = Clock()
    delay = GuessDelay(3, clock)
    assert [delay.admit("a") for _ in range(3)] == [0, 0, 0]
    waits = []
    for _ in range(8):
        waits.append(delay.admit("a"))
        clock.now += waits[-1]
        assert delay.admit("a") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert delay.refused == 8


def test_a_refused_try_does_not_lengthen_the_wait() -> None:
    clock = Clock()
    delay = GuessDelay(1, clock)
    delay.admit("a")
    assert [delay.admit("a") for _ in range(5)] == [1] * 5


def test_keys_do_not_disturb_each_other_and_are_forgiven_and_forgotten() -> None:
    clock = Clock()
    delay = GuessDelay(1, clock)
    delay.admit("a")
    assert delay.admit("b") == 0
    delay.forgive("a")
    assert delay.admit("a") == 0
    assert delay.admit("a") > 0
    clock.now += 1000
    assert delay.admit("a") == 0


def test_the_table_of_guesses_is_bounded() -> None:
    delay = GuessDelay(1, Clock(), entries=10)
    for key in range(100):
        delay.admit(key)
    assert delay.admit(99) > 0
    assert delay.admit(0) == 0


def test_an_allowance_fills_again() -> None:
    clock = Clock()
    allowance = Allowance(0.5, 2, clock, entries=10)
    assert [allowance.admit("a") for _ in range(3)] == [0, 0, 2]
    clock.now += 2
    assert allowance.admit("a") == 0
    for key in range(100):
        allowance.admit(key)
    assert allowance.admit("a") == 0


def test_addresses_are_counted_by_who_has_them() -> None:
    assert address_key("127.0.0.1") is None
    assert address_key("::1") is None
    assert address_key("") is None
    assert address_key("203.0.113.9") == "203.0.113.9"
    assert address_key("::ffff:203.0.113.9") == "203.0.113.9"
    assert address_key("2001:db8::1") == address_key("2001:db8::2:3") == "2001:db8::/64"
