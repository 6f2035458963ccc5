"""Pairs of equal requests, of which one names a resource of another tenant and the other a missing one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from tests.system.authorization.callers import Caller
from tests.system.authorization.calls import Outcome, Wire
from tests.system.authorization.furniture import nowhere
from tests.system.authorization.matrix import request_on
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.targets import Target
from tests.system.authorization.world import World

_SINGLE = (
    *("account_id", "api_key_id", "invitation_id", "payment_id", "project_id", "service_account_id", "subscription_id"),
    *("transaction_id", "user_id", "hold_operation_id", "usage_operation_id"),
    *("identity_event_endpoint_id", "billing_event_endpoint_id", "metering_event_endpoint_id"),
)
# Request numbers and timestamps, which differ between any two calls.
_PASSING = re.compile(r"(matrix|Matrix|somebody|nobody)[- ]\d+|\d{4}-\d\d-\d\dT[\d:.]+Z")


@dataclass(frozen=True)
class Twins:
    """Two places that a caller must not be able to tell apart, and the ids in which they differ."""

    rpc: Rpc
    differ_in: str
    theirs: Target
    nobodys: Target

    def __str__(self) -> str:
        return f"{self.rpc} with another tenant's {self.differ_in}"


def is_open_to_users(rpc: Rpc) -> bool:
    access = rpc.access
    return bool(access.scope or access.self_field or access.users)


def pairs(rpc: Rpc, world: World) -> Iterator[Twins]:
    """Yield pairs: one with all ids of another tenant, and for each id one with that id alone of another tenant."""
    ours, theirs, missing = (world.places[name] for name in ("own project", "other tenant", "missing"))
    if _takes_ids(rpc, theirs, missing):
        yield Twins(rpc, "ids", theirs, missing)
    for name in _SINGLE:
        stray, lost = ours.with_ids(**{name: theirs.value(name)}), ours.with_ids(**{name: missing.value(name)})
        if _takes_ids(rpc, stray, lost):
            yield Twins(rpc, name, stray, lost)


def _takes_ids(rpc: Rpc, one: Target, other: Target) -> bool:
    """Whether the request differs between the two places."""
    return _seen(str(request_on(rpc, one)), nowhere("")) != _seen(str(request_on(rpc, other)), nowhere(""))


async def difference(wire: Wire, twins: Twins, caller: Caller) -> str:
    """Make both calls; return how their outcomes differ, or an empty string."""
    seen = []
    for target in (twins.theirs, twins.nobodys):
        outcome = await wire.call(twins.rpc, caller.token, request_on(twins.rpc, target))
        seen.append(_seen(_text(twins.rpc, outcome), target))
    if seen[0] == seen[1]:
        return ""
    return f"{twins} as {caller}: {seen[0]}, but for what does not exist: {seen[1]}"


def _text(rpc: Rpc, outcome: Outcome) -> str:
    """Everything that a caller sees of a call's outcome, without the response to a change, which is new every time."""
    shown: list[Message | None] = [outcome.status, outcome.answer if rpc.only_reads else None]
    return f"{outcome.code.name} {outcome.message} " + " ".join(MessageToJson(one) for one in shown if one is not None)


def _seen(text: str, target: Target) -> str:
    """The text, with the values in which the two requests differ replaced."""
    for name in ("organization_id", *_SINGLE):
        if target.value(name):
            text = text.replace(target.value(name), f"<{name}>")
    return _PASSING.sub("<passing>", text)
