"""Questions about tools, as a client keeps them."""

from clients.events import ToolAsked, ToolSettled
from clients.questions import QUESTIONS_MAX, Questions
from protocol.codes import Settled
from protocol.envelopes import ToolAsk
from protocol.envelopes import ToolSettled as SettledFrame

ASK = ToolAsk(9, 5, 1, "send_mail", "{}", 0, 1000)
ASKED = ToolAsked(9, 5, 1, "send_mail", "{}", 0, 1000)


def test_a_question_is_told_once_and_gone_when_it_is_settled() -> None:
    questions = Questions()
    assert questions.asked(ASK) == [ASKED]
    assert questions.asked(ASK) == []
    assert questions.open == [ASKED]
    settled = SettledFrame(9, 1, 1)
    assert questions.settled(settled) == [ToolSettled(9, 1, "send_mail", Settled.YES)]
    assert questions.settled(settled) == []
    assert len(questions) == 0


def test_an_end_of_a_kind_that_is_not_known_yet_ends_it_too() -> None:
    questions = Questions()
    questions.asked(ASK)
    assert questions.settled(SettledFrame(9, 1, 99)) == [ToolSettled(9, 1, "send_mail", None)]


def test_the_end_of_an_answer_and_a_new_connection_end_questions() -> None:
    questions = Questions()
    for sid in (9, 10):
        questions.asked(ToolAsk(sid, 5, 1, "send_mail", "{}", 0, 1000))
    assert questions.stream_ended(9) == [ToolSettled(9, 1, "send_mail", None)]
    assert questions.reconnected() == [ToolSettled(10, 1, "send_mail", None)]
    assert questions.open == []


def test_a_server_that_asks_without_end_fills_no_memory() -> None:
    questions = Questions()
    for call in range(QUESTIONS_MAX + 1):
        events = questions.asked(ToolAsk(9, 5, call, "send_mail", "{}", 0, 1000))
    assert events[1:] == [ToolSettled(9, 0, "send_mail", None)]
    assert len(questions) == QUESTIONS_MAX
