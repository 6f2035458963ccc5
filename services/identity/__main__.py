"""Identity as a process: settings, objects, server."""

from libs.common.audit.servicer import AuditServicer
from libs.common.audit.trail import Trail
from libs.common.clock import Clock, SystemClock
from libs.common.database import open_database
from libs.common.process import run_service
from libs.common.server import Service
from libs.common.telemetry import start_process_telemetry
from services.identity.api_key.api_keys import ApiKeys
from services.identity.api_key.cache import KeyCache
from services.identity.api_key.feed import ChangeFeed
from services.identity.api_key.last_used import LastUsed
from services.identity.api_key.reader import KeyReader
from services.identity.api_key.rendering import render_valid
from services.identity.api_key.secret import Peppers
from services.identity.api_key.servicer import ApiKeyServicer
from services.identity.api_key.verification import Verifier
from services.identity.api_key.watch import Watchers
from services.identity.caller.directory import LocalDirectory
from services.identity.caller.servicer import CallerServicer
from services.identity.housekeeping import Housekeeping
from services.identity.integrity.servicer import IntegrityServicer
from services.identity.integrity.verification import Integrity
from services.identity.oidc import IdTokens
from services.identity.organization.invitations import Invitations
from services.identity.organization.members import Members
from services.identity.organization.organizations import Organizations
from services.identity.organization.servicer import OrganizationServicer
from services.identity.passwords import Passwords
from services.identity.project.members import ProjectMembers
from services.identity.project.projects import Projects
from services.identity.project.servicer import ProjectServicer
from services.identity.provider_keys import DocumentFetcher
from services.identity.service_account.service_accounts import ServiceAccounts
from services.identity.service_account.servicer import ServiceAccountServicer
from services.identity.settings import IdentitySettings
from services.identity.system_configuration.servicer import SystemConfigurationServicer
from services.identity.system_configuration.system_configurations import SystemConfigurations
from services.identity.tables import SCHEMA
from services.identity.user.configurations import UserConfigurations
from services.identity.user.deletion import Deletions
from services.identity.user.servicer import UserServicer
from services.identity.user.sign_in_methods import SignInMethods
from services.identity.user.users import Users
from tollhouse.common.v1 import audit_pb2_grpc, caller_pb2_grpc
from tollhouse.identity.v1 import (
    api_key_pb2_grpc,
    integrity_pb2_grpc,
    organization_pb2_grpc,
    project_pb2_grpc,
    service_account_pb2_grpc,
    system_configuration_pb2_grpc,
    user_pb2_grpc,
)

_CHECK_TIMEOUT_MS = 60_000


async def build(settings: IdentitySettings, clock: Clock | None = None) -> Service:
    """Build identity's server with all that stands behind it; nothing runs yet."""
    clock = clock or SystemClock()
    url = settings.database_url.get_secret_value()
    cache_size = settings.statement_cache_size
    database = open_database(url, schema=SCHEMA, pool_size=settings.pool_size, statement_cache_size=cache_size)
    # Checks of everything may take their time, on a connection of their own.
    reports = open_database(
        url, schema=SCHEMA, pool_size=1, statement_timeout_ms=_CHECK_TIMEOUT_MS, statement_cache_size=cache_size
    )
    telemetry = start_process_telemetry("tollhouse-identity", settings.otlp_endpoint)
    peppers = Peppers.read(settings.peppers)
    cache = KeyCache[bytes](settings.cache_entries_max)
    watchers = Watchers(database, settings.watchers_max)
    feed = ChangeFeed(database, [cache, watchers])
    reader = KeyReader(database)
    last_used = LastUsed(database, settings.last_used_flush_s)
    verifier = Verifier(
        peppers=peppers, cache=cache, reader=reader, last_used=last_used, clock=clock, prepare=render_valid
    )
    directory = LocalDirectory(database, verifier, clock)
    service = Service("identity", settings, database, clock, telemetry, directory)

    passwords = open_passwords(settings)
    documents = DocumentFetcher()
    id_tokens = IdTokens((), documents.fetch, clock)
    sign_in_methods = SignInMethods(database, clock, passwords, id_tokens, length_min=settings.password_length_min)
    service.add(
        user_pb2_grpc.add_UserServiceServicer_to_server,
        UserServicer(
            Users(database, clock), Deletions(database, clock), sign_in_methods, UserConfigurations(database, clock)
        ),
    )
    service.add(
        system_configuration_pb2_grpc.add_SystemConfigurationServiceServicer_to_server,
        SystemConfigurationServicer(SystemConfigurations(database, clock)),
    )
    service.add(
        organization_pb2_grpc.add_OrganizationServiceServicer_to_server,
        OrganizationServicer(
            Organizations(database, clock), Members(database, clock), Invitations(database, clock), clock
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
    service.add(
        api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server,
        ApiKeyServicer(ApiKeys(database, clock, peppers), verifier, watchers, clock),
    )
    service.add(caller_pb2_grpc.add_CallerServiceServicer_to_server, CallerServicer(directory))
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, IntegrityServicer(Integrity(reports, clock)))
    service.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(Trail(database, reports)))
    service.background(feed.run, "change feed")
    service.background(last_used.run, "times of last use")
    service.background(Housekeeping(database, clock).run, "housekeeping")
    service.before_drain(watchers.close)
    service.on_drain(reader.close)
    service.on_drain(last_used.flush)
    service.on_drain(passwords.close)
    service.on_drain(documents.close)
    service.on_drain(reports.close)
    return service


def open_passwords(settings: IdentitySettings) -> Passwords:
    """Open what hashes passwords, as the settings say."""
    return Passwords(
        threads=settings.password_hash_threads,
        queue_max=settings.password_hashes_waiting_max,
        memory_kib=settings.password_hash_memory_kib,
        passes=settings.password_hash_passes,
        lanes=settings.password_hash_lanes,
    )


def main() -> None:
    """Run identity from the environment's settings."""
    run_service("identity", IdentitySettings, build)


if __name__ == "__main__":
    main()
