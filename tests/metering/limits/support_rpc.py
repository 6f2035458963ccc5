"""Calls on limits through their RPCs."""

from tests.metering.support import Metering
from tollhouse.metering.v1 import quota_pb2 as pb

MINUTE, HOUR, DAY = pb.LIMIT_WINDOW_MINUTE, pb.LIMIT_WINDOW_HOUR, pb.LIMIT_WINDOW_DAY
WEEK, MONTH, LIFETIME = pb.LIMIT_WINDOW_WEEK, pb.LIMIT_WINDOW_MONTH, pb.LIMIT_WINDOW_LIFETIME
CALL, NO_WINDOW = pb.LIMIT_WINDOW_CALL, pb.LIMIT_WINDOW_UNSPECIFIED
HARD, SOFT, SHADOW = pb.LIMIT_ENFORCEMENT_HARD, pb.LIMIT_ENFORCEMENT_SOFT, pb.LIMIT_ENFORCEMENT_SHADOW
ORGANIZATION, PROJECT, USER = pb.LIMIT_SCOPE_ORGANIZATION, pb.LIMIT_SCOPE_PROJECT, pb.LIMIT_SCOPE_USER
SERVICE_ACCOUNT, API_KEY = pb.LIMIT_SCOPE_SERVICE_ACCOUNT, pb.LIMIT_SCOPE_API_KEY
SUBSCRIPTION, MODEL = pb.LIMIT_SCOPE_SUBSCRIPTION, pb.LIMIT_SCOPE_MODEL
PROVIDER, LABEL = pb.LIMIT_SCOPE_PROVIDER, pb.LIMIT_SCOPE_LABEL


def limit_request(organization_id: str, name: str = "requests", /, **fields: object) -> pb.SetLimitRequest:
    """Return a limit of 100 requests a minute, with these fields in place of its own; None leaves one out."""
    asked: dict[str, object] = {"metric": "requests", "window": MINUTE, **fields}
    if "value" not in asked and "unlimited" not in asked:
        asked["value"] = "100"
    given = {field: value for field, value in asked.items() if value is not None}
    return pb.SetLimitRequest(organization_id=organization_id, name=name, **given)  # type: ignore[arg-type]


async def set_limit(metering: Metering, organization_id: str, name: str = "requests", /, **fields: object) -> pb.Limit:
    """Set the limit of `limit_request`, and return it."""
    request = limit_request(organization_id, name, **fields)
    return (await metering.quota.SetLimit(request, metadata=metering.operator)).limit


async def change_limit(
    metering: Metering, organization_id: str, name: str, /, *paths: str, **fields: object
) -> pb.Limit:
    """Change the fields of a limit that the paths name, or those that are given where there are no paths."""
    request = pb.SetLimitRequest(organization_id=organization_id, name=name, **fields)  # type: ignore[arg-type]
    named = {"value": "max", "unlimited": "max"}
    mask = paths or tuple(named.get(field, field) for field in fields if field != "etag")
    request.update_mask.paths.extend(mask)
    return (await metering.quota.SetLimit(request, metadata=metering.operator)).limit


async def get_limit(metering: Metering, organization_id: str, name: str = "requests") -> pb.Limit:
    request = pb.GetLimitRequest(organization_id=organization_id, name=name)
    return (await metering.quota.GetLimit(request, metadata=metering.operator)).limit


async def delete_limit(metering: Metering, organization_id: str, name: str = "requests", etag: str = "") -> None:
    request = pb.DeleteLimitRequest(organization_id=organization_id, name=name, etag=etag)
    await metering.quota.DeleteLimit(request, metadata=metering.operator)


async def limits_of(metering: Metering, organization_id: str, page_size: int = 7) -> list[pb.Limit]:
    """Return all limits of an organization, a small page at a time."""
    request = pb.ListLimitsRequest(organization_id=organization_id, page_size=page_size)
    found: list[pb.Limit] = []
    while True:
        page = await metering.quota.ListLimits(request, metadata=metering.operator)
        found += page.limits
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def usage_of(
    metering: Metering, organization_id: str, page_size: int = 7, **filters: object
) -> list[pb.LimitStatus]:
    """Return where all limits of an organization stand, a small page at a time."""
    request = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, page_size=page_size, **filters)  # type: ignore[arg-type]
    found: list[pb.LimitStatus] = []
    while True:
        page = await metering.quota.GetUsageAgainstLimits(request, metadata=metering.operator)
        found += page.limits
        request.page_token = page.next_page_token
        if not request.page_token:
            return found
