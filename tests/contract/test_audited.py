"""Every RPC that changes something records an audit event, unless the rows it writes are a permanent record."""

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from libs.common.audit import recording
from tests.contract import contract
from tests.contract.reach import Place, reaches, servicer_method

RECORD_EVENT = f"{recording.__name__}.{recording.record_event.__name__}"

# The rows that these RPCs write record who did what and when, and never change. An event would duplicate them.
OWN_RECORD = {
    "tollhouse.billing.v1.LedgerService": (
        *("Debit", "BatchDebit", "Credit", "Transfer", "ReverseTransaction", "BatchReverseTransaction"),
        *("CreateHold", "BatchCreateHold", "CaptureHold", "BatchCaptureHold", "ReleaseHold", "ExtendHold"),
    ),
    "tollhouse.billing.v1.CreditService": ("GrantCredits", "VoidGrant"),
    "tollhouse.billing.v1.PaymentService": ("ReceiveWebhook", "ReconcilePayments"),
    "tollhouse.billing.v1.PlanService": ("GetPlanOffer",),
    "tollhouse.billing.v1.SubscriptionService": ("RunPeriods",),
    "tollhouse.metering.v1.IngestService": ("IngestEvents",),
    "tollhouse.metering.v1.LeaseService": ("AcquireLease", "SettleLease"),
    "tollhouse.metering.v1.QuotaService": ("AllocateQuota", "ReleaseQuota"),
    "tollhouse.metering.v1.UsageService": (
        *("RecordUsage", "BatchRecordUsage", "StreamUsage"),
        *("AmendUsage", "VoidUsage", "RestoreUsage"),
    ),
    "tollhouse.metering.v1.AdmissionService": (
        "Authorize",
        "BatchAuthorize",
        "Settle",
        "BatchSettle",
        "Cancel",
        "ExtendAuthorization",
    ),
}
OWN_RECORDS = {f"{service}/{rpc}" for service, rpcs in OWN_RECORD.items() for rpc in rpcs}

CHANGING = [
    name
    for name, method in contract.methods()
    if method.options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS and name not in OWN_RECORDS
]
READING = [
    name for name, method in contract.methods() if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
]


def is_audited(name: str) -> bool:
    service, _, rpc = name.partition("/")
    package, _, service = service.rpartition(".")
    return reaches(servicer_method(package, service, rpc), RECORD_EVENT)


@pytest.mark.parametrize("name", CHANGING)
def test_an_rpc_that_changes_something_records_an_event(name: str) -> None:
    assert is_audited(name)


def test_rpcs_that_are_their_own_record_are_there() -> None:
    assert {name for name, _ in contract.methods()} >= OWN_RECORDS


def test_no_rpc_that_only_reads_records_an_event() -> None:
    assert [name for name in READING if is_audited(name)] == []


def test_a_function_reaches_only_what_it_leads_to() -> None:
    here = "services.billing.account.accounts"
    assert reaches(Place(here, "close", "Accounts"), RECORD_EVENT)
    assert not reaches(Place(here, "get", "Accounts"), RECORD_EVENT)
    assert not reaches(Place(here, "nothing", "Accounts"), RECORD_EVENT)
