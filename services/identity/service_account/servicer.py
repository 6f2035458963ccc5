"""ServiceAccountService over gRPC."""

from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

import grpc

from libs.common import pages
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import id_in_token
from libs.common.timestamps import render_time
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.identity.attributes import ATTRIBUTES, read_attributes, read_attributes_change
from services.identity.organization.rendering import RENDERED_ROLES, ROLES
from services.identity.service_account.domain import ServiceAccount
from services.identity.service_account.service_accounts import ServiceAccounts
from tollhouse.identity.v1 import service_account_pb2 as pb
from tollhouse.identity.v1 import service_account_pb2_grpc as rpc

_Context: TypeAlias = grpc.aio.ServicerContext
_UPDATABLE: Final = ("name", "description", "role", *ATTRIBUTES)


class ServiceAccountServicer(rpc.ServiceAccountServiceServicer):
    """Reads requests into commands of the use cases, and renders their results."""

    def __init__(self, service_accounts: ServiceAccounts) -> None:
        self._service_accounts = service_accounts

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateServiceAccount": _read_mask,
        }

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: _Context
    ) -> pb.CreateServiceAccountResponse:
        account, replayed = await self._service_accounts.create(
            request.organization_id.lower(),
            name=request.name,
            description=request.description,
            role=ROLES[request.role],
            attributes=read_attributes(request),
            request_id=request.request_id,
        )
        return pb.CreateServiceAccountResponse(service_account=_render(account), replayed=replayed)

    async def GetServiceAccount(
        self, request: pb.GetServiceAccountRequest, context: _Context
    ) -> pb.GetServiceAccountResponse:
        account = await self._service_accounts.get(request.organization_id.lower(), request.service_account_id.lower())
        return pb.GetServiceAccountResponse(service_account=_render(account))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: _Context
    ) -> pb.ListServiceAccountsResponse:
        organization_id = request.organization_id.lower()
        fingerprint = f"service accounts {organization_id} {request.external_id}"
        accounts, more = await self._service_accounts.page(
            organization_id,
            external_id=request.external_id,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(accounts[-1].service_account_id, fingerprint=fingerprint) if more else ""
        return pb.ListServiceAccountsResponse(
            service_accounts=[_render(account) for account in accounts], next_page_token=token
        )

    async def UpdateServiceAccount(
        self, request: pb.UpdateServiceAccountRequest, context: _Context
    ) -> pb.UpdateServiceAccountResponse:
        paths = _read_mask(request)
        account, revision = await self._service_accounts.update(
            request.organization_id.lower(),
            request.service_account_id.lower(),
            etag=request.etag,
            name=request.name if "name" in paths else None,
            description=request.description if "description" in paths else None,
            role=ROLES[request.role] if "role" in paths else None,
            attributes=read_attributes_change(request, paths),
        )
        return pb.UpdateServiceAccountResponse(service_account=_render(account), revision=revision)

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: _Context
    ) -> pb.DeleteServiceAccountResponse:
        deletion = await self._service_accounts.delete(
            request.organization_id.lower(), request.service_account_id.lower()
        )
        return pb.DeleteServiceAccountResponse(
            delete_time=render_time(deletion.delete_time),
            revoked_api_keys=deletion.revoked_api_keys,
            revision=deletion.revision,
        )


def _read_mask(request: pb.UpdateServiceAccountRequest) -> Collection[str]:
    """Return which fields an update gives; raises InvalidArgument naming every field at fault."""
    paths = request.update_mask.paths
    violations = mask_violations(paths, _UPDATABLE)
    if "name" in paths and not request.name:
        violations.append(FieldViolation("name", "must not be empty"))
    if "role" in paths and request.role not in ROLES:
        violations.append(FieldViolation("role", "must be a role"))
    if violations:
        raise InvalidArgument(violations)
    return paths


def _render(account: ServiceAccount) -> pb.ServiceAccount:
    return pb.ServiceAccount(
        service_account_id=account.service_account_id,
        organization_id=account.organization_id,
        name=account.name,
        description=account.description,
        role=RENDERED_ROLES[account.role],
        create_time=render_time(account.create_time),
        update_time=render_time(account.update_time),
        etag=account.etag,
        metadata=account.attributes.metadata,
        external_id=account.attributes.external_id,
    )
