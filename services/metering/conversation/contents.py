"""Contents as they are stored: encrypted where there are keys, and bound to their place in their conversation."""

from libs.common.sealing import NotReadable, SealingKeys, version_of
from services.metering.conversation.domain import Content, Message, Policy, TextState
from services.metering.errors import ContentNotReadable


class Contents:
    """Encrypts and decrypts contents."""

    def __init__(self, keys: SealingKeys | None) -> None:
        self._keys = keys

    def stored(
        self,
        text: str | None,
        policy: Policy,
        *,
        deleted: bool,
        organization_id: str,
        conversation_id: str,
        position: int,
    ) -> Content:
        """Return a content as it is kept at its place."""
        if text is None:
            return Content(None, None, TextState.NONE)
        if deleted:
            return Content(None, None, TextState.DELETED)
        if not policy.keep_content:
            return Content(None, None, TextState.NOT_KEPT)
        if self._keys is None:
            return Content(text.encode(), None, TextState.KEPT)
        sealed = self._keys.seal(text.encode(), _place(organization_id, conversation_id, position))
        return Content(sealed, version_of(sealed), TextState.KEPT)

    def text(self, message: Message) -> str | None:
        """Return the content of a message; None where it is not there.

        Raises:
            ContentNotReadable: its key is not there, or it was changed.
        """
        stored, key_version, _ = message.content
        if stored is None or key_version is None:
            return None if stored is None else stored.decode()
        place = _place(message.organization_id, message.conversation_id, message.position)
        try:
            if self._keys is None:
                raise NotReadable
            return self._keys.open(stored, place).decode()
        except NotReadable:
            raise ContentNotReadable(position=message.position, key_version=key_version) from None


def _place(organization_id: str, conversation_id: str, position: int) -> str:
    return f"message/{organization_id}/{position}/{conversation_id}"
