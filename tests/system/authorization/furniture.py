"""Creates one resource of every kind that an RPC can name, in an organization or project."""

import asyncio
import itertools
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration

from libs.cli.terminal.connection import Channels
from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tests.system.authorization.people import People
from tests.system.authorization.requests import CURRENCY, EXPERIMENT_ON, LIMIT, MODEL
from tests.system.authorization.targets import Target
from tollhouse.billing.v1 import (
    account_pb2,
    account_pb2_grpc,
    credit_pb2,
    credit_pb2_grpc,
    invoice_pb2,
    invoice_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    payment_pb2,
    payment_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    subscription_pb2,
    subscription_pb2_grpc,
)
from tollhouse.common.v1 import amount_pb2, event_pb2, event_pb2_grpc
from tollhouse.identity.v1 import (
    organization_pb2,
    organization_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    service_account_pb2,
    service_account_pb2_grpc,
)
from tollhouse.metering.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    lease_pb2,
    lease_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

# The ids of resources that cannot exist where the organization does not.
NOTHING = frozenset({"organization", "user", "conversation"})
_SUB_IDS = (
    *("account_id", "api_key_id", "grant_id", "invitation_id", "invoice_id", "payment_id", "service_account_id"),
    *("subscription_id", "transaction_id"),
    *("identity_event_endpoint_id", "billing_event_endpoint_id", "metering_event_endpoint_id"),
)
_OPERATIONS = (
    "conversation_operation_id",
    "debit_operation_id",
    "hold_operation_id",
    "lease_operation_id",
    "quota_operation_id",
    "usage_operation_id",
)
_numbers = itertools.count(1)


class Furniture:
    """Creates resources, as an operator."""

    def __init__(self, operator: Channels, people: People) -> None:
        self._people = people
        self._invitations: organization_pb2_grpc.OrganizationServiceStub = (
            organization_pb2_grpc.OrganizationServiceStub(operator.identity)
        )
        self._projects: project_pb2_grpc.ProjectServiceStub = project_pb2_grpc.ProjectServiceStub(operator.identity)
        self._service_accounts: service_account_pb2_grpc.ServiceAccountServiceStub = (
            service_account_pb2_grpc.ServiceAccountServiceStub(operator.identity)
        )
        self._accounts: account_pb2_grpc.AccountServiceStub = account_pb2_grpc.AccountServiceStub(operator.billing)
        self._ledger: ledger_pb2_grpc.LedgerServiceStub = ledger_pb2_grpc.LedgerServiceStub(operator.billing)
        self._invoices: invoice_pb2_grpc.InvoiceServiceStub = invoice_pb2_grpc.InvoiceServiceStub(operator.billing)
        self._credits: credit_pb2_grpc.CreditServiceStub = credit_pb2_grpc.CreditServiceStub(operator.billing)
        self._payments: payment_pb2_grpc.PaymentServiceStub = payment_pb2_grpc.PaymentServiceStub(operator.billing)
        self._subscriptions: subscription_pb2_grpc.SubscriptionServiceStub = (
            subscription_pb2_grpc.SubscriptionServiceStub(operator.billing)
        )
        self._plans: plan_pb2_grpc.PlanServiceStub = plan_pb2_grpc.PlanServiceStub(operator.billing)
        self._models: model_pb2_grpc.ModelServiceStub = model_pb2_grpc.ModelServiceStub(operator.metering)
        self._quota: quota_pb2_grpc.QuotaServiceStub = quota_pb2_grpc.QuotaServiceStub(operator.metering)
        self._conversations: conversation_pb2_grpc.ConversationServiceStub = (
            conversation_pb2_grpc.ConversationServiceStub(operator.metering)
        )
        self._leases: lease_pb2_grpc.LeaseServiceStub = lease_pb2_grpc.LeaseServiceStub(operator.metering)
        self._events: dict[str, event_pb2_grpc.EventServiceStub] = {
            name: event_pb2_grpc.EventServiceStub(getattr(operator, name))
            for name in ("identity", "billing", "metering")
        }
        self._usage: usage_pb2_grpc.UsageServiceStub = usage_pb2_grpc.UsageServiceStub(operator.metering)

    async def add_model(self) -> None:
        """Create the model that all usage names, with a price."""
        await self._models.CreateModel(model_pb2.CreateModelRequest(model_id=MODEL))
        prices = model_pb2.TokenPrices(input="1", output="1")
        await self._models.SetPrice(model_pb2.SetPriceRequest(model_id=MODEL, currency_code=CURRENCY, prices=prices))

    async def add_experiment(self) -> None:
        """Begin the experiment that calls name by its plan."""
        variants = [plan_pb2.PlanVariant(plan_code=code, weight=1) for code in (EXPERIMENT_ON, "basic")]
        request = plan_pb2.SetPlanExperimentRequest(plan_code=EXPERIMENT_ON, variants=variants)
        await self._plans.SetPlanExperiment(request)

    async def project(self, organization_id: str) -> str:
        request = project_pb2.CreateProjectRequest(organization_id=organization_id, name=f"Project {next(_numbers)}")
        return (await self._projects.CreateProject(request)).project.project_id

    async def delete_project(self, organization_id: str, project_id: str) -> None:
        request = project_pb2.DeleteProjectRequest(organization_id=organization_id, project_id=project_id)
        await self._projects.DeleteProject(request)

    async def delete_organization(self, organization_id: str) -> None:
        request = organization_pb2.DeleteOrganizationRequest(organization_id=organization_id)
        await self._invitations.DeleteOrganization(request)

    async def service_account(self, organization_id: str, role: str) -> str:
        request = service_account_pb2.CreateServiceAccountRequest(
            organization_id=organization_id,
            name=f"Service account {next(_numbers)}",
            role=organization_pb2.MemberRole.Value(f"MEMBER_ROLE_{role.upper()}"),
        )
        return (await self._service_accounts.CreateServiceAccount(request)).service_account.service_account_id

    async def invitation(self, organization_id: str) -> str:
        request = organization_pb2.CreateInvitationRequest(
            organization_id=organization_id,
            email=f"guest-{next(_numbers)}@people.example",
            role=organization_pb2.MEMBER_ROLE_VIEWER,
        )
        return (await self._invitations.CreateInvitation(request)).invitation.invitation_id

    async def furnish(self, name: str, organization_id: str, project_id: str, user_id: str) -> Target:
        """Create one resource of every kind, in the project if one is given, for a user of the organization."""
        owned, account, service_account_id, invitation_id, endpoints = await asyncio.gather(
            self.own_things(organization_id, project_id, user_id),
            self._account(organization_id, project_id),
            self.service_account(organization_id, "viewer"),
            self.invitation(organization_id),
            self._endpoints(organization_id),
        )
        ids = {
            **owned,
            **account,
            **endpoints,
            "service_account_id": service_account_id,
            "invitation_id": invitation_id,
        }
        return Target(name, organization_id, project_id, user_id, ids)

    async def _endpoints(self, organization_id: str) -> dict[str, str]:
        """Create an endpoint in each service to which no event is sent."""
        request = event_pb2.CreateEventEndpointRequest(
            organization_id=organization_id, url="https://matrix.example/", types=["tollhouse.nothing.happened"]
        )
        made = {name: await stub.CreateEventEndpoint(request) for name, stub in self._events.items()}
        return {f"{name}_event_endpoint_id": answer.endpoint.endpoint_id for name, answer in made.items()}

    async def own_things(self, organization_id: str, project_id: str, user_id: str) -> dict[str, str]:
        """Create what belongs to a user: a key, usage, a conversation, an allocation, a lease, the one subscription.

        The organization has a limit then, too.
        """
        api_key_id, _ = await self._people.key(organization_id, project_id=project_id, user_id=user_id)
        operation_id = f"used-{next(_numbers)}"
        await self._usage.RecordUsage(
            usage_pb2.RecordUsageRequest(
                operation_id=operation_id,
                organization_id=organization_id,
                project_id=project_id,
                user_id=user_id,
                model=MODEL,
                tokens=model_pb2.TokenCounts(input=1),
            )
        )
        conversation_id = f"talked-{next(_numbers)}-"
        await self._conversations.CreateConversation(
            conversation_pb2.CreateConversationRequest(
                conversation_id=conversation_id,
                organization_id=organization_id,
                project_id=project_id,
                user_id=user_id,
                title="Matrix",
            )
        )
        await self._quota.SetLimit(
            quota_pb2.SetLimitRequest(
                organization_id=organization_id,
                name=LIMIT,
                metric="requests",
                window=quota_pb2.LIMIT_WINDOW_DAY,
                unlimited=True,
            )
        )
        allocated = f"allocated-{next(_numbers)}"
        await self._quota.AllocateQuota(
            quota_pb2.AllocateQuotaRequest(
                operation_id=allocated,
                organization_id=organization_id,
                project_id=project_id,
                user_id=user_id,
                amounts=[quota_pb2.QuotaAmount(metric="concurrent_calls", value="1")],
            )
        )
        lease_id = f"leased-{next(_numbers)}"
        await self._leases.AcquireLease(
            lease_pb2.AcquireLeaseRequest(
                lease_id=lease_id,
                organization_id=organization_id,
                amounts=[quota_pb2.QuotaAmount(metric="requests", value="1")],
                ttl=Duration(seconds=3600),
            )
        )
        subscribed = await self._subscriptions.CreateSubscription(
            subscription_pb2.CreateSubscriptionRequest(
                organization_id=organization_id, user_id=user_id, plan_code="free", request_id=f"free-{user_id}"
            )
        )
        return {
            "api_key_id": api_key_id,
            "usage_operation_id": operation_id,
            "conversation_operation_id": conversation_id,
            "quota_operation_id": allocated,
            "lease_operation_id": lease_id,
            "subscription_id": subscribed.subscription.subscription_id,
        }

    async def _account(self, organization_id: str, project_id: str) -> dict[str, str]:
        """Return the account of the project, or the organization's own, with money, a movement and a hold."""
        opened = await self._accounts.OpenAccount(
            account_pb2.OpenAccountRequest(
                organization_id=organization_id, project_id=project_id, currency_code=CURRENCY
            )
        )
        credited = await self._ledger.Credit(
            ledger_pb2.CreditRequest(
                organization_id=organization_id,
                project_id=project_id,
                operation_id=f"credited-{next(_numbers)}",
                amount=amount_pb2.Amount(currency_code=CURRENCY, value="100"),
            )
        )
        granted = await self._credits.GrantCredits(
            credit_pb2.GrantCreditsRequest(
                organization_id=organization_id,
                project_id=project_id,
                operation_id=f"granted-{next(_numbers)}",
                amount=amount_pb2.Amount(currency_code=CURRENCY, value="1"),
            )
        )
        recorded = await self._payments.RecordPayment(
            payment_pb2.RecordPaymentRequest(
                organization_id=organization_id,
                operation_id=f"paid-{next(_numbers)}",
                type=payment_pb2.PAYMENT_TYPE_ADJUSTMENT,
                brings=payment_pb2.BRINGS_NOTHING,
                amount=amount_pb2.Amount(currency_code=CURRENCY, value="1000"),
                reason="matrix",
            )
        )
        debit_operation_id = f"debited-{next(_numbers)}"
        await self._ledger.Debit(
            ledger_pb2.DebitRequest(
                organization_id=organization_id,
                project_id=project_id,
                operation_id=debit_operation_id,
                amount=amount_pb2.Amount(currency_code=CURRENCY, value="0.5"),
            )
        )
        invoice_id = await self._invoice(organization_id, project_id)
        operation_id = f"held-{next(_numbers)}"
        await self._ledger.CreateHold(
            ledger_pb2.CreateHoldRequest(
                organization_id=organization_id,
                project_id=project_id,
                operation_id=operation_id,
                amount=amount_pb2.Amount(currency_code=CURRENCY, value="1"),
            )
        )
        return {
            "account_id": opened.account.account_id,
            "transaction_id": credited.transaction.transaction_id,
            "grant_id": granted.grant.grant_id,
            "payment_id": recorded.payment.payment_id,
            "invoice_id": invoice_id,
            "debit_operation_id": debit_operation_id,
            "hold_operation_id": operation_id,
        }

    async def _invoice(self, organization_id: str, project_id: str) -> str:
        """Return an invoice over what the account was charged."""
        party = invoice_pb2.InvoiceParty(name="Matrix")
        issuer = invoice_pb2.InvoiceIssuer(party=party, prefix="MATRIX-")
        await self._invoices.SetInvoiceIssuer(invoice_pb2.SetInvoiceIssuerRequest(issuer=issuer))
        issued = await self._invoices.IssueInvoice(
            invoice_pb2.IssueInvoiceRequest(
                organization_id=organization_id,
                project_id=project_id,
                currency_code=CURRENCY,
                end_time=render_time(datetime.now(UTC)),
            )
        )
        return issued.invoice.invoice_id


def nowhere(name: str, **there: str) -> Target:
    """A place where only the given resources exist."""
    ids = {
        "organization_id": new_id(),
        "project_id": new_id(),
        "user_id": new_id(),
        **{sub_id: new_id() for sub_id in _SUB_IDS},
        **{operation: f"unknown-{next(_numbers)}" for operation in _OPERATIONS},
        **there,
    }
    return Target(name, "", missing=NOTHING).with_ids(**ids)
