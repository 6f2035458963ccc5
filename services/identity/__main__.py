"""Identity as a process: settings, objects, server."""

from datetime import timedelta

from libs.common.audit.servicer import AuditServicer
from libs.common.audit.trail import Trail
from libs.common.authentication import SigningKey
from libs.common.clock import Clock, SystemClock
from libs.common.connections import STATEMENT_TIMEOUT_MS
from libs.common.database import Database, open_database
from libs.common.events.homes import one_home
from libs.common.events.house import Events, build_events
from libs.common.integrity.servicer import IntegrityServicer
from libs.common.integrity.verification import Verification
from libs.common.process import run_service
from libs.common.sealing import SealingKeys
from libs.common.server import Service
from libs.common.settings import SettingsError
from libs.common.shards import Shards
from libs.common.telemetry import start_process_telemetry
from services.identity.api_key.importing.imports import Imports
from services.identity.api_key.manage.api_keys import ApiKeys
from services.identity.api_key.manage.key_events import KeyExpiry
from services.identity.api_key.manage.leaks import Leaks
from services.identity.api_key.manage.rotation import Rotation
from services.identity.api_key.rendering import mark_stale, render_valid
from services.identity.api_key.secret import Peppers
from services.identity.api_key.servicer import ApiKeyServicer, Management
from services.identity.api_key.verify.cache import KeyCache
from services.identity.api_key.verify.last_used import LastUsed
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.reader import READS_AT_ONCE, KeyReader
from services.identity.api_key.verify.verification import Staleness, Verifier
from services.identity.api_key.watch.feed import ChangeFeed
from services.identity.api_key.watch.watch import Watchers
from services.identity.caller.directory import LocalDirectory
from services.identity.caller.servicer import CallerServicer
from services.identity.housekeeping import Housekeeping
from services.identity.invariants import CHECKS
from services.identity.oidc import IdTokens
from services.identity.openshift import OpenShiftUsers
from services.identity.organization.invitations import Invitations
from services.identity.organization.members import Members
from services.identity.organization.organizations import Organizations
from services.identity.organization.servicer import OrganizationServicer
from services.identity.organization.watch.feed import OrganizationFeed
from services.identity.passwords import Passwords
from services.identity.project.members import ProjectMembers
from services.identity.project.projects import Projects
from services.identity.project.servicer import ProjectServicer
from services.identity.provider_check import provider_problems
from services.identity.provider_keys import DocumentFetcher
from services.identity.service_account.service_accounts import ServiceAccounts
from services.identity.service_account.servicer import ServiceAccountServicer
from services.identity.session.access_token import AccessTokens
from services.identity.session.attempts import ProofAttempts, WrongTokens
from services.identity.session.domain import AttemptLimits, SessionLimits
from services.identity.session.opening import SessionOpening
from services.identity.session.password_sign_in import PasswordSignIn
from services.identity.session.provider_sign_in import ProviderSignIn
from services.identity.session.servicer import SessionServicer
from services.identity.session.sessions import Sessions
from services.identity.settings import IdentitySettings
from services.identity.system_configuration.servicer import SystemConfigurationServicer
from services.identity.system_configuration.system_configurations import SystemConfigurations
from services.identity.tables import SCHEMA
from services.identity.user.configurations import UserConfigurations
from services.identity.user.deletion import Deletions
from services.identity.user.servicer import UserServicer
from services.identity.user.sign_in_methods import SignInMethods
from services.identity.user.users import Users
from tollhouse.common.v1 import audit_pb2_grpc, caller_pb2_grpc, event_pb2_grpc, integrity_pb2_grpc
from tollhouse.identity.v1 import (
    api_key_pb2_grpc,
    organization_pb2_grpc,
    project_pb2_grpc,
    service_account_pb2_grpc,
    session_pb2_grpc,
    system_configuration_pb2_grpc,
    user_pb2_grpc,
)

_CHECK_TIMEOUT_MS = 30_000
_SIGN_IN_CONNECTIONS = 4


async def build(settings: IdentitySettings, clock: Clock | None = None) -> Service:
    """Build identity's server with all that stands behind it; nothing runs yet."""
    clock = clock or SystemClock()
    database = open_pool(settings, settings.pool_size)
    # Sign-ins have a small pool of their own: however many arrive, they never take the connections that verify keys.
    sign_ins = open_pool(settings, _SIGN_IN_CONNECTIONS)
    # Reports over all data are slow, so they run on a connection of their own.
    reports = open_pool(settings, 1, statement_timeout_ms=_CHECK_TIMEOUT_MS)
    telemetry = start_process_telemetry("tollhouse-identity", settings.otlp_endpoint)
    peppers = Peppers.read(settings.peppers)
    cache = KeyCache[bytes](settings.cache_entries_max)
    watchers = Watchers(database, settings.watchers_max)
    prefixes = ImportedPrefixes()
    feed = ChangeFeed(database, [cache, watchers], prefixes)
    # Key reads reuse one prepared plan: planning the statement each time would cost ten times what running it does.
    key_reads = open_pool(settings, READS_AT_ONCE, plan_by_key=True)
    reader = KeyReader(key_reads)
    last_used = LastUsed(database, settings.last_used_flush_s)
    verifier = Verifier(
        peppers=peppers,
        cache=cache,
        reader=reader,
        last_used=last_used,
        clock=clock,
        prepare=render_valid,
        prefixes=prefixes,
        staleness=Staleness(settings.key_stale_max_s, mark_stale) if settings.key_stale_max_s else None,
    )
    directory = LocalDirectory(database, verifier, clock)
    service = Service("identity", settings, database, clock, telemetry, directory)

    events = build_events("identity", settings, one_home(database), clock)
    passwords = open_passwords(settings)
    documents = DocumentFetcher()
    id_tokens = IdTokens(settings.issuers, documents.fetch, clock)
    limits = AttemptLimits(
        per_account=settings.sign_in_attempts_per_account_max, per_address=settings.sign_in_attempts_per_address_max
    )
    attempts = ProofAttempts(sign_ins, clock, peppers, limits)
    sign_in_methods = SignInMethods(
        database, clock, passwords, id_tokens, attempts, length_min=settings.password_length_min
    )
    add_people(service, database, clock, sign_in_methods)
    service.add(
        system_configuration_pb2_grpc.add_SystemConfigurationServiceServicer_to_server,
        SystemConfigurationServicer(SystemConfigurations(database, clock)),
    )
    add_organizations(service, database, clock, settings.watchers_max, events.options.keys)
    keys = ApiKeyServicer(
        open_management(database, clock, peppers, prefixes, events.options.keys), verifier, watchers, clock
    )
    recalls = {"VerifyApiKey": keys.recall_verification}
    service.add(api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server, keys, recalls)
    # OpenShift requests have threads of their own, so that a cluster that hangs cannot delay the fetching of OIDC keys.
    clusters = DocumentFetcher()
    openshift = OpenShiftUsers(settings.openshift_clusters, clusters)
    sessions = build_sessions(settings, service, sign_ins, clock, peppers, passwords, id_tokens, openshift, limits)
    service.add(session_pb2_grpc.add_SessionServiceServicer_to_server, sessions)
    service.add(caller_pb2_grpc.add_CallerServiceServicer_to_server, CallerServicer(directory))
    _add_checks(service, database, reports, clock)
    _add_events(service, events, database, clock)
    service.background(feed.run, "change feed")
    service.background(last_used.run, "times of last use")
    service.background(Housekeeping(database, clock).run, "housekeeping")
    service.before_drain(watchers.close)
    for end in (reader.close, last_used.flush, passwords.close, documents.close, clusters.close):
        service.on_drain(end)
    for pool in (key_reads, sign_ins, reports):
        service.on_drain(pool.close)
    return service


async def build_with_sound_providers(settings: IdentitySettings) -> Service:
    """Build identity's server, unless an identity provider that answers can never work as it is configured.

    Raises:
        SettingsError: naming each such provider.
    """
    documents = DocumentFetcher()
    problems = await provider_problems(settings.issuers, documents.fetch)
    await documents.close()
    if problems:
        raise SettingsError(problems)
    return await build(settings)


def open_pool(
    settings: IdentitySettings,
    size: int,
    *,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    plan_by_key: bool = False,
) -> Database:
    """Open a separate connection pool for one kind of work."""
    return open_database(
        settings.database_url.get_secret_value(),
        schema=SCHEMA,
        pool_size=size,
        statement_timeout_ms=statement_timeout_ms,
        statement_cache_size=settings.statement_cache_size,
        plan_by_key=plan_by_key,
    )


def add_people(service: Service, database: Database, clock: Clock, sign_in_methods: SignInMethods) -> None:
    """Register the service of users."""
    service.add(
        user_pb2_grpc.add_UserServiceServicer_to_server,
        UserServicer(
            Users(database, clock), Deletions(database, clock), sign_in_methods, UserConfigurations(database, clock)
        ),
    )


def add_organizations(
    service: Service, database: Database, clock: Clock, watchers_max: int, event_keys: SealingKeys | None
) -> None:
    """Register the services of organizations, projects and service accounts, and the feed of organizations."""
    feed = OrganizationFeed(database, watchers_max)
    service.background(feed.run, "feed of organizations")
    service.before_drain(feed.close)
    service.add(
        organization_pb2_grpc.add_OrganizationServiceServicer_to_server,
        OrganizationServicer(
            Organizations(database, clock),
            Members(database, clock),
            Invitations(database, clock, event_keys),
            feed,
            clock,
        ),
    )
    service.add(
        project_pb2_grpc.add_ProjectServiceServicer_to_server,
        ProjectServicer(Projects(database, clock), ProjectMembers(database, clock)),
    )
    service.add(
        service_account_pb2_grpc.add_ServiceAccountServiceServicer_to_server,
        ServiceAccountServicer(ServiceAccounts(database, clock)),
    )


def build_sessions(
    settings: IdentitySettings,
    service: Service,
    database: Database,
    clock: Clock,
    peppers: Peppers,
    passwords: Passwords,
    id_tokens: IdTokens,
    openshift_users: OpenShiftUsers,
    limits: AttemptLimits,
) -> SessionServicer:
    """Build the service of sessions."""
    key_file = settings.session_key_file
    access_tokens = AccessTokens(
        SigningKey.read(key_file) if key_file else None,
        lambda: service.trusted,
        clock,
        lifetime=timedelta(seconds=settings.access_token_lifetime_s),
    )
    opening = SessionOpening(
        SessionLimits(timedelta(seconds=settings.session_lifetime_s), settings.sessions_per_user_max)
    )
    wrong_tokens = WrongTokens(database, clock, peppers, per_address=settings.wrong_tokens_per_address_max)
    return SessionServicer(
        access_tokens,
        PasswordSignIn(database, clock, passwords, peppers, opening, limits),
        ProviderSignIn(database, clock, id_tokens, openshift_users, opening, wrong_tokens),
        Sessions(database, clock, peppers, wrong_tokens),
    )


def open_management(
    database: Database, clock: Clock, peppers: Peppers, prefixes: ImportedPrefixes, event_keys: SealingKeys | None
) -> Management:
    """Build the use cases that manage API keys."""
    return Management(
        ApiKeys(database, clock, peppers),
        Rotation(database, clock, peppers),
        Imports(database, clock, peppers),
        Leaks(database, clock, peppers, prefixes, event_keys),
    )


def open_passwords(settings: IdentitySettings) -> Passwords:
    """Build the password hasher with the parameters of the settings."""
    return Passwords(
        threads=settings.password_hash_threads,
        queue_max=settings.password_hashes_waiting_max,
        memory_kib=settings.password_hash_memory_kib,
        passes=settings.password_hash_passes,
        lanes=settings.password_hash_lanes,
    )


def _add_checks(service: Service, database: Database, reports: Database, clock: Clock) -> None:
    """Register the services that look at everything: invariants and the audit trail."""
    verification = Verification(Shards([reports]), clock, CHECKS)
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, IntegrityServicer(verification))
    service.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(_trail(database, reports)))


def _add_events(service: Service, events: Events, database: Database, clock: Clock) -> None:
    """Register the service of events, and what delivers them and announces keys that expire."""
    service.add(event_pb2_grpc.add_EventServiceServicer_to_server, events.servicer)
    service.background(events.deliverer.run, "events")
    service.background(KeyExpiry(database, clock, events.options.keys).run, "expiring keys")


def _trail(database: Database, reports: Database) -> Trail:
    return Trail(lambda _: database, lambda _: reports)


def main() -> None:
    """Run identity from the environment's settings."""
    run_service("identity", IdentitySettings, build_with_sound_providers)


if __name__ == "__main__":
    main()
