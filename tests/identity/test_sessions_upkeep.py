"""How long data about sessions is kept, and the settings that sessions need."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.authentication import SigningKey
from libs.common.clock import SystemClock
from libs.common.database import Database, open_database
from libs.common.errors import Unavailable
from libs.common.settings import SettingsError, load_settings
from services.identity.api_key.secret import Peppers
from services.identity.errors import InvalidRefreshToken
from services.identity.housekeeping import SESSIONS_KEPT, Housekeeping
from services.identity.session import refresh_token
from services.identity.session.attempts import WrongTokens
from services.identity.session.sessions import Sessions
from services.identity.settings import IdentitySettings
from services.identity.token_form import digest
from tests.identity.refusals import refused
from tests.identity.sign_ins import WRONG_PASSWORD, open_sign_ins
from tests.support.callers import Callers

ISSUER = {"provider": "acme", "issuer": "https://accounts.test", "client_ids": ["a"]}


async def _rows(database: Database) -> dict[str, int]:
    counts: dict[str, int] = {}
    async with database.raw_connection() as connection:
        for name, statement in (
            ("sessions", "SELECT count(*) FROM sessions"),
            ("refresh_tokens", "SELECT count(*) FROM refresh_tokens"),
            ("sign_in_attempts", "SELECT count(*) FROM sign_in_attempts"),
        ):
            counts[name] = await connection.fetchval(statement)
    return counts


async def test_what_is_over_is_forgotten_and_what_goes_on_is_not(
    database_urls: dict[str, str], tmp_path: Path, identity_database: Database
) -> None:
    async with open_sign_ins(database_urls["identity"], tmp_path) as site:
        upkeep = Housekeeping(identity_database, site.clock)
        user = await site.create_user()
        old = await site.sign_in(user.email)
        await site.refresh(old.tokens.refresh_token)
        await refused(site.sign_in("nobody", WRONG_PASSWORD))
        await upkeep.forget()
        assert await _rows(identity_database) == {"sessions": 1, "refresh_tokens": 2, "sign_in_attempts": 2}
        site.clock.advance(timedelta(days=29))
        current = await site.sign_in(user.email)
        site.clock.advance(timedelta(days=1, seconds=1))
        await upkeep.forget()
        assert await _rows(identity_database) == {"sessions": 2, "refresh_tokens": 1, "sign_in_attempts": 0}
        assert (await site.refresh(current.tokens.refresh_token)).session.session_id == current.session.session_id
        site.clock.advance(SESSIONS_KEPT - timedelta(seconds=1))
        await upkeep.forget()
        assert (await _rows(identity_database))["sessions"] == 2
        site.clock.advance(timedelta(seconds=1))
        await upkeep.forget()
        assert await _rows(identity_database) == {"sessions": 1, "refresh_tokens": 0, "sign_in_attempts": 0}


async def test_a_made_up_refresh_token_never_reaches_the_database() -> None:
    nowhere = open_database("postgresql://nobody@127.0.0.1:1/nothing", schema="identity")
    peppers = Peppers({1: bytes(32)})
    sessions = Sessions(nowhere, SystemClock(), peppers, WrongTokens(nowhere, SystemClock(), peppers, per_address=1))
    token = refresh_token.FORM.new()
    for made_up in (token[:-1], token + "0", token.swapcase(), "th_live_" + token[8:], token[:-1] + "\N{SNOWMAN}"):
        with pytest.raises(InvalidRefreshToken):
            await sessions.refresh(made_up, request_id="")
    with pytest.raises(Unavailable):
        await sessions.refresh(token, request_id="")
    await nowhere.close()


def test_a_stolen_table_and_a_request_id_do_not_give_the_next_token() -> None:
    token, ours, theirs = refresh_token.FORM.new(), Peppers({1: b"1" * 32}), Peppers({1: b"2" * 32})
    successor = refresh_token.derived_token(ours, token, "exchange-1")
    assert refresh_token.FORM.is_well_formed(successor)
    assert refresh_token.derived_token(ours, token, "exchange-1") == successor
    others = {
        refresh_token.derived_token(ours, token, "exchange-2"),
        refresh_token.derived_token(ours, refresh_token.FORM.new(), "exchange-1"),
        refresh_token.derived_token(theirs, token, "exchange-1"),
    }
    assert len(others | {successor}) == 4
    stored = digest(successor)
    assert refresh_token.find_derived_token(ours, token, "exchange-1", stored) == successor
    assert refresh_token.find_derived_token(theirs, token, "exchange-1", stored) is None


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    peppers = tmp_path / "peppers.json"
    peppers.write_text(json.dumps({"1": "11" * 32}))
    monkeypatch.setenv("TOLLHOUSE_IDENTITY_DATABASE_URL", "postgresql://identity@127.0.0.1/tollhouse")
    monkeypatch.setenv("TOLLHOUSE_IDENTITY_PEPPERS", str(peppers))
    monkeypatch.setenv("TOLLHOUSE_IDENTITY_TRUST_BUNDLE_FILE", str(Callers(tmp_path).bundle_file))
    return monkeypatch


def test_sessions_need_no_settings(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(IdentitySettings)
    assert isinstance(settings.database_url, SecretStr)
    assert (settings.session_key_file, settings.issuers) == (None, ())
    environment.setenv("TOLLHOUSE_IDENTITY_OIDC_ISSUERS", "")
    assert load_settings(IdentitySettings).issuers == ()


def test_issuers_come_from_the_environment_and_from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "issuers.json"
    file.write_text(json.dumps([ISSUER]))
    google = {"provider": "google", "issuer": "https://accounts.google.com", "client_ids": ["g"], "sign_up": False}
    environment.setenv("TOLLHOUSE_IDENTITY_OIDC_ISSUERS", json.dumps([google]))
    environment.setenv("TOLLHOUSE_IDENTITY_OIDC_ISSUERS_FILE", str(file))
    told = [(issuer.provider, issuer.sign_up) for issuer in load_settings(IdentitySettings).issuers]
    assert told == [("google", False), ("acme", True)]


@pytest.mark.parametrize(
    "issuers",
    [
        "not json",
        "{}",
        json.dumps([ISSUER | {"client_secret": "s3cret-s3cret"}]),
        json.dumps([ISSUER | {"algorithms": ["HS256"]}]),
        json.dumps([ISSUER | {"issuer": "http://accounts.test"}]),
        json.dumps([ISSUER, ISSUER | {"issuer": "https://other.test"}]),
        json.dumps([ISSUER, ISSUER | {"provider": "other"}]),
    ],
)
def test_wrong_issuers_are_reported_at_the_start_without_their_values(
    environment: pytest.MonkeyPatch, issuers: str
) -> None:
    environment.setenv("TOLLHOUSE_IDENTITY_OIDC_ISSUERS", issuers)
    with pytest.raises(SettingsError) as error:
        load_settings(IdentitySettings)
    assert "OIDC" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_key_that_could_not_sign_is_reported_at_the_start(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = SigningKey.generate(issuer="sessions.test", subject="user:*")
    public = good.model_copy(update={"key": good.trusted().keys[0]})
    nameless = good.model_copy(update={"key": {n: v for n, v in good.key.items() if n != "kid"}})
    for number, content in enumerate(("x", "{}", public.model_dump_json(), nameless.model_dump_json())):
        file = tmp_path / f"key-{number}.json"
        file.write_text(content)
        environment.setenv("TOLLHOUSE_IDENTITY_SESSION_KEY_FILE", str(file))
        with pytest.raises(SettingsError, match="TOLLHOUSE_IDENTITY_SESSION_KEY_FILE"):
            load_settings(IdentitySettings)
    good.write(tmp_path / "good.json")
    environment.setenv("TOLLHOUSE_IDENTITY_SESSION_KEY_FILE", str(tmp_path / "good.json"))
    assert load_settings(IdentitySettings).session_key_file == tmp_path / "good.json"
