"""SessionService over gRPC."""

from collections.abc import Mapping
from typing import Final

import grpc

from libs.common import pages
from libs.common.authentication import ALGORITHM
from libs.common.call import current_caller
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import id_in_token
from libs.common.timestamps import render_time
from libs.common.validation import Reader
from services.identity.session.access_token import AccessTokens
from services.identity.session.domain import Opened, Session, SignInMethod
from services.identity.session.password_sign_in import PasswordSignIn
from services.identity.session.provider_sign_in import ProviderSignIn
from services.identity.session.sessions import Sessions
from tollhouse.identity.v1 import session_pb2 as pb
from tollhouse.identity.v1 import session_pb2_grpc as rpc

_METHODS: Final = {
    SignInMethod.PASSWORD: pb.SignInMethod.SIGN_IN_METHOD_PASSWORD,
    SignInMethod.ID_TOKEN: pb.SignInMethod.SIGN_IN_METHOD_ID_TOKEN,
    SignInMethod.ACCESS_TOKEN: pb.SignInMethod.SIGN_IN_METHOD_ACCESS_TOKEN,
}


class SessionServicer(rpc.SessionServiceServicer):
    """Reads requests into commands of the use cases, and renders their results."""

    def __init__(
        self,
        access_tokens: AccessTokens,
        by_password: PasswordSignIn,
        by_provider: ProviderSignIn,
        sessions: Sessions,
    ) -> None:
        self._access_tokens = access_tokens
        self._by_password = by_password
        self._by_provider = by_provider
        self._sessions = sessions

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "SignOut": _require_one_or_all,
        }

    async def SignInWithPassword(
        self, request: pb.SignInWithPasswordRequest, context: grpc.aio.ServicerContext
    ) -> pb.SignInWithPasswordResponse:
        self._access_tokens.require_key()
        opened = await self._by_password.sign_in(request.login, request.password)
        return pb.SignInWithPasswordResponse(session=_render(opened.session), tokens=self._render_tokens(opened))

    async def SignInWithIdToken(
        self, request: pb.SignInWithIdTokenRequest, context: grpc.aio.ServicerContext
    ) -> pb.SignInWithIdTokenResponse:
        self._access_tokens.require_key()
        opened = await self._by_provider.by_id_token(request.id_token, request.nonce)
        return pb.SignInWithIdTokenResponse(
            session=_render(opened.session), tokens=self._render_tokens(opened), user_created=opened.user_created
        )

    async def SignInWithAccessToken(
        self, request: pb.SignInWithAccessTokenRequest, context: grpc.aio.ServicerContext
    ) -> pb.SignInWithAccessTokenResponse:
        self._access_tokens.require_key()
        opened = await self._by_provider.by_access_token(request.provider, request.access_token)
        return pb.SignInWithAccessTokenResponse(
            session=_render(opened.session), tokens=self._render_tokens(opened), user_created=opened.user_created
        )

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.RefreshSessionResponse:
        self._access_tokens.require_key()
        opened = await self._sessions.refresh(request.refresh_token, request_id=request.request_id)
        return pb.RefreshSessionResponse(
            session=_render(opened.session), tokens=self._render_tokens(opened), replayed=opened.replayed
        )

    async def SignOut(self, request: pb.SignOutRequest, context: grpc.aio.ServicerContext) -> pb.SignOutResponse:
        _require_one_or_all(request)
        ended = await self._sessions.sign_out(request.user_id.lower(), session_id=request.session_id.lower())
        return pb.SignOutResponse(ended_sessions=ended)

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListSessionsResponse:
        user_id = request.user_id.lower()
        fingerprint = f"sessions {user_id}"
        sessions, more = await self._sessions.page(
            user_id, before=id_in_token(request.page_token, fingerprint), size=pages.page_size(request.page_size)
        )
        token = pages.encode_page_token(sessions[-1].session_id, fingerprint=fingerprint) if more else ""
        current_id = current_caller().session_id
        rendered = [_render(session, current=session.session_id == current_id) for session in sessions]
        return pb.ListSessionsResponse(sessions=rendered, next_page_token=token)

    async def GetJwks(self, request: pb.GetJwksRequest, context: grpc.aio.ServicerContext) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(
            keys=[
                pb.JsonWebKey(kty="OKP", crv=ALGORITHM, x=key.x, kid=key.key_id, use="sig", alg=ALGORITHM)
                for key in self._access_tokens.published
            ]
        )

    def _render_tokens(self, opened: Opened) -> pb.SessionTokens:
        access_token, expire_time = self._access_tokens.mint(opened.session)
        return pb.SessionTokens(
            access_token=access_token,
            access_token_expire_time=render_time(expire_time),
            refresh_token=opened.refresh_token,
            refresh_token_expire_time=render_time(opened.session.expire_time),
        )


def _require_one_or_all(request: pb.SignOutRequest) -> None:
    if bool(request.session_id) == request.all_sessions:
        raise InvalidArgument([FieldViolation("session_id", "name one session, or all of them, and not both")])


def _render(session: Session, *, current: bool = False) -> pb.Session:
    return pb.Session(
        session_id=session.session_id,
        user_id=session.user_id,
        method=_METHODS[session.method],
        provider=session.provider,
        peer_address=session.peer_address,
        user_agent=session.user_agent,
        create_time=render_time(session.create_time),
        last_refresh_time=render_time(session.last_refresh_time),
        expire_time=render_time(session.expire_time),
        current=current,
    )
