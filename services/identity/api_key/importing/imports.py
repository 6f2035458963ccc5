"""Imports keys of other systems: their secrets go on working. Only keyed digests of the given digests are stored.

An import is safe to repeat. Each key succeeds or fails for itself; the keys of one call share their statements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, Refusal
from libs.common.ids import new_id
from services.identity.api_key.domain import ApiKey, Digest, NewApiKey
from services.identity.api_key.importing import store as import_store
from services.identity.api_key.manage import owners
from services.identity.api_key.manage.limits import Owner, end_of, require_held
from services.identity.api_key.secret import Peppers
from services.identity.api_key.verify.prefixes import PREFIXES_MAX, may_be_imported
from services.identity.errors import ApiKeyAlreadyExists, ApiKeyNotStored, TooManyImportedPrefixes
from services.identity.organization.store import lock_organization
from services.identity.project.store import lock_project
from services.identity.revisions import ChangeKind, SubjectType, current_revision, record_change

_HINT_LENGTH = 12
_TERMS = (
    *("project_id", "user_id", "service_account_id", "name", "environment", "scopes", "allowed_models"),
    *("allowed_addresses", "metadata", "external_id", "expire_time", "subscription_id"),
)


@dataclass(frozen=True, slots=True)
class Imported:
    """A key to import, or the refusal of an invalid one. Of its secret only the plain digest is known."""

    plain_digest: bytes
    secret_suffix: str
    new: NewApiKey | Refusal

    def __repr__(self) -> str:
        return "Imported()"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one key: the stored key, possibly from an earlier call, or a refusal."""

    result: ApiKey | Refusal
    replayed: bool = False


class Imports:
    """Imports keys into organizations."""

    def __init__(self, database: Database, clock: Clock, peppers: Peppers) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers

    async def run(
        self, organization_id: str, secret_prefix: str, keys: Sequence[Imported]
    ) -> tuple[list[Outcome], int]:
        """Import the keys; return the outcome of each in their order, and a revision that holds them.

        Raises:
            NotFound: there is no such organization.
            InvalidArgument: secrets made here could begin so.
            TooManyImportedPrefixes: no further prefix can be taken in.
        """
        if not may_be_imported(secret_prefix):
            raise InvalidArgument([FieldViolation("secret_prefix", "is that of secrets made here")])
        now = self._clock.now()
        digests = [self._digest(key, secret_prefix) for key in keys]
        async with self._database.transaction() as tx:
            if not await lock_organization(tx, organization_id):
                raise NotFound(resource_type="organization", resource_name=organization_id)
            checked = await _Checks(tx, organization_id, now).check_all(keys)
            before = await self._find_under_older_peppers(tx, keys, digests)
            made = await import_store.insert_api_keys(
                tx,
                [
                    (new_id(), key, digest)
                    for digest, key in zip(digests, checked, strict=True)
                    if not isinstance(key, Refusal) and digest.digest not in before
                ],
                now=now,
            )
            there = before | await import_store.find_api_keys(tx, [digest.digest for digest in digests])
            outcomes = [
                _outcome(wanted, key, digest.digest in made, there.get(digest.digest), secret_prefix)
                for wanted, key, digest in zip(keys, checked, digests, strict=True)
            ]
            if not made:
                return outcomes, await current_revision(tx)
            await self._take_in_prefix(tx, secret_prefix, now)
            await record_event(
                tx,
                now=now,
                organization_id=organization_id,
                resource_type="organization",
                resource_id=organization_id,
                changed=(
                    Changed("imported_api_keys", after=str(len(made))),
                    Changed("secret_prefix", after=secret_prefix),
                ),
            )
            revision = await record_change(
                tx,
                ChangeKind.IMPORTED,
                SubjectType.ORGANIZATION,
                organization_id,
                organization_id=organization_id,
                now=now,
            )
        return outcomes, revision

    def _digest(self, key: Imported, secret_prefix: str) -> Digest:
        return Digest(
            self._peppers.imported_digest(key.plain_digest),
            self._peppers.current_version,
            secret_prefix[:_HINT_LENGTH],
            key.secret_suffix,
            secret_prefix,
        )

    async def _find_under_older_peppers(
        self, tx: Transaction, keys: Sequence[Imported], digests: Sequence[Digest]
    ) -> dict[bytes, ApiKey]:
        """Return the keys that were imported under an older pepper, by their digests under the current one."""
        older = {
            stored: digest.digest
            for key, digest in zip(keys, digests, strict=True)
            for stored in self._peppers.all_imported_digests(key.plain_digest)[1:]
        }
        found = await import_store.find_api_keys(tx, list(older)) if older else {}
        return {older[stored]: api_key for stored, api_key in found.items()}

    async def _take_in_prefix(self, tx: Transaction, prefix: str, now: datetime) -> None:
        if not await import_store.add_prefix(tx, prefix, prefixes_max=PREFIXES_MAX, now=now):
            raise TooManyImportedPrefixes(prefixes=PREFIXES_MAX)


class _Checks:
    """The checks of a creation, with one lookup for each owner and project that the keys share."""

    def __init__(self, tx: Transaction, organization_id: str, now: datetime) -> None:
        self._tx = tx
        self._organization_id = organization_id
        self._now = now
        self._owners: dict[tuple[str | None, str | None, str | None], Owner | Refusal] = {}
        self._projects: dict[str, bool] = {}

    async def check_all(self, keys: Sequence[Imported]) -> list[NewApiKey | Refusal]:
        """Return each key as it would be created, or its refusal. Locks are taken in the order of ids."""
        max_lifetime_s = await owners.find_max_lifetime_s(self._tx, self._organization_id)
        news = [key.new for key in keys if not isinstance(key.new, Refusal)]
        for new in sorted(news, key=_lock_order):
            await self._look_up(new)
        return [self._check(key.new, max_lifetime_s) for key in keys]

    async def _look_up(self, new: NewApiKey) -> None:
        who = (new.user_id, new.service_account_id, new.project_id)
        if who not in self._owners:
            try:
                self._owners[who] = await owners.lock_owner(self._tx, new)
            except NotFound as refusal:
                self._owners[who] = refusal
        if new.project_id is not None and new.project_id not in self._projects:
            self._projects[new.project_id] = await lock_project(self._tx, self._organization_id, new.project_id)

    def _check(self, new: NewApiKey | Refusal, max_lifetime_s: int | None) -> NewApiKey | Refusal:
        if isinstance(new, Refusal):
            return new
        owner = self._owners[new.user_id, new.service_account_id, new.project_id]
        if isinstance(owner, Refusal):
            return owner
        if new.project_id is not None and not self._projects[new.project_id]:
            return NotFound(resource_type="project", resource_name=new.project_id)
        try:
            require_held(new.scopes, owner.holds)
            end = end_of(
                new.expire_time, now=self._now, create_time=self._now, max_lifetime_s=max_lifetime_s, limits=None
            )
        except Refusal as refusal:
            return refusal
        return replace(new, expire_time=end)


def _outcome(
    wanted: Imported, checked: NewApiKey | Refusal, made: bool, there: ApiKey | None, secret_prefix: str
) -> Outcome:
    if made and there is not None and not isinstance(checked, Refusal):
        return Outcome(there)
    if there is None or isinstance(wanted.new, Refusal):
        return Outcome(checked if isinstance(checked, Refusal) else ApiKeyNotStored())
    differs = _differing_field(there, wanted.new, secret_prefix)
    return Outcome(ApiKeyAlreadyExists(field=differs)) if differs else Outcome(there, replayed=True)


def _differing_field(there: ApiKey, wanted: NewApiKey, secret_prefix: str) -> str:
    """Return the name of the first field that differs, or nothing. A missing end matches whatever end the key got."""
    if there.organization_id != wanted.organization_id:
        return "organization_id"
    if there.imported_prefix != secret_prefix:
        return "secret_prefix"
    for name in _TERMS:
        if name == "expire_time" and wanted.expire_time is None:
            continue
        if _plain(getattr(there, name)) != _plain(getattr(wanted, name)):
            return name
    return ""


def _lock_order(new: NewApiKey) -> tuple[str, str, str]:
    return new.user_id or "", new.service_account_id or "", new.project_id or ""


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
