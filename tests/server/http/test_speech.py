"""POST /v1/audio/transcriptions: what comes back, what is refused, what is paid, what is let go."""

import asyncio
import io
import struct
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from ai_bridge.account import Limits
from ai_bridge.config import BridgeConfig, ProviderConfig
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from server.http import callers
from storage.accounts import create_user
from storage.rows import TurnStatus
from storage.usage import DAY_MS, usage_page
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import bearer, new_key, raw, records, settings_for, settled
from tests.support.eventually import eventually

PATH = "/v1/audio/transcriptions"
OTHER_TENANT = 2
PRICE = 6.0
"""Dollars per minute: 100,000 micro-dollars per second."""


def wav(seconds: float, rate: int = 8000) -> bytes:
    size = int(seconds * rate)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate,
                       rate, 1, 8)  # fmt: skip
    return head + struct.pack("<4sI", b"data", size) + bytes(size)


@pytest.fixture
def settings(provider: ScriptedProvider, request: pytest.FixtureRequest) -> dict[str, object]:
    speech = {
        "provider": "scripted",
        "model": "seconds=4",
        "language": "zh",
        "price_per_minute": PRICE,
        **getattr(request, "param", {}),
    }
    return settings_for(provider.port) | {"ai.speech": speech}


@pytest.fixture
async def key(site: Site) -> str:
    return await new_key(site)


@pytest.fixture
async def ai(site: Site, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(site, key) as client:
        yield client


def openai_client(site: Site, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=0, timeout=20)


async def post(site: Site, secret: str, data: bytes = wav(4), **fields: str) -> Answer:
    """Send a form as a plain client does."""
    form = aiohttp.FormData()
    form.add_field("model", fields.pop("model", "whisper-1"))
    form.add_field("file", io.BytesIO(data), filename="语音.wav", content_type="audio/wav")
    for name, value in fields.items():
        form.add_field(name, value)
    return await site.ask("POST", PATH, data=form, headers=bearer(secret))


def with_model(model: str, **more: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("settings", [{"model": model, **more}], indirect=True)


# what comes back


async def test_the_openai_package_gets_the_words(
    ai: AsyncOpenAI, provider: ScriptedProvider
) -> None:
    provider.reply_with = lambda request: "今天天气很好"
    done = await ai.audio.transcriptions.create(
        model="whisper-1", file=("语音.wav", wav(4)), language="en", prompt="年糕"
    )
    assert done.text == "今天天气很好"
    (sent,) = provider.requests
    assert (sent.body["language"], sent.body["prompt"]) == ("en", "年糕")
    assert sent.body["model"] == "seconds=4"
    assert sent.body["file"]["size"] == len(wav(4))
    assert sent.headers["authorization"] == "Bearer sk-secret-of-the-test"


async def test_each_form_of_the_answer_is_as_openais(ai: AsyncOpenAI) -> None:
    create = ai.audio.transcriptions.create
    recording = ("a.wav", wav(4))
    words = f"voice.wav, {len(wav(4))} bytes, language zh"
    assert await create(model="whisper-1", file=recording, response_format="text") == words + "\n"
    verbose = await create(model="whisper-1", file=recording, response_format="verbose_json")
    assert (verbose.text, verbose.duration) == (words, 4.0)
    plain = await create(model="seconds=4", file=recording)
    assert plain.usage is not None
    assert plain.usage.model_dump() == {"type": "duration", "seconds": 4.0}


async def test_a_person_may_ask_too(site: Site) -> None:
    anna = await site.register()
    answer = await post(site, anna["token"])
    assert answer.status == 200
    assert "language zh" in answer.json["text"]


async def test_a_large_recording_arrives_whole(site: Site, key: str) -> None:
    data = wav(500, rate=24_000)
    assert len(data) > 10 * 1024 * 1024
    answer = await post(site, key, data)
    assert answer.status == 200
    assert f"{len(data)} bytes" in answer.json["text"]
    assert site.core.speech.desk.held_bytes == 0


# what is refused


@pytest.mark.parametrize(
    ("data", "fields", "status", "code"),
    [
        (b"", {}, 400, "invalid_request"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), {}, 400, "invalid_request"),
        (wav(601, rate=100), {}, 413, "request_too_large"),
        (wav(1), {"model": "gpt-9"}, 404, "model_not_found"),
        (wav(1), {"response_format": "srt"}, 400, "unsupported_parameter"),
        (wav(1), {"stream": "true"}, 400, "unsupported_parameter"),
        (wav(1), {"prompt": "x" * 9000}, 400, None),
    ],
)
async def test_what_cannot_be_written_down_is_not_sent(
    site: Site,
    key: str,
    provider: ScriptedProvider,
    data: bytes,
    fields: dict[str, str],
    status: int,
    code: str | None,
) -> None:
    answer = await post(site, key, data, **fields)
    assert (answer.status, answer.error["code"]) == (status, code), answer
    assert answer.error["message"]
    assert not provider.requests
    assert not await records(site, 0), "nothing was accepted, so nothing is recorded"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name, no end"),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-type: multipart/mixed; boundary=y"
         b"\r\n\r\n--y--\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data; name=a"
         b"\r\n\r\n1\r\n" * 20 + b"--x--\r\n"),
    ],
)  # fmt: skip
async def test_a_broken_form_is_a_bad_request(
    site: Site, key: str, content_type: str, body: bytes
) -> None:
    headers = bearer(key) | {"Content-Type": content_type}
    answer = await site.ask("POST", PATH, data=body, headers=headers)
    assert answer.status == 400, answer
    assert answer.error["type"] == "invalid_request_error"


@with_model("seconds=4", max_bytes=100_000)
async def test_too_many_bytes_are_refused_before_they_are_all_here(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    announced = await post(site, key, wav(60))
    assert (announced.status, announced.error["param"]) == (413, "file")

    async def trickle() -> AsyncIterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(30):
            yield bytes(8_000)

    headers = bearer(key) | {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = await site.ask("POST", PATH, data=trickle(), headers=headers)
    except aiohttp.ClientError:
        return  # the server had answered and closed while this was still sending
    assert answer.status == 413
    assert not provider.requests


@with_model("seconds=4", held_bytes=40_000)
async def test_recordings_that_would_fill_the_memory_are_sent_away(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    async with raw(site) as slow:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 30000\r\n\r\n--x\r\n"
        )
        slow.writer.write(head.encode())
        await eventually(lambda: site.core.speech.desk.held_bytes == 30_000)
        answer = await post(site, key)
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after-ms"]) > 0
    await eventually(lambda: site.core.speech.desk.held_bytes == 0)
    assert (await post(site, key)).status == 200


async def test_who_has_no_right_is_told_so(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError):
        async with openai_client(site, "pk_nobody") as client:
            await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(1)))
    exchange = await new_key(site, "exchange")
    assert (await post(site, exchange)).status == 403


@pytest.mark.parametrize("settings", [{"provider": ""}], indirect=True)
async def test_a_server_without_a_speech_service_says_so(site: Site, key: str) -> None:
    answer = await post(site, key)
    assert (answer.status, answer.error["code"]) == (404, "speech_not_configured")


@pytest.mark.parametrize("settings", [{"provider": "later"}], indirect=True)
async def test_a_service_is_missed_until_it_is_added(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    answer = await post(site, key)
    assert answer.status == 502
    assert "operator" in answer.error["message"]
    added = ProviderConfig(name="later", base_url=provider.base_url)
    await site.core.bridge.reload(BridgeConfig(providers=(added,)))
    assert (await post(site, key)).status == 200


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"model": "status=400"}, 400, "Record it again"),
        ({"model": "status=401"}, 502, "operator"),
        ({"model": "status=413"}, 413, "shorter"),
        ({"model": "status=429,retry_after=3"}, 503, "moment"),
        ({"model": "status=500"}, 502, "moment"),
        ({"model": "silent", "deadline_s": 0.05}, 504, "too long"),
    ],
    indirect=["settings"],
)
async def test_a_failing_service_costs_nothing_and_says_what_to_do(
    site: Site, key: str, status: int, words: str
) -> None:
    answer = await post(site, key)
    assert answer.status == status, answer
    assert words in answer.error["message"]
    assert "sk-" not in answer.body.decode()
    if status == 503:
        assert answer.headers["Retry-After"] == "3"
    (row,) = await records(site, 1)
    assert (row.status, row.cost_micro) == (TurnStatus.FAILED, 0)
    spent = site.core.bridge.billing.ledger.spent(1, 0)  # type: ignore[union-attr]
    assert (spent.day, spent.reserved) == (0, 0)


# what is paid


async def test_each_second_is_paid_and_recorded(site: Site, key: str) -> None:
    answer = await post(site, key)
    assert answer.status == 200
    (row,) = await records(site, 1)
    assert (row.status, row.reason) == (TurnStatus.DONE, EndReason.STOP)
    assert (row.provider, row.model, row.cost_micro) == ("scripted", "seconds=4", 400_000)
    today = site.core.now_ms() // DAY_MS
    (used,) = await site.core.store.read(usage_page(1, today - 1, today + 2, None, 10))
    assert (used.model, used.turns, used.cost_micro) == ("seconds=4", 1, 400_000)
    figures = (await site.ask("GET", "/metrics")).body.decode()
    assert "parlance_speech_written_total 1.0" in figures
    assert "parlance_speech_cost_micro_total 400000.0" in figures


async def test_calls_side_by_side_cannot_overrun_a_budget(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    ledger = site.core.bridge.billing.ledger  # type: ignore[union-attr]
    ledger.set_limits(1, 0, Limits(day_micro=1_000_000))
    site.core.speech.desk.gate._per_user = 100
    answers = await asyncio.gather(*(post(site, key) for _ in range(20)))
    good = [answer for answer in answers if answer.status == 200]
    assert len(good) == 2
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 18
    assert {answer.error["code"] for answer in refused} == {"insufficient_quota"}
    assert ledger.spent(1, 0).day == 800_000
    assert ledger.spent(1, 0).reserved == 0
    assert len(provider.requests) == 2
    assert len(await records(site, 2)) == 2


async def test_a_tenant_pays_for_itself_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "REMEMBER_S", 0.0)
    ledger = site.core.bridge.billing.ledger  # type: ignore[union-attr]
    ledger.set_limits(1, 0, Limits(day_micro=100_000))
    ours, theirs = await new_key(site), await new_key(site, "chat", tenant=OTHER_TENANT)
    assert (await post(site, ours)).status == 429
    assert (await post(site, theirs)).status == 200
    assert ledger.spent(1, 0).day == 0
    assert ledger.spent(OTHER_TENANT, 0).day == 400_000


@with_model("silent", at_once=1, waiting=0)
async def test_one_too_many_is_told_to_come_again(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    first = asyncio.create_task(post(site, key))
    await eventually(lambda: provider.requests)
    answer = await post(site, key)
    assert (answer.status, answer.error["code"]) == (503, "queue_full")
    first.cancel()
    await asyncio.wait([first])


@with_model("silent", user_at_once=1)
async def test_a_caller_with_enough_under_way_is_slowed_down(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    first = asyncio.create_task(post(site, key))
    await eventually(lambda: provider.requests)
    answer = await post(site, key)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    first.cancel()
    await asyncio.wait([first])


# what is let go


@with_model("silent")
async def test_who_hangs_up_ends_the_call_and_has_paid(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    call = asyncio.create_task(post(site, key))
    await eventually(lambda: provider.requests)
    call.cancel()
    await asyncio.wait([call])
    await eventually(lambda: not provider.stats.open_connections)
    (row,) = await records(site, 1)
    assert (row.status, row.provider, row.cost_micro) == (TurnStatus.CANCELLED, "scripted", 400_000)
    ledger = site.core.bridge.billing.ledger  # type: ignore[union-attr]
    assert (ledger.spent(1, 0).day, ledger.spent(1, 0).reserved) == (400_000, 0)
    desk = site.core.speech.desk
    await eventually(lambda: not desk.held_bytes and not desk.gate.running)


async def test_who_hangs_up_in_the_middle_of_the_recording_leaves_nothing(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    async with raw(site) as caller:
        body = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF'
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000\r\n\r\n"
        )
        caller.writer.write(head.encode() + body)
        await eventually(lambda: site.core.speech.desk.held_bytes)
    await eventually(lambda: not site.core.speech.desk.held_bytes)
    await settled(site)
    assert not provider.requests


@with_model("silent")
async def test_a_server_that_stops_lets_no_call_wait(
    site: Site, key: str, provider: ScriptedProvider
) -> None:
    call = asyncio.create_task(post(site, key))
    await eventually(lambda: provider.requests)
    await site.core.speech.aclose()
    answer = await call
    assert (answer.status, answer.error["code"]) == (503, "draining")
    assert (await post(site, key)).status == 503


async def test_within_the_server_a_recording_is_one_call(site: Site) -> None:
    user = await site.core.store.change((), lambda tx: create_user(tx, 1, "bo", "Bo"))
    written = await site.core.speech.transcribe(1, user.id or 0, wav(4), language="en")
    assert written.transcript.text == f"voice.wav, {len(wav(4))} bytes, language en"
    assert written.cost_micro == 400_000
    (row,) = await records(site, 1)
    assert row.user == user.id
