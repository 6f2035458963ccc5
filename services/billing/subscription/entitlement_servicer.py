"""The part of SubscriptionService that is about entitlements."""

from collections.abc import AsyncIterator, Mapping

from libs.common.pages import encode_page_token, page_size, that_fit
from libs.common.validation import Reader
from services.billing.subscription.entitlement_feed import EntitlementFeed
from services.billing.subscription.entitlement_parsing import read_override, read_place, read_user
from services.billing.subscription.entitlement_rendering import render_entitled, render_news, render_override
from services.billing.subscription.entitlement_store import key_of
from services.billing.subscription.entitlements import Entitlements
from tollhouse.billing.v1 import subscription_pb2 as pb


class EntitlementServicer:
    """Reads requests on entitlements into commands, and renders what comes of them, for SubscriptionServicer."""

    def __init__(self, entitlements: Entitlements, feed: EntitlementFeed) -> None:
        self._entitlements = entitlements
        self._feed = feed

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "GetEntitlements": read_user,
            "SetEntitlementOverride": read_override,
            "ListEntitlementOverrides": read_user,
        }

    async def get(self, request: pb.GetEntitlementsRequest) -> pb.GetEntitlementsResponse:
        """Answer GetEntitlements."""
        entitled, position = await self._entitlements.get(
            request.organization_id.lower(), read_user(request), request.model or None
        )
        return render_entitled(entitled, position)

    async def set_override(self, request: pb.SetEntitlementOverrideRequest) -> pb.SetEntitlementOverrideResponse:
        """Answer SetEntitlementOverride."""
        override = await self._entitlements.set_override(read_override(request))
        rendered = None if override is None else render_override(override)
        return pb.SetEntitlementOverrideResponse(entitlement_override=rendered)

    async def list_overrides(self, request: pb.ListEntitlementOverridesRequest) -> pb.ListEntitlementOverridesResponse:
        """Answer ListEntitlementOverrides."""
        organization_id, user_id = request.organization_id.lower(), read_user(request)
        fingerprint = f"entitlement_overrides/{organization_id}/{user_id}"
        size = page_size(request.page_size)
        found = await self._entitlements.overrides(
            organization_id, user_id, after=read_place(request.page_token, fingerprint), limit=size + 1
        )
        page = that_fit(map(render_override, found[:size]))
        token = ""
        if len(page) < len(found):
            token = encode_page_token(*key_of(found[len(page) - 1]), fingerprint=fingerprint)
        return pb.ListEntitlementOverridesResponse(entitlement_overrides=page, next_page_token=token)

    async def watch(self, request: pb.WatchEntitlementsRequest) -> AsyncIterator[pb.WatchEntitlementsResponse]:
        """Answer WatchEntitlements."""
        async for news in self._feed.watch(request.revision):
            yield render_news(news)
