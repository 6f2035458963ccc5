"""The documented examples: every RPC has one, and all of them work as written."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.cli.installation.environment import repository
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider
from tests.system.curl import Answer, Curl, needs_grpcurl, rpcs_of
from tests.system.installation import Installation, running

OF_WEBHOOKS = re.compile(r"PaymentService/(\w+Webhooks?|ReconcilePayments)$")
PAGES = {
    "identity.md": {rpc for rpc in rpcs_of("identity", "common") if "EventService" not in rpc},
    "events.md": {
        *(rpc for rpc in rpcs_of("common") if "EventService" in rpc),
        *(f"identity.v1.OrganizationService/{rpc}" for rpc in ("CreateOrganization", "CreateInvitation")),
        "identity.v1.UserService/CreateUser",
    },
    "conversations.md": {
        *(rpc for rpc in rpcs_of("metering") if rpc.startswith("metering.v1.ConversationService/")),
        *(f"metering.v1.ModelService/{rpc}" for rpc in ("CreateModel", "SetPrice")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
        "metering.v1.UsageService/GetUsage",
    },
    "credits.md": {
        *(rpc for rpc in rpcs_of("billing") if rpc.startswith("billing.v1.CreditService/")),
        *(f"billing.v1.LedgerService/{rpc}" for rpc in ("Debit", "CreateHold", "CaptureHold")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "billing.md": {
        *(rpc for rpc in rpcs_of("billing") if rpc.startswith("billing.v1.SubscriptionService/")),
        *("billing.v1.LedgerService/Credit", "metering.v1.ModelService/CreateModel"),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "entitlements.md": {
        *(rpc for rpc in rpcs_of("billing") if "Entitlement" in rpc),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "limits.md": {
        *(rpc for rpc in rpcs_of("metering") if rpc.startswith("metering.v1.QuotaService/")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
        "identity.v1.ApiKeyService/CreateApiKey",
        *(f"metering.v1.ModelService/{rpc}" for rpc in ("CreateModel", "SetPrice")),
        *(f"metering.v1.AdmissionService/{rpc}" for rpc in ("Authorize", "Settle")),
        *(rpc for rpc in rpcs_of("metering") if rpc.startswith("metering.v1.LeaseService/")),
        *("metering.v1.UsageService/RecordUsage", "billing.v1.LedgerService/Credit"),
        *(f"billing.v1.SubscriptionService/{rpc}" for rpc in ("CreateSubscription", "ApproveSubscription")),
    },
    "invoices.md": {
        *(rpc for rpc in rpcs_of("billing") if rpc.startswith("billing.v1.InvoiceService/")),
        *(f"billing.v1.LedgerService/{rpc}" for rpc in ("Credit", "Debit")),
    },
    "payments.md": {
        *(f"billing.v1.AccountService/{rpc}" for rpc in ("ListAccounts", "SetLowBalanceThreshold")),
        *(
            rpc
            for rpc in rpcs_of("billing")
            if rpc.startswith("billing.v1.PaymentService/") and not OF_WEBHOOKS.search(rpc)
        ),
    },
    "plans.md": {rpc for rpc in rpcs_of("billing") if rpc.startswith("billing.v1.PlanService/")},
    "statistics.md": {
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("QueryUsage", "GetUsageTrends")),
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("RecordUsage", "BatchRecordUsage")),
        *(f"metering.v1.ModelService/{rpc}" for rpc in ("CreateModel", "SetPrice")),
        *(f"billing.v1.SubscriptionService/{rpc}" for rpc in ("CreateSubscription", "ApproveSubscription")),
        "metering.v1.QuotaService/GetUsageAgainstLimits",
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
        "identity.v1.ProjectService/CreateProject",
    },
    "ingest.md": {
        *(rpc for rpc in rpcs_of("metering") if rpc.startswith("metering.v1.IngestService/")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
        "metering.v1.UsageService/GetUsage",
    },
    "retention.md": {
        *(rpc for rpc in rpcs_of("metering") if rpc.startswith("metering.v1.RetentionService/")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
        "metering.v1.UsageService/RecordUsage",
    },
    "usage.md": {
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("AmendUsage", "VoidUsage", "RestoreUsage", "WatchUsage")),
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("RecordUsage", "GetUsage", "QueryUsage")),
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("ListUsageCorrections", "ListPendingPrices")),
        *(rpc for rpc in rpcs_of("metering") if "Rerate" in rpc),
        *(f"metering.v1.ModelService/{rpc}" for rpc in ("CreateModel", "SetPrice")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "usage-charges.md": {
        *(f"billing.v1.PlanService/{rpc}" for rpc in ("CreatePlan", "PublishPlanVersion")),
        *("billing.v1.SubscriptionService/CreateSubscription", "billing.v1.InvoiceService/PreviewInvoice"),
        *("metering.v1.ChargeService/GetUsedQuantity", "metering.v1.UsageService/RecordUsage"),
        *(f"metering.v1.ModelService/{rpc}" for rpc in ("CreateModel", "SetPrice")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "export.md": {
        *(f"metering.v1.UsageService/{rpc}" for rpc in ("RecordUsage", "ExportUsage")),
        *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    },
    "webhooks.md": {rpc for rpc in rpcs_of("billing") if OF_WEBHOOKS.search(rpc)},
}
EVERY_RPC = set(rpcs_of("identity", "billing", "metering", "common"))
PAGES["examples.md"] = {
    *EVERY_RPC.difference(*PAGES.values()),
    *("identity.v1.UserService/CreateUser", "identity.v1.OrganizationService/CreateOrganization"),
    *("identity.v1.ProjectService/CreateProject", "billing.v1.LedgerService/Credit"),
}
"""Pages below docs/ with examples that can be run, and the RPCs of which each has one."""
RUN_WITHIN_S = 300
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"(?:^|\$\()(?:call|call_as|call_at|grpcurl)\b")
_RPC = re.compile(r"\b((?:billing|identity|metering|common)\.v1\.\w+/\w+)")
_FACT = re.compile(r'"(\w+)": (?:"([^"]*)"|([^\s",{]+))')
_REFUSED = re.compile(r"\bCode: ([A-Z]\w+)")


@dataclass
class Example:
    """One call on the page: its RPC, and the response that the comment below it shows."""

    rpc: str
    facts: list[tuple[str, str]]
    code: str = ""


def text_of(page: str) -> str:
    return (repository() / "docs" / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return BLOCK.findall(text_of(page))


def examples(page: str) -> list[Example]:
    """The calls of a page, without its first block, which only explains how calls are made."""
    return examples_in(blocks(page)[1:])


def examples_in(shown: Sequence[str]) -> list[Example]:
    """The calls of some blocks, in order."""
    found: list[Example] = []
    for line in "\n".join(shown).splitlines():
        # The RPC is named on the first line of the call or on a continuation line.
        if _CALL.search(line):
            found.append(Example("", []))
        if rpc := _RPC.search(line):
            found[-1].rpc = rpc[1]
        if line.startswith("#"):
            found[-1].facts += [(name, text or bare) for name, text, bare in _FACT.findall(line)]
            if refused := _REFUSED.search(line):
                found[-1].code = refused[1]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_rpc_that_a_page_is_about_has_an_example(page: str) -> None:
    assert {example.rpc for example in examples(page)} == PAGES[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_rpc_is_introduced_by_its_name(page: str) -> None:
    text = BLOCK.sub("", text_of(page))
    assert [example.rpc for example in examples(page) if f"`{example.rpc.rpartition('/')[2]}`" not in text] == []


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[OidcProvider]:
    async with open_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
async def house(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """An installation for all pages: what one page makes does not change what another one shows."""
    issuers = [{"provider": "tests", "issuer": provider.issuer, "client_ids": [CLIENT_ID]}]
    environment = {
        "TOLLHOUSE_IDENTITY_OIDC_ISSUERS": json.dumps(issuers),
        "TOLLHOUSE_BILLING_STRIPE_WEBHOOK_SECRETS": json.dumps(["whsec_" + "of_the_docs"]),
    }
    folder = tmp_path_factory.mktemp("examples")
    async with running(Installation(folder, environment=environment, prepared=True)) as installation:
        yield installation


@needs_grpcurl
@pytest.mark.parametrize("page", PAGES)
async def test_examples_work_as_typed_one_after_another(
    page: str, house: Installation, provider: OidcProvider, tmp_path: Path
) -> None:
    curl = Curl(_folder(tmp_path / "bin"))
    (_folder(tmp_path / ".tollhouse") / "ready.json").write_bytes(house.ready_file.read_bytes())
    complaints = await _run("\n".join(blocks(page)), tmp_path, provider.token())
    answers = curl.answers
    expected = examples(page)
    assert [answer.method for answer in answers] == [example.rpc for example in expected], complaints
    assert problems(expected, answers) == []
    assert "Traceback" not in complaints


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


async def _run(script: str, folder: Path, id_token: str) -> str:
    """Run the whole page in a shell; return the standard error."""
    environment = dict(os.environ) | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "ID_TOKEN": id_token}
    shell = await asyncio.create_subprocess_exec(
        str(shutil.which("sh")),
        *("-c", script),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(shell.communicate(), RUN_WITHIN_S)
    return errors.decode()


def problems(expected: Sequence[Example], answers: Sequence[Answer]) -> list[str]:
    """What the answers to calls lack of what the page shows."""
    return [
        problem for example, answer in zip(expected, answers, strict=True) for problem in _problems(example, answer)
    ]


def _problems(example: Example, answer: Answer) -> Iterator[str]:
    if answer.code != example.code:
        yield f"{example.rpc} ended with {answer.code or 'success'}: {answer.errors}"
        return
    said = list(_pairs(answer.documents))
    for name, value in example.facts:
        # A value shortened to an ellipsis only has to be present, and to start with the text before the ellipsis.
        beginning, cut, _ = value.partition("…")
        if not any(key == name and (text == value or (cut and text.startswith(beginning))) for key, text in said):
            yield f"{example.rpc} does not say {name}: {value}"


def _pairs(document: object) -> Iterator[tuple[str, str]]:
    """Yield every name in an answer with its value as JSON writes it."""
    if isinstance(document, list):
        for one in document:
            yield from _pairs(one)
    if isinstance(document, dict):
        for name, value in document.items():
            yield str(name), value if isinstance(value, str) else json.dumps(value)
            yield from _pairs(value)
