"""Billing's settings, beyond those that every service has."""

from typing import Final, Self

from pydantic import Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from libs.common.settings import ShardedSettings
from services.billing.payment.providers.registry import ProvidersSettings

PREFIX: Final = "TOLLHOUSE_BILLING_"


class BillingSettings(ShardedSettings, ProvidersSettings):
    """Settings under `TOLLHOUSE_BILLING_…`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    identity_target: str | None = None
    """The address of identity, such as `identity:50051`. Without it billing takes calls of operators and services only,
    and none of users or API keys."""
    metering_target: str | None = None
    """The address of metering, such as `metering:50053`. With it a subscription can only be to a model that is in the
    catalogue."""
    signing_key_file: FilePath | None = None
    """The private key with which billing signs its own tokens towards identity and metering; needed with
    `identity_target` and `metering_target`."""

    model_subscriptions_need_approval: bool = True
    """Whether subscriptions to models wait for an operator's approval."""
    free_plan_for_new_users: bool = True
    """Whether each new user's personal organization is subscribed to the plan `free`, once."""
    self_service_plans: list[str] | None = None
    """The codes of the plans that organizations may take by themselves, such as `["free", "pro"]`; all that are active
    and published where it is not set."""
    self_service_downgrade: bool = True
    """Whether organizations may change to a cheaper plan by themselves."""
    self_service_cancel: bool = True
    """Whether organizations may cancel by themselves."""

    batch_max: int = Field(default=500, ge=1, le=5_000)
    """How many commands one transaction of the ledger takes at most."""
    queue_max: int = Field(default=20_000, ge=200, le=1_000_000)
    """How many commands wait at most; a further one is refused at once as overloaded."""
    lanes: int = Field(default=1, ge=1, le=8)
    """How many batches may be under way at a time. More than one helps where the database is far away."""
    sweep_every_s: float = Field(default=5, ge=0.05, le=3_600)
    """How often expired holds are ended on accounts that nobody uses."""

    watchers_max: int = Field(default=256, ge=1, le=10_000)
    """How many streams of WatchEntitlements one process serves."""
    period_run_every_s: float = Field(default=5, ge=0.05, le=3_600)
    """How often what is due for subscriptions is worked off."""

    refunds_into_debt: bool = True
    """What becomes of credits of a refunded or disputed payment that are used already: the balance becomes negative by
    them. Otherwise they are written off."""
    payments_test_mode: bool = False
    """Whether checkouts are opened in the test modes of payment providers. Payments of the other mode are refused."""
    invoice_link_secret_file: FilePath | None = None
    """A file with the secret by which links to invoices are signed, at least 32 bytes. Without it there are none."""
    invoice_link_base_url: str = Field(default="", pattern=r"^(https?://[!-~]{1,255})?$")
    """What links to invoices begin with: the gateway's address, such as `https://api.example.com`."""
    invoice_link_lifetime_s: int = Field(default=604_800, ge=60, le=31_536_000)
    """How long a link to an invoice works."""

    webhook_retention_days: int = Field(default=90, ge=7, le=3_650)
    """For how many days a webhook of a payment provider is kept after it was applied, refused or set aside."""
    top_ups_every_s: float = Field(default=10, ge=0.05, le=3_600)
    """How often it is looked at which accounts are to be topped up by themselves."""

    invoices_every_s: float = Field(default=30, ge=0.05, le=3_600)
    """How often it is looked at which invoices are to be issued by themselves, and which are overdue."""

    @model_validator(mode="after")
    def _peers_are_called_with_a_key(self) -> Self:
        for name in ("identity_target", "metering_target"):
            if getattr(self, name) and not self.signing_key_file:
                raise ValueError(f"{PREFIX}SIGNING_KEY_FILE: is not set, though {PREFIX}{name.upper()} is")
        return self
