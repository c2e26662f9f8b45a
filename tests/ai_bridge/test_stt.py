"""Recordings to text over a real socket; nobody here hears anything."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.account import BudgetExceeded, Ledger, Limits
from ai_bridge.audio_length import kind_of, seconds_of
from ai_bridge.billing import Billing
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import BridgeError, ProviderFailure, Remedy
from ai_bridge.prices import PriceTable
from ai_bridge.secrets import Secret
from ai_bridge.speech import Speech, SpeechConfig
from ai_bridge.stt import MAX_BYTES, HttpTranscriber
from ai_bridge.transport.aio import AioTransport
from ai_bridge.transport.raw_h1 import SWEEP_S, RawTransport
from bench.provider.server import ScriptedProvider
from protocol.codes import Code
from tests.ai_bridge.conftest import closed
from tests.ai_bridge.raw_server import answering, sized
from tests.support.eventually import WAIT_S

MakeTranscriber = Callable[..., HttpTranscriber]


def config(base_url: str, **fields: object) -> ProviderConfig:
    return ProviderConfig(name="x", base_url=base_url, api_key=Secret("sk-key"), **fields)  # type: ignore[arg-type]


@pytest.fixture
async def make(provider: ScriptedProvider) -> AsyncIterator[MakeTranscriber]:
    made: list[HttpTranscriber] = []

    def make_one(model: str = "seconds=4.5", **options: object) -> HttpTranscriber:
        made.append(HttpTranscriber(config(provider.base_url), model, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for one in made:
        await one.aclose()
    await closed(provider)


def wav(seconds: float, rate: int = 8000) -> bytes:
    size = int(seconds * rate)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate,
                       rate, 1, 8)  # fmt: skip
    return head + struct.pack("<4sI", b"data", size) + bytes(size)


def ogg(seconds: float) -> bytes:
    def page(granule: int, body: bytes) -> bytes:
        return b"OggS\0\2" + struct.pack("<qIIIB", granule, 1, 0, 0, 1) + b"\x13" + body

    head = b"OpusHead\1\1" + struct.pack("<HIhB", 312, 48_000, 0, 0)
    return page(0, head) + page(int(seconds * 48_000) + 312, b"sound")


def mp4(seconds: float) -> bytes:
    content = struct.pack(">IIIII", 0, 0, 0, 1000, int(seconds * 1000)) + bytes(80)
    boxes = (
        struct.pack(">I4s4s", 12, b"ftyp", b"M4A ") + struct.pack(">I4s", 20, b"free") + bytes(12)
    )
    boxes += struct.pack(">I4sQ", 1, b"mdat", 116) + b"mvhd" * 25
    inner = struct.pack(">I4s", 8 + len(content), b"mvhd") + content
    return boxes + struct.pack(">I4s", 8 + len(inner), b"moov") + inner


def flac(seconds: float) -> bytes:
    packed = 44_100 << 44 | 1 << 41 | 15 << 36 | int(seconds * 44_100)
    return b"fLaC\0\0\0\x22" + bytes(10) + struct.pack(">Q", packed) + bytes(16)


async def test_a_recording_is_written_down(
    make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    transcript = await make().transcribe(b"OggS" * 10, "my voice.ogg", "audio/ogg", "zh-CN")
    assert transcript.text == "voice.ogg, 40 bytes, language zh"
    assert transcript.model == "seconds=4.5"
    assert transcript.seconds == pytest.approx(4.5, abs=0.5)
    (sent,) = provider.requests
    assert sent.path.endswith("/audio/transcriptions")
    assert sent.headers["authorization"] == "Bearer sk-key"
    assert "my voice" not in str(sent.body)


@pytest.mark.parametrize(("transport", "repeats"), [("aio", 12_000), ("raw", 12_000)])
async def test_every_byte_arrives(provider: ScriptedProvider, transport: str, repeats: int) -> None:
    chosen = config(provider.base_url, transport=transport)
    transcriber = HttpTranscriber(chosen, "fake")
    data = bytes(range(256)) * repeats
    transcript = await transcriber.transcribe(data, "", "audio/webm;codecs=opus")
    assert transcript.text == f"voice.webm, {len(data)} bytes, language unknown"
    await transcriber.aclose()


@pytest.mark.parametrize("transport", ["aio", "raw"])
async def test_a_silence_as_long_as_the_deadline_is_no_dead_connection(transport: str) -> None:
    chosen = config("http://127.0.0.1:9/v1", transport=transport)
    transcriber = HttpTranscriber(chosen, "m", deadline_s=500)
    client = transcriber._transport
    if isinstance(client, RawTransport):
        assert client.pool._reads_quiet * SWEEP_S > 500
    else:
        assert isinstance(client, AioTransport)
        assert client._read_s > 500
    await transcriber.aclose()


async def test_words_that_occur_are_passed_on(
    make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    await make().transcribe(b"x", "a.mp3", "", "zh", "年糕\r\n--x\ud800" + "长" * 5_000)
    sent = provider.requests[-1].body["prompt"]
    assert sent.startswith("年糕\r\n--x?长")
    assert len(sent) == 2_000


async def test_the_first_of_several_keys_is_used(provider: ScriptedProvider) -> None:
    several = ProviderConfig(
        name="x", base_url=provider.base_url, api_keys=(Secret("sk-1"), Secret("sk-2"))
    )
    transcriber = HttpTranscriber(several, "fake")
    await transcriber.transcribe(b"x", "a.mp3", "")
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-1"
    await transcriber.aclose()


def test_a_service_without_the_interface_is_refused() -> None:
    with pytest.raises(ValueError, match="transcriptions"):
        HttpTranscriber(ProviderConfig(name="x", kind="anthropic"), "m")


@pytest.mark.parametrize("lang", [None, "", "Chinese", "../x", "汉语"])
async def test_a_language_that_is_no_code_is_left_out(
    lang: str | None, make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    await make().transcribe(b"x", "a.mp3", "", lang)
    assert "language" not in provider.requests[-1].body


async def test_the_form_that_tells_the_length_is_asked_for_where_there_is_one(
    provider: ScriptedProvider,
) -> None:
    async with answering(
        sized(b'{"text": " \xe4\xbd\xa0\xe5\xa5\xbd ", "duration": 2.5}')
    ) as server:
        transcriber = HttpTranscriber(
            config(f"http://127.0.0.1:{server.port}/v1"), "whisper-large-v3"
        )
        transcript = await transcriber.transcribe(wav(1), "a.wav", "audio/wav")
        assert (transcript.text, transcript.seconds) == ("你好", 2.5)
        await transcriber.aclose()


@pytest.mark.parametrize("told", [b"", b', "duration": "x"', b', "usage": {"type": "tokens"}'])
async def test_without_a_word_of_the_service_the_recording_tells_its_length(told: bytes) -> None:
    async with answering(sized(b'{"text": "hi"' + told + b"}")) as server:
        transcriber = HttpTranscriber(
            config(f"http://127.0.0.1:{server.port}/v1"), "gpt-4o-transcribe"
        )
        assert (await transcriber.transcribe(wav(2), "a.wav", "audio/wav")).seconds == 2.0
        await transcriber.aclose()


@pytest.mark.parametrize(
    ("data", "mime", "kind", "code"),
    [
        (b"", "audio/ogg", "audio_empty", Code.INVALID),
        (bytes(MAX_BYTES + 1), "audio/ogg", "audio_too_large", Code.SIZE_LIMIT),
        (wav(601, rate=100), "audio/wav", "audio_too_long", Code.SIZE_LIMIT),
        (ogg(601), "audio/ogg", "audio_too_long", Code.SIZE_LIMIT),
        (b"x", "image/png", "audio_format", Code.INVALID),
        (b"x", "", "audio_format", Code.INVALID),
    ],
)
async def test_what_cannot_be_written_down_is_not_sent(
    data: bytes, mime: str, kind: str, code: Code, make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await make().transcribe(data, "voice", mime)
    failure = caught.value
    assert (failure.kind, failure.code, failure.remedy) == (kind, code, Remedy.FAIL)
    assert "Send" in failure.text or "Record" in failure.text
    assert not provider.requests


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("status=400", "audio_rejected", "Record it again"),
        ("status=401", "bad_key", "operator"),
        ("status=402", "no_credit", "operator"),
        ("status=404", "no_model", "operator"),
        ("status=413", "audio_too_large", "shorter"),
        ("status=429,retry_after=3", "rate_limited", "moment"),
        ("status=500", "provider_error", "moment"),
    ],
)
async def test_a_refusal_says_what_the_speaker_can_do(
    model: str, kind: str, words: str, make: MakeTranscriber
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await make(model).transcribe(b"x", "a.ogg", "audio/ogg")
    assert caught.value.kind == kind
    assert words in caught.value.text
    assert "secret" not in caught.value.text


async def test_a_wait_that_the_service_asks_for_is_passed_on(make: MakeTranscriber) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await make("status=429,retry_after=3").transcribe(b"x", "a.ogg", "audio/ogg")
    assert caught.value.retry_after_s == 3.0


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"text": 5}', b'{"error": {"code": "x"}}'])
async def test_an_answer_without_a_text_is_a_failure(body: bytes) -> None:
    async with answering(sized(body)) as server:
        transcriber = HttpTranscriber(config(f"http://127.0.0.1:{server.port}/v1"), "m")
        with pytest.raises(ProviderFailure) as caught:
            await transcriber.transcribe(b"x", "a.ogg", "audio/ogg")
        assert caught.value.kind == "malformed"
        assert "speech service" in caught.value.text
        await transcriber.aclose()


async def test_a_service_that_is_not_there_is_a_failure() -> None:
    transcriber = HttpTranscriber(config("http://127.0.0.1:9/v1"), "m")
    with pytest.raises(ProviderFailure) as caught:
        await transcriber.transcribe(b"x", "a.ogg", "audio/ogg")
    assert caught.value.kind == "connect"
    assert "speech service" in caught.value.text
    await transcriber.aclose()


async def test_a_silent_service_is_left_at_the_deadline(
    make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await make("silent", deadline_s=0.02).transcribe(b"x", "a.ogg", "audio/ogg")
    assert caught.value.kind == "stt_late"
    await closed(provider)


async def test_cancelling_closes_the_connection_to_the_service(
    make: MakeTranscriber, provider: ScriptedProvider
) -> None:
    slow = make("silent")
    task = asyncio.create_task(slow.transcribe(b"x", "a.ogg", "audio/ogg"))
    async with asyncio.timeout(WAIT_S):
        await provider.arrived.wait()
    task.cancel()
    await asyncio.wait([task])
    await closed(provider)


# --- what is looked at before anybody is asked ---


class Desk:
    """Speech in front of the scripted service, with an account."""

    def __init__(self, provider: ScriptedProvider, **fields: object) -> None:
        self.billing = Billing(Ledger(now_ms=lambda: 0, clock=lambda: 0.0), PriceTable())
        settings = {"model": "fake", **fields}
        if "base_url" not in settings:
            settings["provider"] = "x"
        chosen = config(provider.base_url)
        self.speech = Speech(
            SpeechConfig(**settings),  # type: ignore[arg-type]
            lambda name: chosen if name == "x" else None,
            self.billing,
        )


async def test_what_does_not_tell_its_length_is_held_against_the_longest_it_can_be(
    provider: ScriptedProvider,
) -> None:
    desk = Desk(provider, price_per_minute=60.0, model="silent", deadline_s=0.05)
    ledger = desk.billing.ledger
    ledger.set_limits(1, 0, Limits(day_micro=9_000_000))
    with pytest.raises(BudgetExceeded):
        await desk.speech.transcribe(1, 5, b"OggS" + bytes(7_500))
    assert not provider.requests
    with pytest.raises(BridgeError, match="took too long"):
        await desk.speech.transcribe(1, 5, b"OggS" + bytes(6_000))
    assert (ledger.spent(1, 0).day, ledger.spent(1, 0).reserved) == (0, 0)
    await desk.speech.aclose()


async def test_a_model_of_the_price_list_costs_what_is_written_there(
    provider: ScriptedProvider,
) -> None:
    provider.reply_with = lambda request: "hi"
    desk = Desk(provider, model="whisper-1")
    written = await desk.speech.transcribe(1, 5, wav(60))
    # What the service tells counts, not what the recording says of itself.
    assert written.transcript.seconds == 3.0
    assert written.cost_micro == 300
    assert desk.billing.unpriced == 0
    await desk.speech.aclose()


async def test_a_model_without_a_price_is_free_and_counted(provider: ScriptedProvider) -> None:
    desk = Desk(provider)
    assert (await desk.speech.transcribe(1, 5, wav(60))).cost_micro == 0
    assert desk.billing.unpriced == 1
    await desk.speech.aclose()


async def test_a_service_of_its_own_goes_before_the_named_one(provider: ScriptedProvider) -> None:
    desk = Desk(provider, base_url=provider.base_url, api_key=Secret("sk-own"))
    written = await desk.speech.transcribe(1, 5, ogg(3))
    assert written.provider == "speech"
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-own"
    await desk.speech.aclose()


@pytest.mark.parametrize(
    ("model", "served"),
    [("", True), ("whisper-1", True), ("fake", True), ("x/fake", True), ("gpt-9", False)],
)
def test_the_model_goes_by_its_own_name_and_by_openais(model: str, served: bool) -> None:
    assert (
        Speech(SpeechConfig(provider="x", model="fake"), lambda name: None).serves(model) is served
    )
    assert not Speech(SpeechConfig(), lambda name: None).serves(model)


# --- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_recording", [wav, ogg, mp4, flac])
@pytest.mark.parametrize("seconds", [0.5, 61.0])
def test_a_recording_tells_its_length(
    make_recording: Callable[[float], bytes], seconds: float
) -> None:
    assert seconds_of(make_recording(seconds)) == pytest.approx(seconds, abs=0.001)


def webm(seconds: float) -> bytes:
    """As browsers record: sizes unknown, no duration, the last block ends it."""
    block = b"\xa3\x86\x81" + struct.pack(">h", 500) + b"\x80ab"
    cluster = b"\x1fC\xb6u\x01" + b"\xff" * 7 + b"\xe7\x84"
    cluster += struct.pack(">I", int(seconds * 1000) - 500) + block
    info = b"\x15I\xa9f\x87*\xd7\xb1\x83\x0fB@"
    return b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + b"\xff" * 7 + info + cluster


def told_webm(seconds: float) -> bytes:
    info = b"\x15I\xa9f\x8bD\x89\x88" + struct.pack(">d", seconds * 1000)
    return b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + b"\xff" * 7 + info


def mp3(seconds: float, *, begin: bytes = b"", frame: bytes = b"\xff\xfb\x90\x00") -> bytes:
    """128 kbit/s, 44,100 Hz: 417 bytes and 26.12 ms a frame."""
    return begin + (frame + bytes(413)) * round(seconds * 44_100 / 1152)


def tagged_mp3(seconds: float) -> bytes:
    return mp3(seconds, begin=b"ID3\4\0\0\0\0\1\x00" + bytes(128))


def variable_mp3(seconds: float) -> bytes:
    head = b"\xff\xfb\x90\x00" + bytes(32) + b"Xing" + struct.pack(">II", 1, 0)
    frames = struct.pack(">I", round(seconds * 44_100 / 1152))
    return head[:-4] + frames + bytes(417)


@pytest.mark.parametrize(
    ("make_recording", "kind"),
    [
        (wav, "wav"),
        (ogg, "ogg"),
        (mp4, "m4a"),
        (flac, "flac"),
        (webm, "webm"),
        (told_webm, "webm"),
        (mp3, "mp3"),
        (tagged_mp3, "mp3"),
        (variable_mp3, "mp3"),
    ],
)
@pytest.mark.parametrize("seconds", [3.0, 61.0, 599.0])
def test_a_recording_tells_what_it_is_and_how_long(
    make_recording: Callable[[float], bytes], kind: str, seconds: float
) -> None:
    recording = make_recording(seconds)
    assert kind_of(recording) == kind
    assert seconds_of(recording) == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n", b"hello", b"\xff\xf1\x50\x80", b"{}", b"\xff\xfb"]
)
def test_what_is_no_recording_has_no_kind(data: bytes) -> None:
    assert kind_of(data) == ""


def test_an_mp4_with_pictures_keeps_its_name() -> None:
    assert kind_of(mp4(1).replace(b"M4A ", b"isom")) == "mp4"


@pytest.mark.parametrize("data", [b"", b"ID3\4", b"\x1aE\xdf\xa3webm", b"RIFF", b"OggS", b"fLaC"])
def test_what_tells_no_length_has_none(data: bytes) -> None:
    assert seconds_of(data) is None


@given(
    st.sampled_from(
        [
            wav(0.01),
            ogg(1),
            mp4(1),
            flac(1),
            webm(1),
            told_webm(1),
            mp3(0.1),
            tagged_mp3(0.1),
            variable_mp3(1),
        ]
    ),
    st.integers(0, 400),
    st.binary(),
)
def test_a_damaged_recording_harms_nobody(recording: bytes, at: int, noise: bytes) -> None:
    seconds = seconds_of(recording[:at] + noise + recording[at + 2 * len(noise) :])
    assert seconds is None or seconds >= 0
