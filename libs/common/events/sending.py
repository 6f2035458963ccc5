"""One attempt to send one event to one endpoint."""

from collections.abc import Sequence
from typing import Final

from libs.common.clock import Clock
from libs.common.events.domain import Endpoint, Event, Outcome, Reason
from libs.common.events.mail import Mailer, notifier
from libs.common.events.message import CONTENT_TYPE, body_of, secrets_of, signed_headers, unsealed_data
from libs.common.events.post import Poster
from libs.common.sealing import NotReadable, SealingKeys

_NOT_READABLE: Final = "the key with which it was encrypted is not in the file of keys"


class Sender:
    """Sends events to endpoints, whatever these are."""

    def __init__(
        self, context: str, keys: SealingKeys | None, poster: Poster, clock: Clock, mailer: Mailer | None
    ) -> None:
        self._context = context
        self._keys = keys
        self._poster = poster
        self._clock = clock
        self._mailer = mailer

    @property
    def built_in(self) -> Sequence[Endpoint]:
        """The endpoints that are in no table: that of mail to the people whom events name."""
        return [notifier(self._clock)] if self._mailer is not None else []

    async def send(self, event: Event, endpoint: Endpoint | None) -> Outcome:
        """Try once, and return what came of it."""
        if endpoint is None or endpoint.delete_time is not None:
            return Outcome(False, Reason.ENDPOINT_DELETED, "the endpoint is deleted", final=True)
        if not endpoint.enabled:
            return Outcome(False, Reason.ENDPOINT_OFF, "the endpoint is switched off", final=True)
        now = self._clock.now()
        try:
            if endpoint.is_mail:
                if self._mailer is None:
                    return Outcome(False, Reason.MAIL_NOT_SET_UP, "this service sends no mail")
                return await self._mailer.send(event, endpoint)
            body = body_of(event, self._context, unsealed_data(event, endpoint, self._keys))
            signers = secrets_of(endpoint, self._keys, now)
        except NotReadable:
            return Outcome(False, Reason.SECRET_NOT_READABLE, _NOT_READABLE)
        headers = {"Content-Type": CONTENT_TYPE, **signed_headers(event.event_id, body, signers, now)}
        return await self._poster.post(endpoint.url, headers, body)
