"""What every service can be told from outside, by environment variables and a `.env` file.

A service subclasses `ServiceSettings` and gives its prefix, e.g. `TOLLHOUSE_BILLING_`. `load_settings` reports every
problem at once, each by the name of its variable, and never repeats a value: a misplaced secret stays out of the logs.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeVar

from pydantic import AliasChoices, Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.common.addresses import Network
from libs.common.database_url import InvalidDatabaseUrl, plain_url
from libs.common.environment import ENV_FILE, VariablesError, database_url, read_environment
from libs.common.roles import role_of
from libs.common.sealing import InvalidSealingKeys, SealingKeys

_UNUSED_URL = "postgresql://nobody@localhost/unused"
"""Stands in for a URL that could not be read, so that whatever else is wrong is found as well."""
_PREFIX = "TOLLHOUSE_"
_TLS_FIELDS = ("tls_certificate_file", "tls_key_file", "tls_client_ca_file")


class LogLevel(StrEnum):
    """How much a service writes to its log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class SmtpSecurity(StrEnum):
    """How a mail server is spoken to."""

    STARTTLS = "STARTTLS"
    TLS = "TLS"
    NONE = "NONE"


POOL_SIZE_MAX: Final = 32
"""The most connections that a pool has for the work of several shards, unless the environment says more."""
CONNECTIONS_OF_A_SHARD: Final = 4
"""How many connections of such a pool are for each shard. Up to eight shards a connection belongs to one for good."""


class ServiceSettings(BaseSettings):
    """The settings all services share. Subclasses set `model_config = SettingsConfigDict(env_prefix=…)`."""

    # A `.env` file holds variables of others, too.
    model_config = SettingsConfigDict(extra="ignore")

    database_url: SecretStr
    """The Postgres database, as the service's own role. Where it is not set, `DATABASE_URL` is read, and then
    `DB_HOST`, `DB_PORT`, `DB_NAME`, `DB_USER` (the service's role when not set) and `DB_PASSWORD`."""
    pool_size: int = Field(default=8, ge=1, le=100)
    """Connections of one process for its ordinary work. Where nothing is said, billing and metering have four for each
    shard, at least 8 and at most 32."""
    statement_cache_size: int = Field(default=100, ge=0, le=10_000)
    """How many prepared statements a connection keeps. 0 where a transaction-pooling proxy such as PgBouncer stands
    before Postgres: then nothing is sent or kept that such a proxy cannot carry."""

    host: str = "127.0.0.1"
    """The address the service listens on."""
    port: int = Field(default=0, ge=0, le=65_535)
    """0 takes a free port."""
    reuse_port: bool = False
    """Several processes share one port; otherwise a taken port is an error."""
    reflection: bool = True
    """Whether the contract can be asked for by gRPC reflection, as grpcurl does."""

    trust_bundle_file: FilePath
    """The trust bundle: the public keys whose tokens callers may present. A change is taken up within a second."""
    tls_certificate_file: FilePath | None = None
    """The server's certificate, in PEM."""
    tls_key_file: FilePath | None = None
    """The key of the certificate."""
    tls_client_ca_file: FilePath | None = None
    """The authority whose certificates callers must present. With all three files the server speaks mutual TLS, with
    none it speaks plain text."""

    trusted_proxies: tuple[Network, ...] = ()
    """Networks, as a JSON list, of the proxies that stand before this service. A caller's address is read from their
    `x-forwarded-for`; nobody else's is believed."""

    calls_max: int = Field(default=4096, ge=1, le=100_000)
    """Calls one process handles at a time; a further one is told at once that the service is overloaded."""
    drain_grace_s: float = Field(default=10, ge=0, le=300)
    """How long calls under way may take when the service is told to stop."""
    default_deadline_ms: int = Field(default=30_000, ge=1, le=600_000)
    """The longest that a call may take, and the deadline of a call that names none."""

    event_keys_file: FilePath | None = None
    """A JSON file `{"<version>": "<hex>"}` with the keys that encrypt the secrets of event endpoints, each of 32 bytes.
    The highest version is used for new secrets; the others still read older ones. Without it no event is sent."""
    event_allowed_networks: tuple[Network, ...] = ()
    """Networks, as a JSON list, to which events may be sent beside public addresses, also without TLS."""
    event_ca_file: FilePath | None = None
    """An authority, in PEM, whose certificates event endpoints may have beside those that the system trusts."""
    event_look_every_s: float = Field(default=1, ge=0.05, le=60)
    """How often new events and deliveries that are due are looked for."""
    event_attempt_timeout_s: float = Field(default=15, ge=0.1, le=60)
    """How long one attempt to send an event may take."""
    event_attempts_max: int = Field(default=64, ge=1, le=1_000)
    """How many attempts one process has under way at a time."""
    event_attempts_per_endpoint_max: int = Field(default=8, ge=1, le=100)
    """How many of these go to one endpoint; one alone while its attempts fail."""
    event_retry_hours: int = Field(default=72, ge=1, le=144)
    """How long the delivery of an event is tried again."""
    event_order_wait_s: int = Field(default=3_600, ge=1, le=86_400)
    """How long an event waits for the event before it of the same subject that cannot be delivered."""
    event_endpoint_off_after_hours: int = Field(default=120, ge=1, le=720)
    """After how long in which every attempt has failed an endpoint is switched off."""
    event_retention_days: int = Field(default=30, ge=7, le=400)
    """How long events and their deliveries are kept."""

    smtp_host: str | None = None
    """The mail server that takes mail for people; without it no mail is sent. It needs `smtp_from` and
    `event_keys_file`. See docs/events.md."""
    smtp_port: int = Field(default=587, ge=1, le=65_535)
    """Its port."""
    smtp_security: SmtpSecurity = SmtpSecurity.STARTTLS
    """STARTTLS, TLS from the beginning, or NONE, which is for a server on the same machine."""
    smtp_user: str | None = None
    """The login at the mail server, where it wants one."""
    smtp_password_file: FilePath | None = None
    """The file with the password of that login."""
    smtp_from: str | None = None
    """The address that mail comes from; needed with `smtp_host`."""
    smtp_invitation_link: str | None = None
    """What a mail tells somebody who is invited to open, with `{token}` for the token; the token alone if not set."""

    log_level: LogLevel = LogLevel.INFO
    """How much is logged: DEBUG, INFO, WARNING or ERROR."""
    otlp_endpoint: str | None = None
    """Where traces and metrics go; `OTEL_EXPORTER_OTLP_ENDPOINT` is read when this is not set."""

    @field_validator("database_url")
    @classmethod
    def _database_url_is_postgres(cls, url: SecretStr) -> SecretStr:
        try:
            plain_url(url.get_secret_value())
        except InvalidDatabaseUrl as error:
            raise ValueError(str(error)) from None
        return url

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level_in_any_case(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @model_validator(mode="after")
    def _otlp_endpoint_falls_back_to_the_standard_variable(self) -> Self:
        if not self.otlp_endpoint:
            self.otlp_endpoint = read_environment().get("OTEL_EXPORTER_OTLP_ENDPOINT") or None
        return self

    @field_validator("event_keys_file")
    @classmethod
    def _event_keys_are_usable(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                SealingKeys.read(path)
            except InvalidSealingKeys as error:
                raise ValueError(str(error)) from None
        return path

    @model_validator(mode="after")
    def _mail_reaches_people(self) -> Self:
        if self.smtp_host and not self.smtp_from:
            raise ValueError("smtp_from is not set, though smtp_host is")
        if self.smtp_host and self.event_keys_file is None:
            raise ValueError("event_keys_file is not set, though smtp_host is, and whom mail goes to is kept encrypted")
        if self.smtp_invitation_link and "{token}" not in self.smtp_invitation_link:
            raise ValueError("smtp_invitation_link has no {token}, so that nobody could accept")
        return self

    @property
    def tls(self) -> tuple[Path, Path, Path] | None:
        """Certificate, key and client authority, or None for plain text."""
        if self.tls_certificate_file and self.tls_key_file and self.tls_client_ca_file:
            return self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file
        return None


class ShardedSettings(ServiceSettings):
    """The settings of services whose organizations are spread over shards."""

    shards: int = Field(default=1, ge=1, le=256, validation_alias=AliasChoices("TOLLHOUSE_SHARDS"))
    """How many schemas hold the data of organizations, each organization in one of them. It is fixed when the database
    is made, and is the same for billing and metering; a service that believes otherwise does not start."""

    @model_validator(mode="after")
    def _pool_grows_with_the_shards(self) -> Self:
        """A connection that turns to another shard plans its statements anew, so most should stay with theirs."""
        if "pool_size" not in self.model_fields_set:
            self.pool_size = min(max(self.pool_size, CONNECTIONS_OF_A_SHARD * self.shards), POOL_SIZE_MAX)
        return self


class SettingsError(Exception):
    """Every problem found in a service's environment, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("The settings are invalid:\n" + "\n".join(f"  {problem}" for problem in problems))


S = TypeVar("S", bound=ServiceSettings)


def load_settings(settings: type[S]) -> S:
    """Return a service's settings from the environment.

    Raises:
        SettingsError: with everything that is wrong.
    """
    try:
        environment = read_environment()
    except VariablesError as error:
        raise SettingsError(list(error.problems)) from None
    problems = _incomplete_tls(settings, environment)
    given: dict[str, object] = {"_env_file": ENV_FILE}
    try:
        names = (variable_name(settings, "database_url"), "DATABASE_URL")
        url = database_url(environment, names, user=_role(settings))
        if url is not None:
            given["database_url"] = url
    except VariablesError as error:
        problems.extend(error.problems)
        given["database_url"] = _UNUSED_URL
    loaded: S | None = None
    from_environment: Callable[..., S] = settings
    try:
        loaded = from_environment(**given)
    except ValidationError as error:
        problems[:0] = [_problem(settings, detail) for detail in error.errors(include_input=False, include_url=False)]
    if loaded is None or problems:
        raise SettingsError(problems)
    return loaded


def _role(settings: type[ServiceSettings]) -> str | None:
    """Return the role a service logs in as; its context stands in its variables' prefix."""
    context = settings.model_config.get("env_prefix", "").removeprefix(_PREFIX).rstrip("_").lower()
    return role_of(context) if context else None


def variable_name(settings: type[ServiceSettings], field: str) -> str:
    """The environment variable that sets a field."""
    alias = settings.model_fields[field].validation_alias if field in settings.model_fields else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    if isinstance(alias, str):
        return alias
    return f"{settings.model_config.get('env_prefix', '')}{field}".upper()


def _problem(settings: type[ServiceSettings], detail: ErrorDetails) -> str:
    where = str(detail["loc"][0]) if detail["loc"] else ""
    name = variable_name(settings, where) if where else "the environment"
    if detail["type"] == "missing":
        return f"{name}: is not set"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"


def _incomplete_tls(settings: type[ServiceSettings], environment: Mapping[str, str]) -> list[str]:
    """The TLS variables still to be set, where some but not all are.

    This looks at the environment itself, so that it is reported together with whatever else is wrong.
    """
    names = [variable_name(settings, field) for field in _TLS_FIELDS]
    given = {name.upper() for name, value in environment.items() if value}
    missing = [name for name in names if name not in given]
    if not missing or len(missing) == len(names):
        return []
    return [f"{name}: is not set, though another TLS file is; set all three or none" for name in missing]
