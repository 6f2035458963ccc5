"""An RPC as its proto declares it: its access rule, its request type, and the ids its request names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from libs.common import validation
from libs.common.access import AccessRule, Caller, Target
from libs.common.errors import FieldViolation, InvalidArgument, PermissionDenied, RequestTooLarge
from libs.common.text import Malformed, with_valid_text
from tollhouse.common.v1 import access_pb2

REQUEST_MAX_BYTES: Final = 262_144
"""The largest request of an RPC whose proto names no other limit."""

Recall = Callable[[bytes], "bytes | None"]
"""Answers a request, given as its serialized bytes, from a cache; None where the request must be parsed."""


@dataclass(slots=True)
class RpcMethod:
    """What is known about an RPC before it is called."""

    name: str
    access: AccessRule
    request: Descriptor
    decode_message: Callable[[bytes], Message]
    request_max_bytes: int
    recall: Recall | None
    read: validation.Reader | None
    last_admitted: Caller | None = None

    @classmethod
    def of(
        cls, descriptor: MethodDescriptor, recall: Recall | None = None, read: validation.Reader | None = None
    ) -> "RpcMethod":
        """Read what a method declares.

        Raises:
            UndeclaredAccess: it does not say who may call it.
        """
        return cls(
            name=descriptor.full_name,
            access=AccessRule.of(descriptor),
            request=descriptor.input_type,
            decode_message=GetMessageClass(descriptor.input_type).FromString,
            request_max_bytes=descriptor.GetOptions().Extensions[access_pb2.request_max_bytes] or REQUEST_MAX_BYTES,
            recall=recall,
            read=read,
        )

    def admit(self, caller: Caller) -> None:
        """Raise PermissionDenied unless the caller may call. The last caller is cached, as most calls repeat it."""
        if caller is not self.last_admitted:
            if not self.access.admits(caller):
                raise PermissionDenied
            self.last_admitted = caller

    def parse(self, data: bytes) -> Message:
        """Return the request that came as these bytes.

        Raises:
            InvalidArgument: it is too large, no message of the type, or breaks a rule of its proto.
        """
        request = self.decode(data)
        validation.check(request, self.read)
        return request

    def decode(self, data: bytes) -> Message:
        """Return the request, whether or not it keeps to the rules. Invalid UTF-8 in it becomes U+0000.

        Raises:
            InvalidArgument: it is too large, or no message of the type.
        """
        if len(data) > self.request_max_bytes:
            raise RequestTooLarge(bytes_max=self.request_max_bytes)
        try:
            return self.decode_message(data)
        except DecodeError:
            pass
        try:
            return self.decode_message(with_valid_text(data, self.request))
        except (DecodeError, Malformed):
            raise InvalidArgument([FieldViolation("", "the request is not a message of the expected type")]) from None

    def target_of(self, request: Message) -> Target:
        """Return the ids in the request that access depends on."""
        self_field = self.access.self_field
        return Target(
            organization_id=id_in(request, "organization_id"),
            project_id=id_in(request, "project_id"),
            user_id=id_in(request, "user_id"),
            self_id=id_in(request, self_field) if self_field else "",
        )


def id_in(request: Message | None, field: str) -> str:
    """Return an id the request names, in the lower case in which ids are kept; empty where there is none."""
    return str(getattr(request, field, "")).lower()
