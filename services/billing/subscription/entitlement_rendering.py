"""Entitlements as messages."""

from typing import Final

from libs.common.timestamps import render_optional_time, render_time
from services.billing.plan.rendering import render_entitlement
from services.billing.subscription.entitlement_domain import Effective, Entitled, Override, Source
from services.billing.subscription.entitlement_feed import News
from services.billing.subscription.entitlement_position import Position
from services.billing.subscription.rendering import render_subscription
from tollhouse.billing.v1 import subscription_pb2 as pb

_SOURCES: Final = {source: pb.EntitlementSource.Value(f"ENTITLEMENT_SOURCE_{source}") for source in Source}


def render_entitled(entitled: Entitled, position: Position) -> pb.GetEntitlementsResponse:
    start, end = entitled.period or (None, None)
    return pb.GetEntitlementsResponse(
        entitlements=map(_effective, entitled.entitlements),
        subscriptions=map(render_subscription, entitled.subscriptions),
        period_start_time=render_optional_time(start),
        period_end_time=render_optional_time(end),
        revision=str(position),
        until_time=render_optional_time(entitled.until_time),
    )


def render_override(override: Override) -> pb.EntitlementOverride:
    return pb.EntitlementOverride(
        organization_id=override.organization_id,
        user_id=override.user_id or "",
        model=override.model or "",
        entitlement=render_entitlement(override.entitlement),
        expire_time=render_optional_time(override.expire_time),
        reason=override.reason,
        actor=override.actor,
        create_time=render_time(override.create_time),
    )


def render_news(news: News) -> pb.WatchEntitlementsResponse:
    return pb.WatchEntitlementsResponse(
        organization_ids=news.organization_ids, revision=str(news.position), resync=news.resync
    )


def _effective(one: Effective) -> pb.EffectiveEntitlement:
    return pb.EffectiveEntitlement(
        entitlement=render_entitlement(one.entitlement),
        source=_SOURCES[one.source],
        subscription_id=one.subscription_id or "",
        until_time=render_optional_time(one.until_time),
        override_user_id=(one.override and one.override.user_id) or "",
        override_model=(one.override and one.override.model) or "",
    )
