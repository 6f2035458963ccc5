"""Opens the pages of payment providers on which customers change their cards, see receipts and end subscriptions."""

from collections.abc import Mapping

from libs.common.call import current_caller, is_limited
from libs.common.shards import Shards
from services.billing import payment_errors as errors
from services.billing.payment import store
from services.billing.payment.asking import as_refusals, find_provider
from services.billing.payment.provider import Provider

_WHAT = "open a customer portal"


class Portals:
    """Opens customer portals. Nothing of them is stored: the address alone lets whoever has it in."""

    def __init__(self, shards: Shards, providers: Mapping[str, Provider]) -> None:
        self._shards = shards
        self._providers = providers

    async def open(self, organization_id: str, provider_name: str, user_id: str | None) -> str:
        """Return the address of a portal: of the customer who made the last payment of the user, or of anybody.

        Raises:
            PortalIsPersonal: the caller is another user, or a service account.
            PaymentProviderUnknown, PaymentProviderCannot, PaymentProviderDeclined, PaymentProviderMisconfigured: see
            each.
            NoCustomer: no payment names a customer of the provider.
            Unavailable: the provider cannot be reached.
        """
        if is_limited():
            user_id = _own(user_id)
        name, provider = find_provider(self._providers, provider_name, _WHAT)
        async with self._shards.of(organization_id).raw_connection() as connection:
            customer = await store.find_customer(connection, organization_id, name, user_id)
        if customer is None:
            raise errors.NoCustomer(provider=name)
        with as_refusals(name, _WHAT):
            return await provider.portal_url(customer)


def _own(user_id: str | None) -> str:
    """Return the id of the calling user. A provider's customer may have paid for other organizations as well."""
    caller = current_caller()
    if not caller.is_user(user_id or caller.name):
        raise errors.PortalIsPersonal
    return caller.name
