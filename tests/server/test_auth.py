"""Tokens: the key says how they are checked, and nothing in a token can change that."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import Code
from server.auth import KEY_FILE, AuthError, Tokens, make_tokens
from server.config import AuthConfig, KeyConfig, Secret

NOW_MS = 1_800_000_000_000
NOW_S = NOW_MS // 1000
SECRET = "s" * 32
HS = KeyConfig(kid="one", secret=Secret(SECRET))


def tokens(*keys: KeyConfig) -> Tokens:
    return Tokens(keys or [HS], "parlance", 3600, 60)


def forge(header: dict[str, Any] | None = None, key: str = SECRET, **claims: Any) -> str:
    payload = {
        "sub": "7",
        "tid": 1,
        "aud": "parlance",
        "iat": NOW_S,
        "nbf": NOW_S,
        "exp": NOW_S + 60,
    } | claims
    payload = {name: value for name, value in payload.items() if value is not None}
    algorithm = (header or {}).pop("alg", "HS256")
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": "one"} | (header or {}))


def refused(token: str, service: Tokens | None = None, now_ms: int = NOW_MS) -> Code:
    with pytest.raises(AuthError) as caught:
        (service or tokens()).verify(token, now_ms)
    return caught.value.code


def test_what_is_issued_is_accepted_with_all_it_says() -> None:
    service = tokens()
    said: dict[str, Any] = {"epoch": 4, "family": 2**53 - 1, "scopes": ["a"]}
    token, expires_ms = service.issue(7, 3, 1, b"d" * 16, NOW_MS, **said)
    claims = service.verify(token, NOW_MS)
    assert expires_ms == NOW_MS + 3_600_000
    assert (claims.user, claims.tenant, claims.kind, claims.epoch) == (7, 3, 1, 4)
    assert (claims.expires_ms, claims.issued_ms) == (expires_ms, NOW_MS)
    for now_ms in range(NOW_MS + 1, NOW_MS + 1000, 37):
        token, _ = service.issue(7, 3, 1, None, now_ms)
        assert service.verify(token, now_ms).issued_ms == now_ms
    assert (claims.device, claims.scopes) == (b"d".hex() * 16, ("a",))
    assert claims.family == 2**53 - 1


def test_a_token_without_a_sign_in_stands_alone() -> None:
    service = tokens()
    for token in (service.issue(7, 1, 0, None, NOW_MS)[0], forge()):
        assert service.verify(token, NOW_MS).family == 0


def test_two_tokens_of_one_second_differ() -> None:
    service = tokens()
    assert service.issue(7, 1, 0, None, NOW_MS)[0] != service.issue(7, 1, 0, None, NOW_MS)[0]


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": "other"}, Code.BAD_CREDENTIALS),
        ({"aud": ["other"]}, Code.BAD_CREDENTIALS),
        ({"aud": None}, Code.BAD_CREDENTIALS),
        ({"sub": None}, Code.BAD_CREDENTIALS),
        ({"sub": "0"}, Code.BAD_CREDENTIALS),
        ({"sub": "-1"}, Code.BAD_CREDENTIALS),
        ({"sub": "9" * 17}, Code.BAD_CREDENTIALS),
        ({"tid": None}, Code.BAD_CREDENTIALS),
        ({"tid": 0}, Code.BAD_CREDENTIALS),
        ({"tid": 2**60}, Code.BAD_CREDENTIALS),
        ({"exp": None}, Code.BAD_CREDENTIALS),
        ({"iat": None}, Code.BAD_CREDENTIALS),
        ({"exp": NOW_S - 60}, Code.EXPIRED),
        ({"exp": 1e300}, Code.EXPIRED),
        ({"nbf": NOW_S + 61}, Code.BAD_CREDENTIALS),
        ({"iat": NOW_S + 61}, Code.BAD_CREDENTIALS),
    ],
)
def test_claims_that_do_not_fit_are_refused(claims: dict[str, Any], code: Code) -> None:
    assert refused(forge(**claims)) == code


def test_clocks_may_differ_by_the_skew() -> None:
    service = tokens()
    assert service.verify(forge(exp=NOW_S - 59), NOW_MS).user == 7
    assert service.verify(forge(nbf=NOW_S + 60, iat=NOW_S + 60), NOW_MS).user == 7
    assert service.verify(forge(aud=["x", "parlance"], nbf=None), NOW_MS).user == 7


def test_the_token_has_no_say_in_the_algorithm() -> None:
    """A public key used as an HMAC secret is the classic forgery."""
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    service = tokens(KeyConfig(kid="one", alg="RS256", public_key=public.decode()))
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=")
    body = forge().split(".")[1].encode()
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(mac.sign(head + b"." + body, public)).rstrip(b"=")
    assert refused(b".".join((head, body, signature)).decode(), service) == Code.BAD_CREDENTIALS


@pytest.mark.parametrize("alg", ["none", "None", "HS512", ""])
def test_other_algorithms_are_refused(alg: str) -> None:
    _, body, signature = forge().split(".")
    header = json.dumps({"alg": alg, "kid": "one"}).encode()
    head = base64.urlsafe_b64encode(header).rstrip(b"=").decode()
    assert refused(f"{head}.{body}.{signature}") == Code.BAD_CREDENTIALS
    assert refused(f"{head}.{body}.") == Code.BAD_CREDENTIALS


def test_wrong_signatures_and_unknown_keys_are_refused() -> None:
    good = forge()
    assert refused(forge(key="t" * 32)) == Code.BAD_CREDENTIALS
    assert refused(forge({"kid": "two"})) == Code.BAD_CREDENTIALS
    assert refused(forge({"crit": ["b64"], "b64": False})) == Code.BAD_CREDENTIALS
    assert refused(good + "x" * 5000) == Code.BAD_CREDENTIALS
    head, body, signature = good.split(".")
    assert refused(f"{head}.{body[:-2]}AA.{signature}") == Code.BAD_CREDENTIALS
    assert refused(f"{head}.{body}.{signature}.{signature}") == Code.BAD_CREDENTIALS


@given(st.text(max_size=300))
def test_any_text_is_refused_in_a_typed_way(text: str) -> None:
    assert refused(text) == Code.BAD_CREDENTIALS


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_any_parts_are_refused_in_a_typed_way(parts: list[bytes]) -> None:
    text = ".".join(base64.urlsafe_b64encode(part).decode() for part in parts)
    assert refused(text) == Code.BAD_CREDENTIALS


def pem(private: Any) -> Secret:
    return Secret(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.mark.parametrize(
    ("alg", "private"),
    [
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
        ("RS256", rsa.generate_private_key(65537, 2048)),
    ],
)
def test_asymmetric_keys_sign_and_check(alg: Any, private: Any) -> None:
    signer = tokens(KeyConfig(kid="one", alg=alg, secret=pem(private)))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    checker = tokens(KeyConfig(kid="one", alg=alg, public_key=public.decode()))
    token, _ = signer.issue(7, 1, 0, None, NOW_MS)
    assert checker.verify(token, NOW_MS).user == 7
    assert signer.verify(token, NOW_MS).user == 7
    with pytest.raises(ValueError, match="no key can sign"):
        checker.issue(7, 1, 0, None, NOW_MS)


def test_tokens_of_others_have_no_epoch() -> None:
    assert tokens().verify(forge(), NOW_MS).epoch is None


def test_an_unusable_key_is_named_and_not_shown() -> None:
    with pytest.raises(ValueError, match=r"auth\.keys\[a\]: is not a usable RS256 key") as caught:
        tokens(KeyConfig(kid="a", alg="RS256", secret=Secret("geheim")))
    assert "geheim" not in str(caught.value)


def test_a_server_without_keys_makes_one_and_keeps_it(tmp_path: Path) -> None:
    first = make_tokens(AuthConfig(), tmp_path)
    token, _ = first.issue(7, 1, 0, None, NOW_MS)
    assert make_tokens(AuthConfig(), tmp_path).verify(token, NOW_MS).user == 7
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert make_tokens(AuthConfig(), tmp_path / "other") is not None
    assert refused(token, make_tokens(AuthConfig(), tmp_path / "other")) == Code.BAD_CREDENTIALS


def test_a_key_file_that_others_may_read_is_closed(tmp_path: Path) -> None:
    make_tokens(AuthConfig(), tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    make_tokens(AuthConfig(), tmp_path)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_broken_key_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("{")
    with pytest.raises(ValueError, match="remove it to get a new key"):
        make_tokens(AuthConfig(), tmp_path)
