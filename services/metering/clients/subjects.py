"""Asks identity and billing what belongs to an organization, so that no limit is set for somebody else's."""

from collections.abc import Awaitable
from enum import Enum
from typing import Final

import grpc

from libs.common.errors import Unavailable
from tollhouse.billing.v1 import subscription_pb2
from tollhouse.billing.v1 import subscription_pb2_grpc as subscription_rpc
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, service_account_pb2
from tollhouse.identity.v1 import api_key_pb2_grpc as api_key_rpc
from tollhouse.identity.v1 import organization_pb2_grpc as organization_rpc
from tollhouse.identity.v1 import project_pb2_grpc as project_rpc
from tollhouse.identity.v1 import service_account_pb2_grpc as service_account_rpc

_ASK_WITHIN_S: Final = 1.0


class Kind(Enum):
    """What can belong to an organization."""

    PROJECT = "project"
    USER = "user"
    SERVICE_ACCOUNT = "service account"
    API_KEY = "API key"
    SUBSCRIPTION = "subscription"


class Subjects:
    """Says what belongs to organizations. Nothing is remembered: it is asked when a limit is created."""

    def __init__(self, identity: grpc.aio.Channel, billing: grpc.aio.Channel) -> None:
        self._projects: project_rpc.ProjectServiceStub = project_rpc.ProjectServiceStub(identity)
        self._organizations: organization_rpc.OrganizationServiceStub = organization_rpc.OrganizationServiceStub(
            identity
        )
        self._service_accounts: service_account_rpc.ServiceAccountServiceStub = (
            service_account_rpc.ServiceAccountServiceStub(identity)
        )
        self._keys: api_key_rpc.ApiKeyServiceStub = api_key_rpc.ApiKeyServiceStub(identity)
        self._subscriptions: subscription_rpc.SubscriptionServiceStub = subscription_rpc.SubscriptionServiceStub(
            billing
        )

    async def belongs(self, organization_id: str, kind: Kind, subject_id: str) -> bool:
        """Return whether an organization has something; users belong to those that they are members of.

        Raises:
            Unavailable: the service that knows cannot be asked.
        """
        try:
            if kind is Kind.USER:
                request = organization_pb2.ListMembersRequest(organization_id=organization_id, user_id=subject_id)
                members = await self._organizations.ListMembers(request, timeout=_ASK_WITHIN_S)
                return bool(members.members)
            await self._get(organization_id, kind, subject_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise Unavailable(dependency="billing" if kind is Kind.SUBSCRIPTION else "identity") from error
        return True

    def _get(self, organization_id: str, kind: Kind, subject_id: str) -> Awaitable[object]:
        if kind is Kind.PROJECT:
            project = project_pb2.GetProjectRequest(organization_id=organization_id, project_id=subject_id)
            return self._projects.GetProject(project, timeout=_ASK_WITHIN_S)
        if kind is Kind.SERVICE_ACCOUNT:
            account = service_account_pb2.GetServiceAccountRequest(
                organization_id=organization_id, service_account_id=subject_id
            )
            return self._service_accounts.GetServiceAccount(account, timeout=_ASK_WITHIN_S)
        if kind is Kind.API_KEY:
            key = api_key_pb2.GetApiKeyRequest(organization_id=organization_id, api_key_id=subject_id)
            return self._keys.GetApiKey(key, timeout=_ASK_WITHIN_S)
        subscription = subscription_pb2.GetSubscriptionRequest(
            organization_id=organization_id, subscription_id=subject_id
        )
        return self._subscriptions.GetSubscription(subscription, timeout=_ASK_WITHIN_S)
