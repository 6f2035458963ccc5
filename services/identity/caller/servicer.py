"""CallerService over gRPC."""

import grpc

from libs.common.callers import Credential
from libs.common.errors import Unauthenticated
from services.identity.caller.directory import LocalDirectory
from tollhouse.common.v1 import caller_pb2 as pb
from tollhouse.common.v1 import caller_pb2_grpc as rpc


class CallerServicer(rpc.CallerServiceServicer):
    """Reads a credential and renders its owner and rights."""

    def __init__(self, directory: LocalDirectory) -> None:
        self._directory = directory

    async def ResolveCaller(
        self, request: pb.ResolveCallerRequest, context: grpc.aio.ServicerContext
    ) -> pb.ResolveCallerResponse:
        if request.WhichOneof("credential") == "api_key" and not request.api_key:
            return pb.ResolveCallerResponse()
        credential = Credential(
            user_id=request.session.user_id.lower(),
            session_id=request.session.session_id.lower(),
            api_key=request.api_key,
            client_address=request.client_address,
        )
        try:
            resolved = await self._directory.resolve(credential, request.organization_id.lower())
        except Unauthenticated:
            return pb.ResolveCallerResponse()
        caller, rights = resolved.caller, resolved.rights
        return pb.ResolveCallerResponse(
            subject=caller.subject,
            api_key_id=caller.api_key_id,
            platform_role=rights.platform_role.value,
            organization_role=rights.organization_role,
            project_roles=rights.project_roles,
            key_scopes=sorted(rights.key_scopes or ()),
            key_project_id=rights.key_project_id,
            all_organizations=rights.all_organizations,
            gateway_organization_id=rights.gateway_organization_id,
        )
