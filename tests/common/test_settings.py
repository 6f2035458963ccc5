"""Settings come from the environment, and everything wrong with them is said at once."""

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ServiceSettings, SettingsError, load_settings


class ProbeSettings(ServiceSettings):
    """Settings of a service that exists in this test only."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_PROBE_")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    bundle = tmp_path / "bundle.json"
    bundle.write_text("{}")
    monkeypatch.setenv("TOLLHOUSE_PROBE_DATABASE_URL", "postgres://someone:hidden@db.example/probe")
    monkeypatch.setenv("TOLLHOUSE_PROBE_TRUST_BUNDLE_FILE", str(bundle))
    return monkeypatch


def test_defaults_hold_where_nothing_is_said(environment: pytest.MonkeyPatch) -> None:
    settings = load_settings(ProbeSettings)
    assert (settings.host, settings.port, settings.pool_size, settings.tls) == ("127.0.0.1", 0, 8, None)
    assert "hidden" not in repr(settings)


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
