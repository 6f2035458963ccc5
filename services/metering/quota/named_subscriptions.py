"""Whether a call can fall under the subscription that it names."""

from libs.common.errors import Refusal
from services.metering.clients.subscriptions import SubscriptionsClient
from services.metering.errors import SubscriptionMismatch, SubscriptionNotFound


async def refusal_of_subscription(
    subscriptions: SubscriptionsClient, organization_id: str, subscription_id: str, user_id: str | None, model: str
) -> Refusal | None:
    """Return why a user's call to a model cannot fall under a subscription; None if it can where it is live.

    Where the user or the model is not known, it may be for any.

    Raises:
        Unavailable: billing cannot be asked.
    """
    subject = await subscriptions.subject_of(organization_id, subscription_id)
    if subject is None:
        return SubscriptionNotFound(subscription_id=subscription_id)
    if user_id and subject.user_id not in ("", user_id):
        return SubscriptionMismatch(subscription_id=subscription_id, contradicts="user_id")
    if model and subject.model not in ("", model):
        return SubscriptionMismatch(subscription_id=subscription_id, contradicts="model")
    return None
