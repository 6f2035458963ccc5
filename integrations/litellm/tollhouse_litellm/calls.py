"""Calls that are under way in this proxy, from their authorization to their settlement."""

import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final

from tollhouse.metering.v1.admission_pb2 import AuthorizeRequest, SettleRequest
from tollhouse.metering.v1.unit_pb2 import Quantity
from tollhouse_litellm import estimate
from tollhouse_litellm.usage import Fields, Used

_OPEN_MAX: Final = 100_000
_ERROR_FROM: Final = 400
# Where LiteLLM keeps what belongs to a call; which of the two depends on the route.
_PLACES: Final = ("litellm_metadata", "metadata")
_MARK: Final = "tollhouse_operation_id"


@dataclass
class Call:
    """One call of an end user, however often it is tried and whichever deployment answers it in the end."""

    operation_id: str
    organization_id: str
    requested_model: str
    # The model that is charged: of the deployment that was tried last.
    model: str
    request: Fields
    # The deployment that was tried last, as LiteLLM names it.
    deployment: str = ""
    # What the caller or LiteLLM calls it. Callers may choose it, so it is no operation id.
    litellm_call_id: str = ""
    is_ended: bool = False
    began_s: float = field(default_factory=time.monotonic)

    def tried(self, group: object, info: Mapping[str, object], deployment: object) -> None:
        """Note the deployment that is asked now. `group` is the name under which it is in the configuration."""
        self.model = charged_model(group if isinstance(group, str) else self.requested_model, info)
        self.deployment = str(deployment or "")


class OpenCalls:
    """Finds calls again, by the operation id that LiteLLM carries with them from hook to hook."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, Call] = OrderedDict()

    def add(self, call: Call, data: MutableMapping[str, object]) -> None:
        """Remember a call and mark its request. Whatever mark the end user has sent is replaced."""
        marked = False
        for place in _PLACES:
            metadata = data.get(place)
            if isinstance(metadata, dict):
                metadata[_MARK] = call.operation_id
                marked = True
        if not marked:
            data["metadata"] = {_MARK: call.operation_id}
        self._calls[call.operation_id] = call
        if len(self._calls) > _OPEN_MAX:
            # Nobody has heard of it for 100,000 calls: its client left before its stream began. It lapses.
            self._calls.popitem(last=False)

    def find(self, data: Mapping[str, object]) -> Call | None:
        """Return the call of a request that has not ended."""
        for place in _PLACES:
            metadata = data.get(place)
            if isinstance(metadata, dict) and (call := self._calls.get(str(metadata.get(_MARK)))) is not None:
                return call
        return None

    def end(self, call: Call) -> bool:
        """Note that a call has its end. Returns False if it has had one already."""
        ended, call.is_ended = call.is_ended, True
        self._calls.pop(call.operation_id, None)
        return not ended


def charged_model(group: str, info: Mapping[str, object]) -> str:
    """Return Tollhouse's name of a deployment: `tollhouse_model` of its model_info, else its own in the proxy."""
    name = info.get("tollhouse_model")
    return name if isinstance(name, str) and name else group


def authorization(
    api_key: str, model: str, request: Fields, call_type: str, *, endpoint: str, client_address: str
) -> AuthorizeRequest:
    """Return what to ask before the work. The operation id is new: nobody else can choose it."""
    return AuthorizeRequest(
        operation_id=f"litellm-{uuid.uuid4().hex}",
        api_key=api_key,
        model=model,
        input_tokens=estimate.input_tokens(request),
        max_output_tokens=estimate.max_output_tokens(request, call_type),
        service_tier=estimate.service_tier(request),
        endpoint=endpoint,
        client_address=client_address,
    )


def in_other_unit(request: AuthorizeRequest, unit: str, value: int) -> AuthorizeRequest:
    """Return the same question for work that is sold by another unit than tokens."""
    asked = AuthorizeRequest()
    asked.CopyFrom(request)
    asked.input_tokens, asked.max_output_tokens = 0, 0
    asked.quantities.add(unit=unit, value=str(value))
    return asked


def settlement(
    call: Call, used: Used, *, partial: bool, status_code: int = 200, error_message: str = ""
) -> SettleRequest:
    """Return what to say after the work."""
    labels = {
        "litellm_call_id": call.litellm_call_id,
        "litellm_deployment": call.deployment,
        "requested_model": call.requested_model if call.requested_model != call.model else "",
        "usage_doubt": used.doubt,
    }
    request = SettleRequest(
        operation_id=call.operation_id,
        organization_id=call.organization_id,
        model=call.model,
        quantities=[Quantity(unit=unit, value=value) for unit, value in used.quantities.items()],
        service_tier=used.service_tier,
        latency_ms=round((time.monotonic() - call.began_s) * 1000),
        status_code=status_code,
        error_message=error_message if status_code >= _ERROR_FROM else "",
        partial=partial,
        labels={name: value for name, value in labels.items() if value},
    )
    # What is sent later is dated when the work was done, and falls into the hour and the price of that time.
    request.occur_time.GetCurrentTime()
    return request
