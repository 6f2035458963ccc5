"""Asks identity who belongs to an organization."""

import time
from collections import OrderedDict
from typing import Final

import grpc

from libs.common.errors import NotFound, Unavailable
from tollhouse.identity.v1 import organization_pb2 as pb
from tollhouse.identity.v1 import organization_pb2_grpc as rpc

_ASK_WITHIN_S: Final = 1.0
_MEMBERS_MAX: Final = 10_000
_MEMBER_FOR_S: Final = 5.0
"""For how long a member is taken as one without asking again."""


class Members:
    """Says whether users belong to organizations; members are remembered for a moment."""

    def __init__(self, identity: grpc.aio.Channel) -> None:
        self._organizations: rpc.OrganizationServiceStub = rpc.OrganizationServiceStub(identity)
        self._until_s: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def is_member(self, organization_id: str, user_id: str) -> bool:
        """Return whether a user belongs to an organization.

        Raises:
            NotFound: there is no such organization, or it is deleted.
            Unavailable: identity cannot be asked.
        """
        key, asked_s = (organization_id, user_id), time.monotonic()
        if self._until_s.get(key, 0) > asked_s:
            return True
        request = pb.ListMembersRequest(organization_id=organization_id, user_id=user_id)
        try:
            # Waits for a connection, which may be due again in a moment: identity has only just started.
            answer = await self._organizations.ListMembers(request, timeout=_ASK_WITHIN_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound(resource_type="organization", resource_name=organization_id) from None
            raise Unavailable(dependency="identity") from error
        if not answer.members:
            return False
        self._until_s[key] = asked_s + _MEMBER_FOR_S
        self._until_s.move_to_end(key)
        if len(self._until_s) > _MEMBERS_MAX:
            self._until_s.popitem(last=False)
        return True
