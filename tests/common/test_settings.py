"""Settings come from the environment, and all problems with them are reported at once."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ServiceSettings, SettingsError, ShardedSettings, load_settings


class ProbeSettings(ServiceSettings):
    """Settings of a service that exists only in this test."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_PROBE_")


class ProbeShardedSettings(ShardedSettings):
    """Settings of a service with shards that exists only in this test."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_PROBE_")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    bundle = tmp_path / "bundle.json"
    bundle.write_text("{}")
    monkeypatch.setenv("TOLLHOUSE_PROBE_DATABASE_URL", "postgres://someone:hidden@db.example/probe")
    monkeypatch.setenv("TOLLHOUSE_PROBE_TRUST_BUNDLE_FILE", str(bundle))
    return monkeypatch


def test_unset_variables_get_their_defaults(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(ProbeSettings)
    assert (settings.host, settings.port, settings.pool_size, settings.tls) == ("127.0.0.1", 0, 8, None)
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(("shards", "pool_size"), [("1", 8), ("2", 8), ("3", 12), ("8", 32), ("256", 32)])
def test_pool_grows_with_the_shards_unless_its_size_is_given(
    environment: pytest.MonkeyPatch, shards: str, pool_size: int
) -> None:
    environment.setenv("TOLLHOUSE_SHARDS", shards)
    assert load_settings(ProbeShardedSettings).pool_size == pool_size
    environment.setenv("TOLLHOUSE_PROBE_POOL_SIZE", "5")
    assert load_settings(ProbeShardedSettings).pool_size == 5


def test_all_problems_are_reported_at_once_by_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("TOLLHOUSE_PROBE_TRUST_BUNDLE_FILE")
    environment.setenv("TOLLHOUSE_PROBE_DATABASE_URL", "mysql://someone:hidden@db.example/probe")
    environment.setenv("TOLLHOUSE_PROBE_PORT", "99999")
    environment.setenv("TOLLHOUSE_PROBE_TLS_KEY_FILE", "/nowhere/key.pem")
    with pytest.raises(SettingsError) as raised:
        load_settings(ProbeSettings)
    named = {problem.partition(":")[0].removeprefix("TOLLHOUSE_PROBE_") for problem in raised.value.problems}
    assert named == {
        "DATABASE_URL",
        "PORT",
        "TRUST_BUNDLE_FILE",
        "TLS_KEY_FILE",
        "TLS_CERTIFICATE_FILE",
        "TLS_CLIENT_CA_FILE",
    }
    assert "hidden" not in str(raised.value)


def test_standard_telemetry_variable_is_read_where_ours_is_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    assert load_settings(ProbeSettings).otlp_endpoint == "http://collector:4317"
    environment.setenv("TOLLHOUSE_PROBE_OTLP_ENDPOINT", "http://own:4317")
    assert load_settings(ProbeSettings).otlp_endpoint == "http://own:4317"


PASSWORD = "p@s:s/w$RD%41"
PARTS = {"DB_HOST": "db.example", "DB_PORT": "6432", "DB_NAME": "toll house", "DB_USER": "ada", "DB_PASSWORD": PASSWORD}


@pytest.fixture
def without_url(environment: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment without any URL, in an empty working folder for a `.env` file."""
    for name in ("TOLLHOUSE_PROBE_DATABASE_URL", "DATABASE_URL", *PARTS):
        environment.delenv(name, raising=False)
    environment.chdir(tmp_path)
    return environment


def url_of_probe() -> str:
    return load_settings(ProbeSettings).database_url.get_secret_value()


def test_url_is_built_from_the_database_variables(without_url: pytest.MonkeyPatch) -> None:
    for name, value in PARTS.items():
        without_url.setenv(name, value)
    parts = urlsplit(url_of_probe())
    assert (parts.hostname, parts.port, unquote(parts.path)) == ("db.example", 6432, "/toll house")
    assert (parts.username, unquote(parts.password or "")) == ("ada", PASSWORD)


def test_database_variables_without_a_user_use_the_services_role(without_url: pytest.MonkeyPatch) -> None:
    without_url.setenv("DB_HOST", "/run/postgresql")
    without_url.setenv("DB_NAME", "tollhouse")
    assert url_of_probe() == "postgresql://tollhouse_probe@/tollhouse?host=/run/postgresql&port=5432"


def test_url_overrides_parts_and_the_services_url_overrides_the_common_one(without_url: pytest.MonkeyPatch) -> None:
    for name, value in PARTS.items():
        without_url.setenv(name, value)
    without_url.setenv("DATABASE_URL", "postgresql://common@db/common")
    assert url_of_probe() == "postgresql://common@db/common"
    without_url.setenv("TOLLHOUSE_PROBE_DATABASE_URL", "postgresql://own@db/own")
    assert url_of_probe() == "postgresql://own@db/own"


def test_environment_takes_precedence_over_the_env_file(without_url: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [f"{name}='{value}'" for name, value in PARTS.items()]
    (tmp_path / ".env").write_text("\n".join([*lines, "TOLLHOUSE_PROBE_POOL_SIZE=3", "SOMETHING_ELSE=x"]))
    assert load_settings(ProbeSettings).pool_size == 3
    assert unquote(urlsplit(url_of_probe()).password or "") == PASSWORD
    without_url.setenv("DB_HOST", "other.example")
    without_url.setenv("TOLLHOUSE_PROBE_POOL_SIZE", "5")
    assert load_settings(ProbeSettings).pool_size == 5
    assert urlsplit(url_of_probe()).hostname == "other.example"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_secrets_are_read_from_files(without_url: pytest.MonkeyPatch, tmp_path: Path, ending: str) -> None:
    (tmp_path / "url").write_bytes(f"postgresql://own:hidden@db/own{ending}".encode())
    without_url.setenv("TOLLHOUSE_PROBE_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert url_of_probe() == "postgresql://own:hidden@db/own"
    without_url.delenv("TOLLHOUSE_PROBE_DATABASE_URL_FILE")
    (tmp_path / "password").write_bytes(f"hid den{ending}".encode())
    without_url.setenv("DB_HOST", "db")
    without_url.setenv("DB_NAME", "own")
    without_url.setenv("DB_PASSWORD_FILE", str(tmp_path / "password"))
    assert url_of_probe() == "postgresql://tollhouse_probe:hid%20den@db:5432/own"


def test_database_problems_are_reported_together_with_all_others(
    without_url: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hidden")
    without_url.setenv("DB_HOST", "db")
    without_url.setenv("DB_PORT", "70000")
    without_url.setenv("DB_PASSWORD", "hidden")
    without_url.setenv("DB_PASSWORD_FILE", str(tmp_path / "password"))
    without_url.setenv("TOLLHOUSE_PROBE_PORT", "99999")
    with pytest.raises(SettingsError) as raised:
        load_settings(ProbeSettings)
    named = {problem.partition(":")[0] for problem in raised.value.problems}
    assert named == {"DB_NAME", "DB_PORT", "DB_PASSWORD and DB_PASSWORD_FILE", "TOLLHOUSE_PROBE_PORT"}
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 100_000, None])
def test_unreadable_secret_file_is_named(
    without_url: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "url").write_bytes(content)
    without_url.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(SettingsError) as raised:
        load_settings(ProbeSettings)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["DATABASE_URL_FILE"]
