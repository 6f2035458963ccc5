"""How each RPC that changes something is tested without changing what other calls of the matrix need.

The matrix tests fail if such an RPC is missing from the table.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tests.system.authorization.requests import EXPERIMENT_ON, LIMIT, STALE_ETAG
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.targets import Target
from tollhouse.billing.v1 import invoice_pb2, payment_pb2, plan_pb2, subscription_pb2
from tollhouse.common.v1 import amount_pb2
from tollhouse.identity.v1 import api_key_pb2, user_pb2
from tollhouse.metering.v1 import conversation_pb2, ingest_pb2, model_pb2, quota_pb2, unit_pb2, usage_pb2


class Way(Enum):
    """How a call that is let in is kept from changing the outcome of others."""

    ADDS = "it adds what no other call looks at, or finds things as it would have them"
    STALE = "its request names an etag that no resource has"
    TRIED = "its request asks for validation only"
    ON_KEY = "it is let loose on a key of its own"
    ON_USER = "it is let loose on a user of its own"
    ON_PROJECT = "it is let loose on a project of its own"
    ON_SERVICE_ACCOUNT = "it is let loose on a service account of its own"
    ON_INVITATION = "it is let loose on an invitation of its own"
    ON_ORGANIZATION = "it is let loose on an organization of its own"


def _all(way: Way, service: str, verbs: str) -> dict[str, Way]:
    return {f"{service}.{verb}": way for verb in verbs.split()}


WAYS: Final[Mapping[str, Way]] = {
    **_all(Way.ADDS, "billing.v1.AccountService", "OpenAccount"),
    **_all(Way.STALE, "billing.v1.AccountService", "UpdateAccount"),
    # The accounts hold money, so that they cannot be closed. Their threshold of a low balance is taken away, if any.
    **_all(Way.ADDS, "billing.v1.AccountService", "CloseAccount SetLowBalanceThreshold"),
    **_all(Way.TRIED, "billing.v1.LedgerService", "Debit Credit Transfer CreateHold ReverseTransaction"),
    **_all(Way.TRIED, "billing.v1.LedgerService", "BatchDebit BatchCreateHold BatchReverseTransaction"),
    # A hold can be read in any state.
    **_all(Way.ADDS, "billing.v1.LedgerService", "CaptureHold BatchCaptureHold ReleaseHold ExtendHold"),
    # The grant belongs to the account, and is voided once; a repeat finds it so.
    **_all(Way.ADDS, "billing.v1.CreditService", "GrantCredits VoidGrant"),
    # Refunds of the payment are of a small part of it each.
    **_all(Way.ADDS, "billing.v1.PaymentService", "CreateProduct ArchiveProduct RecordPayment RefundPayment"),
    **_all(Way.ADDS, "billing.v1.PaymentService", "CreateCheckout ReceiveWebhook RetryWebhook ReconcilePayments"),
    **_all(Way.ADDS, "billing.v1.PaymentService", "SetTopUpPolicy"),
    **_all(Way.STALE, "billing.v1.PaymentService", "UpdateProduct"),
    # The invoice belongs to the account, and a repeat finds it voided, paid or credited.
    **_all(
        Way.ADDS,
        "billing.v1.InvoiceService",
        "IssueInvoice VoidInvoice CreateCreditNote SetInvoicePaid SetInvoiceUncollectible",
    ),
    **_all(Way.STALE, "billing.v1.InvoiceService", "SetInvoiceIssuer SetInvoiceRecipient"),
    # Version 1 of the plan is published, and the plan that is archived is one that no other call names.
    **_all(Way.ADDS, "billing.v1.PlanService", "CreatePlan PublishPlanVersion ArchivePlan"),
    **_all(Way.STALE, "billing.v1.PlanService", "UpdatePlan SetPlanExperiment"),
    # Nothing is owed, so nothing is paid; and billing does what is due by itself.
    **_all(
        Way.ADDS, "billing.v1.SubscriptionService", "CreateSubscription RetryPayment SetEntitlementOverride RunPeriods"
    ),
    **_all(Way.TRIED, "billing.v1.SubscriptionService", "ChangePlan"),
    **_all(
        Way.STALE,
        "billing.v1.SubscriptionService",
        "ApproveSubscription RejectSubscription UpdateSubscription WithdrawPlanChange PauseSubscription"
        " ResumeSubscription SuspendSubscription CancelSubscription WithdrawCancellation",
    ),
    # A subject that has its variant keeps it.
    **_all(Way.ADDS, "billing.v1.PlanService", "GetPlanOffer"),
    # No event is of a type that the endpoints want, so that none is sent.
    **_all(Way.ADDS, "common.v1.EventService", "CreateEventEndpoint RotateEventEndpointSecret ReplayEvents"),
    **_all(Way.STALE, "common.v1.EventService", "UpdateEventEndpoint DeleteEventEndpoint"),
    **_all(Way.ADDS, "identity.v1.ApiKeyService", "CreateApiKey ImportApiKeys ReportLeakedApiKey"),
    **_all(Way.STALE, "identity.v1.ApiKeyService", "UpdateApiKey"),
    **_all(Way.ON_KEY, "identity.v1.ApiKeyService", "RotateApiKey DisableApiKey EnableApiKey RevokeApiKey"),
    **_all(Way.ADDS, "identity.v1.OrganizationService", "CreateOrganization CreateInvitation AcceptInvitation"),
    **_all(Way.STALE, "identity.v1.OrganizationService", "UpdateOrganization UpdateMember"),
    **_all(Way.ON_ORGANIZATION, "identity.v1.OrganizationService", "DeleteOrganization"),
    **_all(Way.ON_USER, "identity.v1.OrganizationService", "AddMember RemoveMember"),
    **_all(Way.ON_INVITATION, "identity.v1.OrganizationService", "RevokeInvitation"),
    **_all(Way.ADDS, "identity.v1.ProjectService", "CreateProject"),
    **_all(Way.STALE, "identity.v1.ProjectService", "UpdateProject UpdateProjectMember"),
    **_all(Way.ON_PROJECT, "identity.v1.ProjectService", "DeleteProject"),
    **_all(Way.ON_USER, "identity.v1.ProjectService", "AddProjectMember RemoveProjectMember"),
    **_all(Way.ADDS, "identity.v1.ServiceAccountService", "CreateServiceAccount"),
    **_all(Way.STALE, "identity.v1.ServiceAccountService", "UpdateServiceAccount"),
    **_all(Way.ON_SERVICE_ACCOUNT, "identity.v1.ServiceAccountService", "DeleteServiceAccount"),
    **_all(Way.ADDS, "identity.v1.SessionService", "SignInWithPassword SignInWithIdToken RefreshSession"),
    **_all(Way.ADDS, "identity.v1.SessionService", "SignInWithAccessToken"),
    **_all(Way.ON_USER, "identity.v1.SessionService", "SignOut"),
    **_all(Way.STALE, "identity.v1.SystemConfigurationService", "UpdateSystemConfiguration"),
    **_all(Way.ADDS, "identity.v1.UserService", "CreateUser"),
    **_all(Way.STALE, "identity.v1.UserService", "UpdateUser UpdateUserConfiguration"),
    **_all(Way.ON_USER, "identity.v1.UserService", "DeactivateUser ReactivateUser DeleteUser LinkIdentity"),
    **_all(Way.ON_USER, "identity.v1.UserService", "UnlinkIdentity SetPassword"),
    **_all(
        Way.ADDS,
        "metering.v1.AdmissionService",
        "Authorize BatchAuthorize Settle BatchSettle Cancel ExtendAuthorization",
    ),
    **_all(Way.STALE, "metering.v1.AdmissionService", "UpdateAdmissionPolicy"),
    **_all(Way.ADDS, "metering.v1.ChargeService", "RetryCharges"),
    # Messages are added to the target's conversation.
    **_all(Way.ADDS, "metering.v1.ConversationService", "CreateConversation AppendMessage"),
    **_all(
        Way.STALE, "metering.v1.ConversationService", "UpdateConversation DeleteConversation UpdateConversationPolicy"
    ),
    # The lease belongs to the target, and is settled once; a repeat finds it so.
    **_all(Way.ADDS, "metering.v1.LeaseService", "AcquireLease SettleLease"),
    **_all(Way.ADDS, "metering.v1.ModelService", "CreateModel StreamImportModels"),
    **_all(Way.STALE, "metering.v1.ModelService", "UpdateModel"),
    **_all(Way.TRIED, "metering.v1.ModelService", "ImportModels SetPrice"),
    # The allocation belongs to the target, and is released once; a repeat finds it so.
    **_all(Way.ADDS, "metering.v1.QuotaService", "AllocateQuota ReleaseQuota"),
    **_all(Way.STALE, "metering.v1.QuotaService", "SetLimit DeleteLimit"),
    # Usage is kept for ever, so no month is dropped; and what a user's usage holds of texts is read by no other call.
    **_all(Way.ADDS, "metering.v1.RetentionService", "SetUsageRetention DropUsageMonth ForgetUser"),
    **_all(Way.ADDS, "metering.v1.UnitService", "CreateUnit ArchiveUnit"),
    **_all(Way.STALE, "metering.v1.UnitService", "UpdateUnit"),
    **_all(Way.ADDS, "metering.v1.IngestService", "IngestEvents SetEventMapping DeleteEventMapping"),
    **_all(Way.ADDS, "metering.v1.UsageService", "RecordUsage BatchRecordUsage StreamUsage"),
    # A voided usage that was restored is what it was.
    **_all(Way.TRIED, "metering.v1.UsageService", "AmendUsage VoidUsage RestoreUsage RerateUsage"),
    # There is no such job.
    **_all(Way.ADDS, "metering.v1.UsageService", "PauseRerateJob ResumeRerateJob CancelRerateJob"),
}

_UNKNOWN_KEY: Final = "th_live_unknown"
_SOME_MODEL: Final = b"models: [{model_id: matrix-imported, currency_code: USD, prices: {input: '1', output: '1'}}]"

_ENTERPRISE: Final = "019a0000-0000-7000-8000-000000000004"
_PARTY: Final = invoice_pb2.InvoiceParty(name="Matrix")
_NOW: Final = subscription_pb2.CHANGE_TIMING_NOW
_SOME_TERMS: Final = plan_pb2.PlanTerms(
    price=amount_pb2.Amount(currency_code="USD", value="1"),
    billing_interval=plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_MONTH, count=1),
)


_NO_PRODUCT: Final = "019a0000-0000-7000-8000-0000000000ff"
_SOME_REFERENCE: Final = payment_pb2.PaymentReference(
    provider="matrix", kind=payment_pb2.REFERENCE_KIND_ORDER, external_id="unknown"
)


def _in_ten_minutes() -> Timestamp:
    return render_time(datetime.now(UTC) + timedelta(minutes=10))


def _conversation(target: Target) -> dict[str, object]:
    return {"conversation_id": target.ids["conversation_operation_id"]}


def _imported(target: Target) -> api_key_pb2.ImportedApiKey:
    digest = (target.organization_id or target.name).encode().hex()[:64].ljust(64, "0")
    return api_key_pb2.ImportedApiKey(digest=digest, user_id=target.user_id or target.organization_id)


# Values for fields that cannot be filled by their name alone.
OWN_FIELDS: Final[Mapping[str, Callable[[Target], dict[str, object]]]] = {
    "billing.v1.ChargeService.DigestCharges": lambda target: {"bucket_count": 1},
    "billing.v1.ChargeService.ListCharges": lambda target: {"operation_ids": None},
    "metering.v1.ChargeService.DigestCharges": lambda target: {"bucket_count": 1},
    "metering.v1.ChargeService.ListCharges": lambda target: {"operation_ids": None},
    "metering.v1.ChargeService.GetUsedQuantity": lambda target: {
        "unit": "pages",
        "models": None,
        "start_time": render_time(datetime.now(UTC) - timedelta(hours=1)),
    },
    # The account is named by its project, so that the service has to look it up.
    "billing.v1.AccountService.GetBalance": lambda target: {"account_id": None},
    "billing.v1.LedgerService.CaptureHold": lambda target: {"operation_id": target.ids["hold_operation_id"]},
    "billing.v1.LedgerService.ExtendHold": lambda target: {"operation_id": target.ids["hold_operation_id"]},
    "billing.v1.LedgerService.GetHold": lambda target: {"operation_id": target.ids["hold_operation_id"]},
    "billing.v1.LedgerService.ReleaseHold": lambda target: {"operation_id": target.ids["hold_operation_id"]},
    "billing.v1.LedgerService.GetTransaction": lambda target: {"operation_id": None},
    # All transactions, and not the parts of one hold.
    "billing.v1.LedgerService.ListTransactions": lambda target: {"hold_operation_id": None},
    # From the organization's own account to a project's, or the other way round.
    "billing.v1.LedgerService.Transfer": lambda target: {
        "destination_project_id": None if target.project_id else new_id()
    },
    "billing.v1.CreditService.ExplainCharge": lambda target: {
        "operation_id": target.ids["debit_operation_id"],
        "transaction_id": None,
    },
    "billing.v1.CreditService.GrantCredits": lambda target: {"expire_time": _in_ten_minutes(), "effective_time": None},
    "billing.v1.CreditService.VoidGrant": lambda target: {"reason": "tried"},
    "billing.v1.CreditService.GetCreditSummary": lambda target: {"currency_code": None},
    "billing.v1.PaymentService.CreateProduct": lambda target: {"product_code": f"matrix-{new_id()}"},
    "billing.v1.PaymentService.GetProduct": lambda target: {"product_id": _NO_PRODUCT},
    "billing.v1.PaymentService.ArchiveProduct": lambda target: {"product_id": _NO_PRODUCT},
    "billing.v1.PaymentService.UpdateProduct": lambda target: {
        "product_id": _NO_PRODUCT,
        "update_mask": FieldMask(paths=["name"]),
    },
    "billing.v1.PaymentService.RecordPayment": lambda target: {
        "type": payment_pb2.PAYMENT_TYPE_ADJUSTMENT,
        "credits": None,
        "reason": "tried",
        "references": [],
    },
    "billing.v1.PaymentService.ListPayments": lambda target: {"reference": None, "subscription_id": None},
    "billing.v1.PaymentService.FindPayment": lambda target: {"reference": _SOME_REFERENCE},
    "billing.v1.PaymentService.RefundPayment": lambda target: {"reason": "tried"},
    "billing.v1.PaymentService.SetTopUpPolicy": lambda target: {"target_balance": None, "provider": "manual"},
    "billing.v1.PaymentService.CreateCheckout": lambda target: {
        "success_url": "https://matrix.example/",
        "cancel_url": "https://matrix.example/",
    },
    "billing.v1.PaymentService.ReceiveWebhook": lambda target: {"provider": "matrix", "body": None},
    "billing.v1.PaymentService.ListWebhooks": lambda target: {"provider": "matrix"},
    "billing.v1.PaymentService.RetryWebhook": lambda target: {"webhook_id": new_id()},
    "billing.v1.PaymentService.CountWebhooks": lambda target: {"provider": "matrix"},
    "billing.v1.PaymentService.ReconcilePayments": lambda target: {"provider": "", "since_time": None},
    "billing.v1.InvoiceService.PreviewInvoice": lambda target: {"end_time": None},
    "billing.v1.InvoiceService.IssueInvoice": lambda target: {"end_time": None},
    "billing.v1.InvoiceService.VoidInvoice": lambda target: {"reason": "tried"},
    "billing.v1.InvoiceService.CreateCreditNote": lambda target: {"reason": "tried"},
    "billing.v1.InvoiceService.SetInvoicePaid": lambda target: {
        "operation_id": target.ids["debit_operation_id"],
        "payment_id": "",
    },
    "billing.v1.InvoiceService.SetInvoiceUncollectible": lambda target: {"reason": "tried"},
    "billing.v1.InvoiceService.OpenInvoiceLink": lambda target: {"link": "garbage"},
    "billing.v1.InvoiceService.SetInvoiceIssuer": lambda target: {
        "issuer": invoice_pb2.InvoiceIssuer(party=_PARTY, prefix="MATRIX-", etag=STALE_ETAG)
    },
    "billing.v1.InvoiceService.SetInvoiceRecipient": lambda target: {
        "recipient": invoice_pb2.InvoiceRecipient(party=_PARTY, etag=STALE_ETAG)
    },
    "billing.v1.PlanService.ArchivePlan": lambda target: {"plan_id": _ENTERPRISE},
    "billing.v1.PlanService.CreatePlan": lambda target: {"plan_code": "matrix", "terms": _SOME_TERMS},
    "billing.v1.SubscriptionService.CreateSubscription": lambda target: {"plan_code": "free", "start_time": None},
    "billing.v1.SubscriptionService.ChangePlan": lambda target: {"plan_code": "basic", "timing": _NOW},
    "billing.v1.SubscriptionService.CancelSubscription": lambda target: {"timing": _NOW},
    "billing.v1.SubscriptionService.RejectSubscription": lambda target: {"reason": "tried"},
    "billing.v1.SubscriptionService.SuspendSubscription": lambda target: {"reason": "tried"},
    "billing.v1.SubscriptionService.UpdateSubscription": lambda target: {
        "update_mask": FieldMask(paths=["customer_reference"]),
        "customer_reference": "tried",
    },
    "billing.v1.SubscriptionService.RunPeriods": lambda target: {"until_time": None},
    "billing.v1.SubscriptionService.ListSubscriptions": lambda target: {"model": None},
    "billing.v1.PlanService.GetPlanExperiment": lambda target: {"plan_code": EXPERIMENT_ON, "experiment_id": None},
    # Nobody is a member of a deleted organization, so the offer is for the organization itself.
    "billing.v1.PlanService.GetPlanOffer": lambda target: {
        "plan_code": EXPERIMENT_ON,
        **({"user_id": None} if target.name == "deleted" else {}),
    },
    "billing.v1.PlanService.SetPlanExperiment": lambda target: {"plan_code": EXPERIMENT_ON, "variants": []},
    "billing.v1.SubscriptionService.SetEntitlementOverride": lambda target: {
        "entitlement_code": "tried",
        "entitlement": plan_pb2.Entitlement(entitlement_code="tried", enabled=True),
        "reason": "tried",
    },
    "common.v1.EventService.CreateEventEndpoint": lambda target: {"types": ["tollhouse.nothing.happened"]},
    "common.v1.EventService.UpdateEventEndpoint": lambda target: {
        "update_mask": FieldMask(paths=["description"]),
        "description": "tried",
    },
    "common.v1.CallerService.ResolveCaller": lambda target: {"api_key": _UNKNOWN_KEY},
    "identity.v1.ApiKeyService.ImportApiKeys": lambda target: {
        "secret_prefix": "matrix",
        "api_keys": [_imported(target)],
    },
    "identity.v1.SessionService.SignInWithIdToken": lambda target: {"id_token": "garbage"},
    "identity.v1.SessionService.SignInWithAccessToken": lambda target: {"provider": "x", "access_token": "garbage"},
    # Lists are filtered by the fields that access depends on, and by no filter that would make them empty.
    # Identity does not know which subscriptions there are, so keys of any tenant may be bound to any id.
    "identity.v1.ApiKeyService.ListApiKeys": lambda target: {"service_account_id": None, "subscription_id": None},
    "identity.v1.SessionService.SignOut": lambda target: {"all_sessions": True},
    "identity.v1.SystemConfigurationService.UpdateSystemConfiguration": lambda target: {"removed_keys": ["unknown"]},
    "identity.v1.SessionService.RefreshSession": lambda target: {"refresh_token": "garbage"},
    "identity.v1.UserService.DeleteUser": lambda target: {"etag": None},
    "identity.v1.UserService.UpdateUserConfiguration": lambda target: {"removed_keys": ["unknown"]},
    "identity.v1.UserService.LinkIdentity": lambda target: {"id_token": "garbage"},
    "identity.v1.UserService.UnlinkIdentity": lambda target: {
        "linked_identity": user_pb2.LinkedIdentity(provider="google", subject="unknown")
    },
    "identity.v1.UserService.SetPassword": lambda target: {"remove": True, "current_password": "wrong"},
    "metering.v1.AdmissionService.Authorize": lambda target: {"api_key": _UNKNOWN_KEY, "estimate": None},
    "metering.v1.ModelService.CreateModel": lambda target: {"model_id": "matrix-created"},
    "metering.v1.ModelService.ImportModels": lambda target: {"yaml": _SOME_MODEL},
    "metering.v1.ModelService.StreamImportModels": lambda target: {"chunk": _SOME_MODEL},
    "metering.v1.ModelService.SetPrice": lambda target: {"prices": model_pb2.TokenPrices(input="1", output="1")},
    "metering.v1.ConversationService.CreateConversation": lambda target: {"conversation_id": None},
    "metering.v1.ConversationService.GetConversation": lambda target: _conversation(target),
    "metering.v1.ConversationService.DeleteConversation": lambda target: _conversation(target),
    "metering.v1.ConversationService.ListConversations": lambda target: {"title": None},
    "metering.v1.ConversationService.ListMessages": lambda target: _conversation(target),
    "metering.v1.ConversationService.UpdateConversation": lambda target: {
        **_conversation(target),
        "update_mask": FieldMask(paths=["title"]),
    },
    "metering.v1.ConversationService.AppendMessage": lambda target: {
        **_conversation(target),
        "role": conversation_pb2.MESSAGE_ROLE_USER,
        "usage": None,
        "begin": None,
    },
    "metering.v1.ConversationService.UpdateConversationPolicy": lambda target: {
        "update_mask": FieldMask(paths=["retention_days"])
    },
    "metering.v1.LeaseService.AcquireLease": lambda target: {
        "amounts": [quota_pb2.QuotaAmount(metric="requests", value="1")],
        "ttl": Duration(seconds=60),
    },
    "metering.v1.LeaseService.SettleLease": lambda target: {"lease_id": target.ids["lease_operation_id"]},
    "metering.v1.QuotaService.AllocateQuota": lambda target: {
        "amounts": [quota_pb2.QuotaAmount(metric="requests", value="1")]
    },
    "metering.v1.QuotaService.ReleaseQuota": lambda target: {"operation_id": target.ids["quota_operation_id"]},
    "metering.v1.QuotaService.SetLimit": lambda target: {
        "name": LIMIT,
        "metric": "requests",
        "currency_code": None,
        "window": quota_pb2.LIMIT_WINDOW_DAY,
        "update_mask": None,
    },
    "metering.v1.QuotaService.GetLimit": lambda target: {"name": LIMIT},
    "metering.v1.QuotaService.DeleteLimit": lambda target: {"name": LIMIT},
    "metering.v1.QuotaService.GetUsageAgainstLimits": lambda target: {"name": None},
    "metering.v1.RetentionService.SetUsageRetention": lambda target: {"months": None, "inherit": None},
    "metering.v1.RetentionService.DigestUsageMonth": lambda target: {"month": "2001-01"},
    "metering.v1.RetentionService.DropUsageMonth": lambda target: {"month": "2001-01", "totals": None},
    "metering.v1.RetentionService.GetUsageDrop": lambda target: {"month": "2001-01"},
    "metering.v1.UnitService.ArchiveUnit": lambda target: {"unit_id": "code_sessions"},
    "metering.v1.UnitService.CreateUnit": lambda target: {
        "unit_id": "matrix_unit",
        "kind": unit_pb2.UNIT_KIND_COUNT,
    },
    "metering.v1.IngestService.DeleteEventMapping": lambda target: {"event_type": new_id()},
    "metering.v1.IngestService.GetEventMapping": lambda target: {"event_type": new_id()},
    "metering.v1.IngestService.IngestEvents": lambda target: {
        "body": HttpBody(content_type="application/json", data=b"[{}]")
    },
    "metering.v1.IngestService.SetEventMapping": lambda target: {
        "mapping": ingest_pb2.EventMapping(
            event_type="matrix",
            model="matrix",
            quantities=[ingest_pb2.EventQuantity(unit="input_tokens", value="1")],
            subject=ingest_pb2.EVENT_SUBJECT_ORGANIZATION,
        )
    },
    "metering.v1.UsageService.AmendUsage": lambda target: {
        "update_mask": FieldMask(paths=["items"]),
        "items": 3,
        "stated_amount": None,
    },
    "metering.v1.UsageService.GetUsage": lambda target: {"operation_id": target.ids["usage_operation_id"]},
    "metering.v1.UsageService.ListPendingPrices": lambda target: {"price_version_id": None},
    "metering.v1.UsageService.RerateUsage": lambda target: {
        "price_version_id": None,
        "current_price_version_id": None,
        "digest": None,
    },
    "metering.v1.UsageService.ExportUsage": lambda target: {"api_key_id": None, "organization_ids": None},
    "metering.v1.UsageService.ListUsage": lambda target: {"api_key_id": None, "organization_ids": None},
    "metering.v1.AdmissionService.ListAuthorizations": lambda target: {"api_key_id": None},
    "metering.v1.AdmissionService.ExtendAuthorization": lambda target: {
        "expire_time": _in_ten_minutes(),
        "estimate": None,
    },
    "metering.v1.AdmissionService.UpdateAdmissionPolicy": lambda target: {
        "update_mask": FieldMask(paths=["lapse_charge"]),
        "fixed_amount": None,
    },
    "metering.v1.UsageService.QueryUsage": lambda target: {
        "api_key_ids": None,
        "organization_ids": None,
        "group_by": [usage_pb2.USAGE_DIMENSION_PROJECT, usage_pb2.USAGE_DIMENSION_API_KEY],
        "top": None,
    },
    "metering.v1.UsageService.GetUsageTrends": lambda target: {
        "measure": usage_pb2.USAGE_MEASURE_REQUESTS,
        "currency_code": None,
        "unit": None,
        "window": None,
        "as_of_time": None,
    },
}


def own_fields(rpc: Rpc, target: Target) -> dict[str, object]:
    """Return the RPC-specific values of certain fields of its request."""
    fields = OWN_FIELDS.get(rpc.name)
    return fields(target) if fields else {}


def flaws(rpc: Rpc) -> list[str]:
    """Return what is wrong with the RPC's entry in the table, if anything."""
    way = WAYS.get(rpc.name)
    if way is None:
        return [] if rpc.only_reads else [f"{rpc.name} changes something, and nothing says how it is tried out"]
    needed = {Way.STALE: "etag", Way.TRIED: "validate_only"}.get(way)
    nested = [f.message_type.fields_by_name for f in rpc.fields.values() if f.message_type is not None]
    if needed is None or any(needed in fields for fields in (rpc.fields, *nested)):
        return []
    return [f"{rpc.name} is tried out by its {needed}, which its request has not"]
