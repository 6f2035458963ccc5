"""Resolves users and keys from the database on every call, so that a right that was taken away is lost at once."""

from dataclasses import replace

from libs.common.access import Caller, CallerKind, PlatformRole, Rights
from libs.common.callers import Credential, Resolved
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Unauthenticated
from services.identity.api_key.domain import Verdict
from services.identity.api_key.verify.verification import Verifier
from services.identity.caller import store


class LocalDirectory:
    """Looks up callers in identity's own database; billing and metering ask identity by RPC instead."""

    def __init__(self, database: Database, verifier: Verifier[bytes], clock: Clock) -> None:
        self._database = database
        self._verifier = verifier
        self._clock = clock

    async def resolve(self, credential: Credential, organization_id: str) -> Resolved:
        """Return whose credential it is, and its rights in the organization (empty for none).

        Raises:
            Unauthenticated: the credential does not work, for whatever reason.
        """
        if credential.api_key:
            return await self._resolve_key(credential, organization_id)
        return await self._resolve_session(credential, organization_id)

    async def _resolve_session(self, credential: Credential, organization_id: str) -> Resolved:
        async with self._database.raw_connection() as connection:
            standing = await store.find_user_standing(
                connection,
                session_id=credential.session_id,
                user_id=credential.user_id,
                organization_id=organization_id or None,
                now=self._clock.now(),
            )
        if standing is None:
            raise Unauthenticated
        return Resolved(
            Caller(CallerKind.USER, credential.user_id, session_id=credential.session_id),
            Rights(
                platform_role=PlatformRole(standing.platform_role),
                organization_id=organization_id,
                organization_role=standing.organization_role,
                project_roles=standing.project_roles,
            ),
        )

    async def _resolve_key(self, credential: Credential, organization_id: str) -> Resolved:
        # The verifier rejects malformed keys before it reads the database.
        verdict, entry, _ = await self._verifier.verify(credential.api_key, (), "", 0, credential.client_address)
        if verdict is not Verdict.VALID or entry is None:
            raise Unauthenticated
        api_key_id = entry.subjects[0]
        async with self._database.raw_connection() as connection:
            standing = await store.find_key_standing(connection, api_key_id, self._clock.now())
        if standing is None:
            raise Unauthenticated
        kind = CallerKind.USER if standing.user_id else CallerKind.SERVICE_ACCOUNT
        caller = Caller(kind, standing.user_id or standing.service_account_id or "", api_key_id=api_key_id)
        rights = Rights(organization_id=organization_id, key_scopes=standing.scopes)
        if kind is CallerKind.SERVICE_ACCOUNT:
            reached = "" if standing.all_organizations else standing.reached_organization_id
            rights = replace(rights, all_organizations=standing.all_organizations, gateway_organization_id=reached)
        if organization_id != standing.organization_id:
            return Resolved(caller, rights)
        return Resolved(
            caller,
            replace(
                rights,
                organization_role=standing.organization_role,
                project_roles=standing.project_roles,
                key_project_id=standing.project_id or "",
            ),
        )
