"""Identity's settings, beyond those that all services share."""

from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

from pydantic import Field, FilePath, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from libs.common.authentication import SigningKey
from libs.common.settings import ServiceSettings
from services.identity import passwords
from services.identity.api_key.secret import InvalidPeppers, Peppers
from services.identity.oidc import OidcIssuer
from services.identity.openshift import OpenShiftCluster
from services.identity.session.access_token import key_problem

PREFIX: Final = "TOLLHOUSE_IDENTITY_"
_DAY_S: Final = 24 * 60 * 60
_ISSUERS: Final = TypeAdapter(tuple[OidcIssuer, ...])
_CLUSTERS: Final = TypeAdapter(tuple[OpenShiftCluster, ...])
_T = TypeVar("_T")


class IdentitySettings(ServiceSettings):
    """Settings under `TOLLHOUSE_IDENTITY_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    peppers: FilePath
    """A JSON file `{"<version>": "<hex>"}` with the keys (peppers) of the digests under which secrets are stored, each
    of at least 32 bytes. The highest version is used for new secrets; the others still verify older ones."""
    cache_entries_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """The number of verified keys one process caches."""
    last_used_flush_s: float = Field(default=5, ge=0.05, le=300)
    """The interval at which times of last use are written."""
    key_stale_max_s: float = Field(default=0, ge=0, le=30)
    """How much longer cached keys may be used while the database cannot be reached. With zero, such verifications fail
    with UNAVAILABLE. Never applies when a `min_revision` is given."""
    watchers_max: int = Field(default=256, ge=1, le=10_000)
    """The number of change streams one process serves: so many of keys, and so many of organizations."""
    password_length_min: int = Field(default=passwords.LENGTH_MIN, ge=passwords.LENGTH_MIN_FLOOR, le=64)
    """The minimum length of a new password."""
    password_hash_memory_kib: int = Field(default=passwords.MEMORY_KIB, ge=19 * 1024, le=1024 * 1024)
    """The memory of one argon2id hash. Hashes made with other parameters are renewed at the next sign-in."""
    password_hash_passes: int = Field(default=passwords.PASSES, ge=1, le=20)
    """The number of passes over the memory; with less than 46 MiB, use at least 2."""
    password_hash_lanes: int = Field(default=passwords.LANES, ge=1, le=16)
    """The number of threads that share the work of one hash."""
    password_hash_threads: int | None = Field(default=None, ge=1, le=64)
    """The number of passwords hashed at a time; one for each processor when this is not set."""
    password_hashes_waiting_max: int = Field(default=passwords.WAITING_MAX, ge=1, le=10_000)
    """The length of the queue of passwords to hash; beyond it sign-ins are refused as overloaded."""

    session_key_file: FilePath | None = None
    """The private key that signs access tokens; without it nobody can sign in. To rotate it, first add the public half
    of the new key to the keys of its issuer in every trust bundle; GetJwks publishes all of them."""
    access_token_lifetime_s: int = Field(default=15 * 60, ge=60, le=60 * 60)
    """The life of an access token."""
    session_lifetime_s: int = Field(default=30 * _DAY_S, ge=60, le=400 * _DAY_S)
    """How long after the sign-in a session ends, whether it is used or not."""
    sessions_per_user_max: int = Field(default=100, ge=1, le=1_000)
    """The number of sessions of one user at a time; one more ends the oldest."""
    sign_in_attempts_per_account_max: int = Field(default=5, ge=1, le=1_000)
    """The number of passwords that may be tried for one login in a minute."""
    sign_in_attempts_per_address_max: int = Field(default=20, ge=1, le=100_000)
    """The number of passwords that may be tried from one address in a minute. If all calls come through a proxy, name
    it in `trusted_proxies`, or everybody shares one count."""
    wrong_tokens_per_address_max: int = Field(default=100, ge=1, le=100_000)
    """The number of wrong refresh tokens and ID tokens from one address in a minute, after which it has to wait. Valid
    tokens are not counted."""
    oidc_issuers: Annotated[tuple[OidcIssuer, ...], NoDecode] = ()
    """The OpenID Connect issuers whose ID tokens are accepted, as a JSON list of objects with `provider`, `issuer`,
    `client_ids` and optionally `algorithms`, `sign_up` and `link_verified_email`."""
    oidc_issuers_file: FilePath | None = None
    """A file with such a list; the issuers of both are accepted."""

    openshift_clusters: Annotated[tuple[OpenShiftCluster, ...], NoDecode] = ()
    """The OpenShift clusters whose users may sign in, as a JSON list of objects with `provider`, `api` and optionally
    `ca_file` and `sign_up_email_domain`."""

    @field_validator("peppers")
    @classmethod
    def _peppers_are_usable(cls, path: Path) -> Path:
        try:
            Peppers.read(path)
        except InvalidPeppers as error:
            raise ValueError(str(error)) from None
        return path

    @field_validator("session_key_file")
    @classmethod
    def _session_key_can_sign(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                problem = key_problem(SigningKey.read(path))
            except (OSError, ValueError):
                problem = "is not the file of a signing key"
            if problem is not None:
                raise ValueError(problem)
        return path

    @field_validator("oidc_issuers", mode="before")
    @classmethod
    def _issuers_are_json(cls, issuers: object) -> object:
        return _issuers_in(issuers) if isinstance(issuers, str) else issuers

    @field_validator("openshift_clusters", mode="before")
    @classmethod
    def _clusters_are_json(cls, clusters: object) -> object:
        return _read(_CLUSTERS, clusters, "OpenShift clusters") if isinstance(clusters, str) else clusters

    @field_validator("oidc_issuers_file")
    @classmethod
    def _issuers_file_is_json(cls, path: Path | None) -> Path | None:
        if path is not None:
            _issuers_in(path.read_text(encoding="utf-8"))
        return path

    @model_validator(mode="after")
    def _issuers_are_told_apart(self) -> Self:
        for what in ("provider", "issuer"):
            if len({getattr(issuer, what) for issuer in self.issuers}) < len(self.issuers):
                raise ValueError(f"two OIDC issuers have the same {what}")
        providers = [issuer.provider for issuer in self.issuers]
        providers += [cluster.provider for cluster in self.openshift_clusters]
        if len(set(providers)) < len(providers):
            raise ValueError("two identity providers (OIDC issuers, OpenShift clusters) have the same name")
        return self

    @property
    def issuers(self) -> tuple[OidcIssuer, ...]:
        """The issuers of the variable and of the file."""
        path = self.oidc_issuers_file
        return self.oidc_issuers + (_issuers_in(path.read_text(encoding="utf-8")) if path else ())


def _issuers_in(text: str) -> tuple[OidcIssuer, ...]:
    return _read(_ISSUERS, text, "OIDC issuers")


def _read(adapter: TypeAdapter[_T], text: str, what: str) -> _T:
    try:
        return adapter.validate_json(text or "[]")
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        where = "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'all'}: {problem['msg']}" for problem in problems)
        raise ValueError(f"is not a JSON list of {what} ({where})") from None
