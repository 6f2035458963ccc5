"""The measures P1 to P11, P16 to P20, P4C, P4S, P7B, P8Z, P18S and PL: what each sets up, compares and verifies."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from benchmarks.api_keys import load_tenants
from benchmarks.deployment import Deployment
from benchmarks.exports import measure_exports
from benchmarks.invoices import measure_invoices
from benchmarks.leases import measure_leases
from benchmarks.load import LoadError, Script
from benchmarks.measure import Comparison, Figure, PgbenchPeer, Side, compare, echo_of
from benchmarks.people import SignIns, make_people
from benchmarks.periods import measure_periods
from benchmarks.pgbench import Pgbench
from benchmarks.preparation import Balances, Credits, Expected, Grants, Limits, PriceList, Used, cost_of
from benchmarks.rerates import measure_rerates
from benchmarks.sums import measure_year, measure_zone
from benchmarks.tails import Paced, compare_tails
from benchmarks.traffic import (
    DEBIT_VALUE,
    MODELS,
    DebitBatches,
    Debits,
    KeyChecks,
    MeteredBatches,
    MeteredCalls,
    ProxyRequests,
    StreamedUsage,
    Tenant,
    UsageBatches,
    UsageRecords,
)
from benchmarks.verification import measure_verification
from benchmarks.ways import CLIENT, KEY_CACHE, STREAMED, STREAMS, STUBS
from benchmarks.webhooks import WEBHOOKS, measure_webhooks
from libs.common.ids import new_id

ACCOUNTS = 10_000
API_KEYS = 100_000
ACTIVE_KEYS = 1_000
CACHED_KEYS = 50
TENANTS = 20
PEOPLE = 40
CHECKS_PER_S = 500
BATCH = 100
PAIRS_IN_BATCH = 50
BATCHES_IN_FLIGHT = 8
MONTHLY = 2
"""The place in `LIMITS` of the one on requests in a month."""
ECHO = "bare grpc.aio echo, same client"


class Bench:
    """The measures. The deployment starts each service when a measure first needs it."""

    def __init__(
        self,
        deployment: Deployment,
        rounds: int,
        charges: int,
        subscriptions: int,
        limits: int,
        grants: int,
        invoices: int = 10_000,
        rerated: int = 40_000,
        exported: int = 300_000,
        usages: int = 1_000_000,
    ) -> None:
        """`limits` are in force for each call of P5 to P7B; the accounts of P1 to P3 have `grants` of credits."""
        self._deployment = deployment
        self._rounds = rounds
        self._limits = limits
        self._grants = grants
        self._tenants: tuple[Tenant, ...] = ()
        self._priced = False
        self.measures: dict[str, Callable[[], Figure]] = {
            "P1": self.debit_of_one_account,
            "P2": self.debit_of_many_accounts,
            "P3": self.debit_in_batches,
            "P4": self.key_check,
            "P4C": self.key_check_cold,
            "P4S": self.key_check_beside_sign_ins,
            "P5": self.usage_record,
            "P6": self.usage_in_batches,
            "P7": self.metered_call,
            "P7B": self.metered_batches,
            "P8": lambda: measure_year(usages, rounds, deployment.shards),
            "P8Z": lambda: measure_zone(usages, rounds, deployment.shards),
            "P9": lambda: measure_verification(charges, deployment.shards),
            "P10": lambda: measure_periods(subscriptions, deployment.shards),
            "P11": self.proxy_request,
            "P12": self.debit_through_client,
            "P12A": self.debit_alone_through_client,
            "P13": self.metered_call_through_client,
            "P14": self.key_check_through_cache,
            "P15": self.usage_record_through_client,
            "P16": lambda: measure_webhooks(WEBHOOKS, deployment.shards),
            "P17": lambda: measure_invoices(invoices, deployment.shards),
            "P18": lambda: self.usage_in_streams(BATCH),
            "P18S": lambda: self.usage_in_streams(1),
            "P19": lambda: measure_rerates(rerated, deployment.shards),
            "P20": lambda: measure_exports(exported, deployment.shards),
            "PL": self.leased_calls,
        }

    def debit_of_one_account(self) -> Figure:
        return self._debits(f"Debit, one hot account{self._with_grants}", target=0.75, accounts=1)

    def debit_of_many_accounts(self) -> Figure:
        return self._debits(f"Debit, {ACCOUNTS} accounts{self._with_grants}", target=0.70, accounts=ACCOUNTS)

    def _debits(self, measured: str, *, target: float, accounts: int) -> Figure:
        script = Debits(self._open_accounts(accounts), f"single-{accounts}")
        side = Side(self._deployment, self._deployment.service("billing"), script)
        echo = echo_of(self._deployment, script)
        comparison = Comparison(measured, ECHO, "debits", target)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        self._check_debits(script, side.calls)
        return figure

    def debit_in_batches(self) -> Figure:
        pgbench = self._pgbench("peer_row_lock", "row_lock_deduction.sql", {"tokens": 3})
        pgbench.prepare("row_lock_tables.sql")
        peer = PgbenchPeer(pgbench)
        debits = Debits(self._open_accounts(1), "batched")
        side = self._side("billing", DebitBatches(debits, BATCH), BATCHES_IN_FLIGHT)
        against = f"SELECT … FOR UPDATE, one hot row, pgbench, {peer.clients} clients"
        comparison = Comparison(
            f"BatchDebit of {BATCH}, hot account{self._with_grants}", against, "debits", 10, units_per_call=BATCH
        )
        figure = compare(self._deployment, comparison, side, peer, self._rounds)
        self._check_debits(debits, side.calls * BATCH)
        return figure

    def key_check(self) -> Figure:
        script = KeyChecks(self._load_keys()[:ACTIVE_KEYS])
        side = self._side("identity", script, in_flight=64)
        side.run(ACTIVE_KEYS * 2, in_flight=64)
        echo = echo_of(self._deployment, script)
        comparison = Comparison(f"VerifyApiKey, warm, {API_KEYS} keys loaded", ECHO, "checks", 0.85)
        return compare(self._deployment, comparison, side, echo, self._rounds)

    def key_check_cold(self) -> Figure:
        """Verifies each key once, so that every one is read from the table."""
        script = KeyChecks(self._load_keys()[ACTIVE_KEYS:])
        side = self._side("identity", script, in_flight=64)
        echo = echo_of(self._deployment, script)
        comparison = Comparison("VerifyApiKey, cold, no key asked for twice", ECHO, "checks", 0.5)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        if side.calls > len(script.tenants):
            raise LoadError(f"{side.calls} calls were made with {len(script.tenants)} keys, so some keys were cached")
        return figure

    def key_check_beside_sign_ins(self) -> Figure:
        """Compares the p99 of VerifyApiKey with and without concurrent sign-ins, each of which hashes a password."""
        target = self._deployment.service("identity")
        checks = KeyChecks(self._load_keys()[:ACTIVE_KEYS])
        self._side("identity", checks, in_flight=64).run(ACTIVE_KEYS * 2, in_flight=64)
        people = SignIns(make_people(target, self._deployment.token, PEOPLE))
        return compare_tails(self._deployment, target, Paced(checks, CHECKS_PER_S), Paced(people, 20), self._rounds)

    def usage_record(self) -> Figure:
        script = UsageRecords(self._fund_tenants(), "record")
        side = self._side("metering", script, in_flight=64)
        echo = echo_of(self._deployment, script)
        comparison = Comparison(f"RecordUsage, charged, durable in both{self._with_limits}", ECHO, "calls", 0.45)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        self._check_charges(script.tenants, side.calls)
        return figure

    def usage_in_batches(self) -> Figure:
        pgbench = self._pgbench("peer_trigger", "trigger_insert.sql", {"models": len(MODELS), "tenants": TENANTS})
        pgbench.prepare("trigger_tables.sql")
        peer = PgbenchPeer(pgbench)
        records = UsageRecords(self._fund_tenants(), "batch")
        side = self._side("metering", UsageBatches(records, BATCH), BATCHES_IN_FLIGHT)
        against = f"AFTER INSERT trigger, one row at a time, pgbench, {peer.clients} clients"
        comparison = Comparison(
            f"BatchRecordUsage of {BATCH}, charged{self._with_limits}", against, "calls", 1.5, units_per_call=BATCH
        )
        figure = compare(self._deployment, comparison, side, peer, self._rounds)
        self._check_charges(records.tenants, side.calls * BATCH)
        return figure

    def usage_in_streams(self, size: int) -> Figure:
        """Messages of `size` calls; as many messages in flight as make 1,600 calls, and 512 of single ones."""
        records = UsageRecords(self._fund_tenants(), f"stream-{size}")
        in_flight = 512 if size == 1 else 2 * BATCHES_IN_FLIGHT
        side = self._side("metering", StreamedUsage(records, size), in_flight, way=STREAMED)
        measured = f"StreamUsage, {STREAMS} streams, {size} a message, charged{self._with_limits}"
        comparison = Comparison(measured, ECHO, "calls", None, units_per_call=size)
        figure = compare(self._deployment, comparison, side, echo_of(self._deployment, records), self._rounds)
        self._check_charges(records.tenants, side.calls * size)
        return figure

    def metered_call(self) -> Figure:
        script = MeteredCalls(self._fund_tenants(), "metered")
        side = self._side("metering", script, in_flight=64)
        echo = echo_of(self._deployment, script)
        comparison = Comparison(f"Authorize + Settle, pairs{self._with_limits}", ECHO, "pairs", 0.20)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        self._check_charges(script.tenants, side.calls)
        return figure

    def metered_batches(self) -> Figure:
        script = MeteredCalls(self._fund_tenants(), "metered-batch")
        side = self._side("metering", MeteredBatches(script, PAIRS_IN_BATCH), BATCHES_IN_FLIGHT)
        echo = echo_of(self._deployment, script)
        measured = f"BatchAuthorize + BatchSettle of {PAIRS_IN_BATCH}, pairs{self._with_limits}"
        comparison = Comparison(measured, ECHO, "pairs", 1.0, units_per_call=PAIRS_IN_BATCH)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        self._check_charges(script.tenants, side.calls * PAIRS_IN_BATCH)
        return figure

    def proxy_request(self) -> Figure:
        tenants = self._take_tenants()
        organization_ids = tuple(tenant.organization_id for tenant in tenants)
        # A window that hardly ends during the run, so that what is counted can be compared.
        self._once("metering", Limits(organization_ids, 1, first=MONTHLY), len(tenants))
        side = self._side("metering", ProxyRequests(tenants), in_flight=64)
        echo = echo_of(self._deployment, ProxyRequests(tenants))
        comparison = Comparison("ShouldRateLimit, a limit in force", ECHO, "requests", 0.75)
        figure = compare(self._deployment, comparison, side, echo, self._rounds)
        made = Counter(number % len(tenants) for number in range(side.calls))
        expected = tuple((organization_id, made[place]) for place, organization_id in enumerate(organization_ids))
        self._once("metering", Used(expected), len(tenants))
        return figure

    def leased_calls(self) -> Figure:
        if self._limits <= 2:
            raise LoadError("PL compares with the third limit: give --limits 3 or more")
        organization_id = self._fund_tenants()[0].organization_id
        return measure_leases(self._deployment.service("metering"), self._deployment.token, organization_id)

    @property
    def _with_limits(self) -> str:
        return f", {self._limits} limits in force" if self._limits else ""

    @property
    def _with_grants(self) -> str:
        return f", {self._grants} grants on each" if self._grants else ""

    def debit_through_client(self) -> Figure:
        script = Debits(self._open_accounts(1), "client")
        side = self._side("billing", script, in_flight=64, way=CLIENT)
        comparison = Comparison("Debit through the client, one account", ECHO, "debits", 3.5)
        figure = compare(self._deployment, comparison, side, echo_of(self._deployment, script), self._rounds)
        self._check_debits(script, side.calls)
        return figure

    def debit_alone_through_client(self) -> Figure:
        """Compares one call at a time through the client with the same by a bare stub."""
        bare, through = (Debits(self._open_accounts(1), prefix) for prefix in ("bare", "alone"))
        side = self._side("billing", through, in_flight=1, way=CLIENT)
        peer = self._side("billing", bare, in_flight=1)
        peer.calibrate()
        # 15 % more time is 0.87 of the rate.
        comparison = Comparison("Debit through the client, one at a time", "the same by a bare stub", "debits", 0.87)
        figure = compare(self._deployment, comparison, side, peer, self._rounds)
        for script, made in ((through, side), (bare, peer)):
            self._check_debits(script, made.calls)
        return figure

    def metered_call_through_client(self) -> Figure:
        script = MeteredCalls(self._fund_tenants(), "client")
        side = self._side("metering", script, in_flight=64, way=CLIENT)
        measured = f"Authorize + Settle through the client, pairs{self._with_limits}"
        echo = echo_of(self._deployment, script)
        figure = compare(self._deployment, Comparison(measured, ECHO, "pairs", 1.0), side, echo, self._rounds)
        self._check_charges(script.tenants, side.calls)
        return figure

    def key_check_through_cache(self) -> Figure:
        # As many keys as the warm-up of a round reaches, since every round has a cache of its own.
        script = KeyChecks(self._load_keys()[:CACHED_KEYS])
        side = self._side("identity", script, in_flight=64, way=KEY_CACHE)
        echo = echo_of(self._deployment, script)
        comparison = Comparison("VerifyApiKey through the client's key cache", ECHO, "checks", 20)
        return compare(self._deployment, comparison, side, echo, self._rounds)

    def usage_record_through_client(self) -> Figure:
        script = UsageRecords(self._fund_tenants(), "client-record")
        side = self._side("metering", script, in_flight=64, way=CLIENT)
        measured = f"RecordUsage through the client{self._with_limits}"
        echo = echo_of(self._deployment, script)
        figure = compare(self._deployment, Comparison(measured, ECHO, "calls", 2.0), side, echo, self._rounds)
        self._check_charges(script.tenants, side.calls)
        return figure

    def _side(self, context: str, script: Script, in_flight: int, way: str = STUBS) -> Side:
        return Side(self._deployment, self._deployment.service(context), script, in_flight, way)

    def _pgbench(self, database: str, script: str, variables: dict[str, int]) -> Pgbench:
        url = self._deployment.peer_database(database)
        return Pgbench(self._deployment.binaries.folder, url, script, variables)

    def _open_accounts(self, count: int) -> tuple[str, ...]:
        organization_ids = tuple(new_id() for _ in range(count))
        if self._grants:
            self._once("billing", Grants(organization_ids, self._grants), count * self._grants)
        else:
            self._once("billing", Credits(organization_ids), count)
        return organization_ids

    def _load_keys(self) -> tuple[Tenant, ...]:
        if not self._tenants:
            self._tenants = load_tenants(self._deployment.database_url, self._deployment.peppers_file, API_KEYS)
        return self._tenants

    def _fund_tenants(self) -> tuple[Tenant, ...]:
        """Creates separate tenants for each measure, so that their final balances can be computed."""
        taken, tenants = TENANTS, self._take_tenants()
        self._once("billing", Credits(tuple(tenant.organization_id for tenant in tenants)), taken)
        if not self._priced:
            self._once("metering", PriceList(), 1)
            self._priced = True
        if self._limits:
            limits = Limits(tuple(tenant.organization_id for tenant in tenants), self._limits)
            self._once("metering", limits, taken * self._limits)
        return tenants

    def _take_tenants(self) -> tuple[Tenant, ...]:
        keys = self._load_keys()
        tenants, self._tenants = keys[-TENANTS:], keys[:-TENANTS]
        return tenants

    def _once(self, context: str, script: Script, calls: int) -> None:
        """Makes each call of a script once."""
        self._side(context, script, in_flight=64).run_all(calls)

    def _check_debits(self, debits: Debits, made: int) -> None:
        accounts = Counter(number % len(debits.organization_ids) for number in range(made))
        expected = (
            Expected(organization_id, accounts[place], accounts[place] * Decimal(DEBIT_VALUE), self._grants or 1)
            for place, organization_id in enumerate(debits.organization_ids)
        )
        self._once("billing", Balances(tuple(expected)), len(debits.organization_ids))

    def _check_charges(self, tenants: tuple[Tenant, ...], made: int) -> None:
        calls: Counter[int] = Counter()
        spent: dict[int, Decimal] = dict.fromkeys(range(len(tenants)), Decimal(0))
        for number in range(made):
            place = number % len(tenants)
            calls[place] += 1
            spent[place] += cost_of(number, len(tenants))
        expected = (
            Expected(tenant.organization_id, calls[place], spent[place]) for place, tenant in enumerate(tenants)
        )
        self._once("billing", Balances(tuple(expected)), len(tenants))
