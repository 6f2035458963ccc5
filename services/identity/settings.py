"""What identity can be told from outside, beyond what every service can."""

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
    """A JSON file `{"<version>": "<hex>"}` with the keys of the digests under which secrets are stored, each of at
    least 32 bytes. The highest version digests new secrets; the others still recognise old ones."""
    cache_entries_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """How many verified keys one process remembers."""
    last_used_flush_s: float = Field(default=5, ge=0.05, le=300)
    """How often the times of last use are written down."""
    key_stale_max_s: float = Field(default=0, ge=0, le=30)
    """How far beyond its time what is remembered of a key may be used while the database cannot be reached. Zero
    refuses every such key: callers then refuse their own callers. Never used where a `min_revision` is asked for."""
    watchers_max: int = Field(default=256, ge=1, le=10_000)
    """How many change streams one process serves."""
    password_length_min: int = Field(default=passwords.LENGTH_MIN, ge=passwords.LENGTH_MIN_FLOOR, le=64)
    """How many characters a new password has at least."""
    password_hash_memory_kib: int = Field(default=passwords.MEMORY_KIB, ge=19 * 1024, le=1024 * 1024)
    """The memory one argon2id hash fills. What was hashed with other parameters is hashed anew at the next sign-in."""
    password_hash_passes: int = Field(default=passwords.PASSES, ge=1, le=20)
    """How often a hash goes over its memory; with less than 46 MiB of it, take at least 2."""
    password_hash_lanes: int = Field(default=passwords.LANES, ge=1, le=16)
    """How many threads share the work of one hash."""
    password_hash_threads: int | None = Field(default=None, ge=1, le=64)
    """How many passwords are hashed at a time; one per processor when this is not set."""
    password_hashes_waiting_max: int = Field(default=passwords.WAITING_MAX, ge=1, le=10_000)
    """How many more may wait; who comes then is told that the service is overloaded."""

    session_key_file: FilePath | None = None
    """The private key that signs access tokens. Nobody can sign in while it is not set. To change the key, first add
    the public half of the new one to the keys of its issuer in every trust bundle; GetJwks publishes all of them."""
    access_token_lifetime_s: int = Field(default=15 * 60, ge=60, le=60 * 60)
    """How long an access token is good."""
    session_lifetime_s: int = Field(default=30 * _DAY_S, ge=60, le=400 * _DAY_S)
    """How long after the sign-in a session ends, however much it is used."""
    sessions_per_user_max: int = Field(default=100, ge=1, le=1_000)
    """How many sessions of a user last at a time; one more ends the oldest."""
    sign_in_attempts_per_account_max: int = Field(default=5, ge=1, le=1_000)
    """How many passwords are tried for one login in a minute."""
    sign_in_attempts_per_address_max: int = Field(default=20, ge=1, le=100_000)
    """How many passwords are tried from one address in a minute. Where all calls come through a proxy, name it in
    `trusted_proxies`, or everybody shares one count."""
    wrong_tokens_per_address_max: int = Field(default=100, ge=1, le=100_000)
    """How many refresh tokens and ID tokens from one address may be wrong in a minute, before it has to wait. Good ones
    are not counted."""
    oidc_issuers: Annotated[tuple[OidcIssuer, ...], NoDecode] = ()
    """Whose ID tokens let people in, as a JSON list of objects with `provider`, `issuer`, `client_ids` and optionally
    `algorithms`, `sign_up` and `link_verified_email`."""
    oidc_issuers_file: FilePath | None = None
    """A file that holds the same list; those in both count."""

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
        """All whose ID tokens let people in."""
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
