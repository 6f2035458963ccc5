"""People who sign in at an OpenShift cluster, by the access token its OAuth server gave them.

OpenShift's OAuth server issues opaque access tokens and no ID tokens. The cluster's API tells whose a token is: it
answers `users/~` with the user the token belongs to. Such a token names no audience, so any program that obtained one
could present it. It is therefore taken only from services and operators: from the platform's backend, which has run the
OAuth flow with a client of its own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Self

import structlog
from pydantic import BaseModel, ConfigDict, FilePath, StringConstraints, model_validator

from libs.common.errors import Overloaded, Unavailable
from services.identity.email_address import folded_email
from services.identity.errors import InvalidAccessToken, ProviderNotConfigured
from services.identity.oidc import ProviderName, VerifiedIdentity
from services.identity.provider_keys import (
    FETCH_WITHIN_S,
    DocumentFetcher,
    TokenRefused,
    UnusableAnswer,
    address_problem,
)
from services.identity.text import has_harmful, without_harmful

_log = structlog.get_logger("openshift")
_USER_PATH: Final = "/apis/user.openshift.io/v1/users/~"
_NAME_MAX: Final = 255
_WAITING_MAX: Final = 64


class OpenShiftCluster(BaseModel):
    """A cluster whose users may sign in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: ProviderName
    """What linked identities call the cluster, such as `openshift`. It must go on naming the same cluster for ever."""
    api: Annotated[str, StringConstraints(max_length=2048)]
    """The address of the cluster's API, such as `https://api.cluster.example:6443`. Nothing else is ever asked."""
    ca_file: FilePath | None = None
    """The certificates (PEM) that vouch for the API; those of the system when this is not set."""
    sign_up_email_domain: Annotated[str, StringConstraints(max_length=190)] = ""
    """A person who is not a user yet becomes one at the first sign-in, with the email `<name>@<this domain>`. While
    this is empty, only linked users can sign in. A name that is an email address is used as it is. Neither counts as
    verified."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        problem = address_problem(self.api)
        if problem is not None:
            raise ValueError(f"the cluster `{self.provider}`: the address of its API {problem}")
        if self.sign_up_email_domain and folded_email(f"a@{self.sign_up_email_domain}") is None:
            raise ValueError(f"the cluster `{self.provider}`: sign_up_email_domain is no domain")
        return self

    @property
    def sign_up(self) -> bool:
        """Whether a person who is not a user yet becomes one by signing in."""
        return bool(self.sign_up_email_domain)

    @property
    def link_verified_email(self) -> bool:
        """Never: a cluster verifies no email."""
        return False


class OpenShiftUsers:
    """Tells whose an access token is."""

    def __init__(self, clusters: Sequence[OpenShiftCluster], fetcher: DocumentFetcher) -> None:
        self._clusters = {cluster.provider: cluster for cluster in clusters}
        self._fetcher = fetcher
        self._waiting = 0

    def cluster_of(self, provider: str) -> OpenShiftCluster:
        """Return the cluster that is configured under a name.

        Raises:
            ProviderNotConfigured: there is none.
        """
        cluster = self._clusters.get(provider)
        if cluster is None:
            raise ProviderNotConfigured(provider=provider)
        return cluster

    async def identify(self, provider: str, access_token: str) -> VerifiedIdentity:
        """Ask the cluster whose the token is.

        Raises:
            ProviderNotConfigured: no such cluster is configured.
            InvalidAccessToken: the cluster does not accept the token, or it is not a person's.
            Overloaded: too many tokens wait for an answer.
            Unavailable: the cluster cannot be reached, or answers something else.
        """
        cluster = self.cluster_of(provider)
        if self._waiting >= _WAITING_MAX:
            raise Overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(FETCH_WITHIN_S):
                address = cluster.api.rstrip("/") + _USER_PATH
                user = await self._fetcher.fetch(address, bearer=access_token, ca_file=cluster.ca_file)
            return _identity(cluster, user)
        except TokenRefused:
            _log.info("an OpenShift cluster refused an access token", provider=provider)
            raise InvalidAccessToken from None
        except (UnusableAnswer, TimeoutError) as error:
            why = str(error) or type(error).__name__
            _log.warning("an OpenShift cluster could not be asked about an access token", provider=provider, why=why)
            raise Unavailable(dependency="identity provider") from None
        finally:
            self._waiting -= 1


def _identity(cluster: OpenShiftCluster, user: object) -> VerifiedIdentity:
    """Return who the answer of a cluster speaks of.

    Raises:
        UnusableAnswer: it is not a user.
        InvalidAccessToken: it is one without an id, such as a service account or the temporary `kube:admin`.
    """
    metadata = user.get("metadata") if isinstance(user, dict) else None
    if not isinstance(user, dict) or user.get("kind") != "User" or not isinstance(metadata, dict):
        raise UnusableAnswer("the answer is not a User")
    name, uid = _text(metadata, "name"), _text(metadata, "uid")
    if not 1 <= len(uid) <= _NAME_MAX or has_harmful(uid) or not 1 <= len(name) <= _NAME_MAX:
        raise InvalidAccessToken
    email = name if folded_email(name) is not None else f"{name}@{cluster.sign_up_email_domain}"
    return VerifiedIdentity(
        provider=cluster.provider,
        subject=uid,
        email=email if folded_email(email) is not None else "",
        email_verified=False,
        full_name=without_harmful(_text(user, "fullName"))[:_NAME_MAX],
        picture_url="",
        username=name if name.isascii() and name.isprintable() and " " not in name else "",
    )


def _text(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""
