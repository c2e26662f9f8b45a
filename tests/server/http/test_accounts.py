"""Signing up, in, on and out over HTTP."""

import base64
import time
from typing import Any

import pytest

from protocol.codes import Code
from protocol.envelopes import DeviceDrop
from server.handlers.people import drop
from server.http.callers import HttpCaller
from server.passwords import Passwords
from storage.accounts import set_disabled
from storage.devices import touch_devices
from storage.people import create_tenant
from storage.rows import DeviceTouch
from tests.server.http.conftest import Answer, Site

DEVICE = base64.b64encode(b"d" * 16).decode()


async def me(site: Site, token: str) -> Answer:
    return await site.ask("GET", "/api/v1/me", headers={"Authorization": f"Bearer {token}"})


async def test_a_new_account_is_signed_in_and_can_sign_in(site: Site) -> None:
    made = await site.register("Anna")
    assert made["user"]["name"] == "Anna"
    claims = await site.accounts.authenticate(made["token"])
    assert claims.user == made["user"]["id"]
    assert made["expires"] > time.time() * 1000
    again = await site.auth("login", name="ANNA", password="right password", device=DEVICE)
    assert again.status == 200
    assert again.headers["Cache-Control"] == "no-store"
    assert (await site.accounts.authenticate(again.json["token"])).device == b"d".hex() * 16


async def test_a_name_is_taken_in_every_spelling(site: Site) -> None:
    await site.register("Anna")
    answer = await site.auth("register", name="ＡＮＮＡ", password="right password")
    assert (answer.status, answer.error["code"]) == (409, Code.INVALID)


async def test_unknown_disabled_and_wrong_all_get_the_same_answer(site: Site) -> None:
    made = await site.register("Anna")
    asked = [
        {"name": "Anna", "password": "wrong password"},
        {"name": "Nobody", "password": "right password"},
        {"name": "A", "password": "right password"},
        {"name": "Anna", "password": "short"},
        {"name": "Anna", "password": "right password", "tenant": "other"},
    ]
    answers = [await site.auth("login", **body) for body in asked]
    await site.core.store.change([], lambda tx: set_disabled(tx, made["user"]["id"], True))
    answers.append(await site.auth("login", name="Anna", password="right password"))
    for answer in answers:
        answer.error.pop("request_id")
    assert {answer.status for answer in answers} == {401}
    assert len({str(answer.error) for answer in answers}) == 1


async def test_every_refusal_takes_one_hash(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.register("Anna")
    checked: list[bool] = []
    real = Passwords._check

    def count(self: Passwords, password_hash: str, password: str) -> Any:
        checked.append(True)
        return real(self, password_hash, password)

    monkeypatch.setattr(Passwords, "_check", count)
    for name, password in (("Anna", "wrong password"), ("Nobody", "x" * 9), ("A", "s")):
        checked.clear()
        await site.auth("login", name=name, password=password)
        assert checked == [True], name


async def test_guessing_is_slowed_down_for_the_account_only(site: Site) -> None:
    await site.register("Anna")
    await site.register("Bert")
    for _ in range(5):
        assert (await site.auth("login", name="Anna", password="wrong password")).status == 401
    answer = await site.auth("login", name="anna", password="right password")
    assert (answer.status, answer.error["code"]) == (429, Code.RATE)
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await site.auth("login", name="Bert", password="right password")).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "password": "right password"},
        {"name": "Anna\u202e", "password": "short"},
        {"name": "Anna"},
        {"name": 5, "password": "right password"},
        {"name": "Anna", "password": "right password", "device": "AAAA"},
        {"name": "Anna", "password": "right password", "nick": "n" * 65},
    ],
)
async def test_bad_accounts_are_refused_with_advice(site: Site, body: dict[str, Any]) -> None:
    answer = await site.auth("register", **body)
    assert (answer.status, answer.error["code"]) == (400, Code.INVALID)
    assert answer.error["message"]


async def test_guests_come_in_without_a_password(site: Site) -> None:
    first = await site.auth("guest", nick="小明")
    second = await site.auth("guest")
    assert (first.status, first.json["user"]["kind"]) == (201, 1)
    assert first.json["user"]["nick"] == "小明"
    assert first.json["user"]["name"] != second.json["user"]["name"]


@pytest.mark.parametrize("settings", [{"auth.registration": False, "auth.guests": False}])
async def test_doors_can_be_shut(site: Site) -> None:
    answer = await site.auth("register", name="Anna", password="right password")
    assert (answer.status, answer.error["code"]) == (403, Code.NOT_PERMITTED)
    assert (await site.auth("guest")).status == 403


async def test_a_refresh_token_is_good_once_and_reuse_ends_the_sign_in(site: Site) -> None:
    made = await site.register()
    first = await site.auth("refresh", refresh_token=made["refresh_token"])
    assert first.status == 200
    assert (await site.accounts.authenticate(first.json["token"])).user == made["user"]["id"]
    # The thief, or the owner after the thief: both lose.
    again = await site.auth("refresh", refresh_token=made["refresh_token"])
    assert (again.status, again.error["code"]) == (401, Code.EXPIRED)
    after = await site.auth("refresh", refresh_token=first.json["refresh_token"])
    assert after.status == 401


async def test_a_lost_answer_can_be_asked_for_again_with_the_same_attempt(site: Site) -> None:
    made = await site.register()
    attempt = base64.b64encode(b"a" * 16).decode()
    body = {"refresh_token": made["refresh_token"], "attempt": attempt}
    first = await site.auth("refresh", **body)
    second = await site.auth("refresh", **body)
    assert first.json["refresh_token"] == second.json["refresh_token"]
    assert (await site.auth("refresh", refresh_token=second.json["refresh_token"])).status == 200


async def test_another_attempt_with_a_spent_token_is_theft(site: Site) -> None:
    made = await site.register()
    for attempt, status in ((b"a", 200), (b"b", 401), (b"a", 401)):
        text = base64.b64encode(attempt * 16).decode()
        body = {"refresh_token": made["refresh_token"], "attempt": text}
        assert (await site.auth("refresh", **body)).status == status


async def test_logging_out_ends_the_sign_in(site: Site) -> None:
    made = await site.register()
    for _ in range(2):
        answer = await site.auth("logout", refresh_token=made["refresh_token"])
        assert answer.status == 204
    assert (await site.auth("refresh", refresh_token=made["refresh_token"])).status == 401


async def test_the_tokens_of_a_sign_in_end_with_it_and_others_go_on(site: Site) -> None:
    made = await site.register()
    other = await site.auth("login", name="Anna", password="right password")
    renewed = await site.auth("refresh", refresh_token=made["refresh_token"])
    ours, theirs = [
        await site.accounts.authenticate(t) for t in (made["token"], other.json["token"])
    ]
    again = await site.accounts.authenticate(renewed.json["token"])
    assert ours.family == again.family != theirs.family
    # A route that remembers tokens for a moment: what is ended here counts at once.
    assert (await me(site, made["token"])).status == 200
    await site.auth("logout", refresh_token=renewed.json["refresh_token"])
    for token in (made["token"], renewed.json["token"]):
        answer = await me(site, token)
        assert (answer.status, answer.error["code"]) == (401, Code.REVOKED)
    assert (await me(site, other.json["token"])).status == 200


async def test_theft_of_a_refresh_token_ends_the_tokens_too(site: Site) -> None:
    made = await site.register()
    renewed = await site.auth("refresh", refresh_token=made["refresh_token"])
    assert (await site.auth("refresh", refresh_token=made["refresh_token"])).status == 401
    assert (await me(site, renewed.json["token"])).error["code"] == Code.REVOKED


async def test_a_device_that_was_signed_out_elsewhere_cannot_come_back(site: Site) -> None:
    made = await site.register()
    user = made["user"]["id"]
    other = await site.auth("login", name="Anna", password="right password")
    lost = await site.auth("login", name="Anna", password="right password")
    for _ in range(3):
        lost = await site.auth("refresh", refresh_token=lost.json["refresh_token"])
    family = (await site.accounts.authenticate(lost.json["token"])).family
    touch = DeviceTouch(user, b"t" * 16, "web", "", family)
    await site.core.store.change([user], lambda tx: touch_devices(tx, [touch]))
    asker = HttpCaller(user, 1)
    assert (await me(site, lost.json["token"])).status == 200
    await drop(site.core, asker, DeviceDrop(1, b"t" * 16))
    assert (await me(site, lost.json["token"])).error["code"] == Code.REVOKED
    assert (await site.auth("refresh", refresh_token=lost.json["refresh_token"])).status == 401
    for kept in (made, other.json):
        assert (await me(site, kept["token"])).status == 200
        assert (await site.auth("refresh", refresh_token=kept["refresh_token"])).status == 200


async def test_a_token_from_before_sign_ins_were_named_is_good_until_it_ends(site: Site) -> None:
    made = await site.register()
    user = made["user"]["id"]
    now_ms = int(time.time() * 1000)
    token, _ = site.core.tokens.issue(user, 1, 0, None, now_ms)
    assert (await me(site, token)).status == 200
    await site.auth("logout", refresh_token=made["refresh_token"])
    assert (await me(site, token)).status == 200


@pytest.mark.parametrize("text", ["", "rt_x", "ü", "x" * 1000])
async def test_any_text_as_refresh_token_is_refused(site: Site, text: str) -> None:
    assert (await site.auth("refresh", refresh_token=text)).status == 401


async def test_a_new_password_ends_every_other_sign_in(site: Site) -> None:
    made = await site.register()
    told: list[int] = []
    site.accounts.revoked = told.append
    body = {"old": "right password", "new": "better password"}
    changed = await site.auth("password", made["token"], **body)
    assert changed.status == 200
    assert told == [made["user"]["id"]]
    # The old token and the old refresh token are void, the new ones are good.
    assert (await site.auth("password", made["token"], **body)).error["code"] == Code.REVOKED
    assert (await site.auth("refresh", refresh_token=made["refresh_token"])).status == 401
    fresh = await site.auth("refresh", refresh_token=changed.json["refresh_token"])
    assert fresh.status == 200
    assert (await site.auth("login", name="Anna", password="right password")).status == 401
    assert (await site.auth("login", name="Anna", password="better password")).status == 200


async def test_the_old_password_must_be_right(site: Site) -> None:
    made = await site.register()
    answer = await site.auth("password", made["token"], old="wrong one", new="better password")
    assert (answer.status, answer.error["code"]) == (401, Code.BAD_CREDENTIALS)
    answer = await site.auth("password", old="right password", new="better password")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_service_signs_in_its_users_by_its_key(site: Site) -> None:
    keys = site.accounts.api_keys
    tenant = await site.core.store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
    key, text = await keys.create(tenant.id, "site", ["exchange"])
    first = await site.auth("exchange", text, user="user-17@acme", nick="Seventeen")
    second = await site.auth("exchange", text, user="user-17@acme")
    assert first.status == second.status == 200
    assert first.json["user"]["id"] == second.json["user"]["id"]
    claims = await site.accounts.authenticate(second.json["token"])
    assert claims.tenant == first.json["tenant"] == tenant.id
    assert key.last_used == 0


async def test_keys_are_checked_for_scope_and_revocation_each_time(site: Site) -> None:
    from storage.accounts import list_api_keys, revoke_api_key

    keys = site.accounts.api_keys
    _, other = await keys.create(1, "figures", ["metrics"])
    key, text = await keys.create(1, "site", ["exchange"])
    assert (await site.auth("exchange", other, user="u")).error["code"] == Code.NOT_PERMITTED
    assert (await site.auth("exchange", "pk_guess", user="u")).status == 401
    assert (await site.auth("exchange", text, user="u")).status == 200
    stored = {one.id: one for one in await site.core.store.read(list_api_keys(1))}
    assert stored[key.id].last_used > 0
    await site.core.store.change([], lambda tx: revoke_api_key(tx, 1, key.id))
    assert (await site.auth("exchange", text, user="u")).status == 401


async def test_a_disabled_user_of_a_service_stays_out(site: Site) -> None:
    _, text = await site.accounts.api_keys.create(1, "site", ["exchange"])
    made = await site.auth("exchange", text, user="u")
    user = made.json["user"]["id"]
    await site.core.store.change([], lambda tx: set_disabled(tx, user, True))
    assert (await site.auth("exchange", text, user="u")).status == 403
    answer = await site.auth("password", made.json["token"], old="x" * 8, new="y" * 8)
    assert answer.error["code"] == Code.REVOKED
