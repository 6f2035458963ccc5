"""The tables of the schema `identity`, as the newest migration leaves them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from libs.common.audit.tables import declare_audit_tables

SCHEMA: Final = "identity"
CHANGES_CHANNEL: Final = "tollhouse_identity_changes"
"""Where Postgres announces each new revision."""

metadata: Final = MetaData(schema=SCHEMA)

_ROLES: Final = "role IN ('owner', 'admin', 'member', 'billing', 'viewer')"
declare_audit_tables(metadata)


def _id(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Uuid(as_uuid=False), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _version() -> Column[int]:
    """Counts the changes of a row; callers know it as the etag."""
    return Column("version", BigInteger, nullable=False, server_default=text("1"))


def _tenant_key(name: str, table: str, *columns: str) -> ForeignKeyConstraint:
    """Refers to an organization, or to one of its projects."""
    keys = ("organization_id", "project_id")[: len(columns)]
    return ForeignKeyConstraint(columns, [f"{SCHEMA}.{table}.{key}" for key in keys], name=name)


users: Final = Table(
    "users",
    metadata,
    _id("user_id"),
    Column("email", Text, nullable=False),
    Column("email_folded", Text, nullable=False),
    Column("username", Text),
    Column("username_folded", Text),
    Column("full_name", Text, nullable=False),
    Column("picture_url", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _time("deactivate_time", nullable=True),
    _time("delete_time", nullable=True),
    _time("email_verify_time", nullable=True),
    Column("platform_role", Text, nullable=False, server_default=text("'user'")),
    Column("password_hash", Text),
    _time("password_change_time", nullable=True),
    _time("last_sign_in_time", nullable=True),
    _id("last_selected_organization_id", nullable=True),
    _id("last_selected_project_id", nullable=True),
    _id("personal_organization_id", nullable=True),
    Column("deleted_name", Text, nullable=False, server_default=text("''")),
    _version(),
    PrimaryKeyConstraint("user_id", name="users_pkey"),
    CheckConstraint("platform_role IN ('user', 'admin', 'admin_readonly')", name="users_platform_role_known"),
    CheckConstraint("personal_organization_id IS NOT NULL", name="users_have_an_organization"),
    _tenant_key("users_personal_organization", "organizations", "personal_organization_id"),
    _tenant_key("users_last_selected_organization", "organizations", "last_selected_organization_id"),
    _tenant_key("users_last_selected_project", "projects", "last_selected_organization_id", "last_selected_project_id"),
)
Index("users_by_last_sign_in", users.c.last_sign_in_time)
Index("users_personal_organization_once", users.c.personal_organization_id, unique=True)
_INACTIVE: Final = text("deactivate_time IS NOT NULL AND delete_time IS NULL")
Index("users_inactive", users.c.user_id, postgresql_where=_INACTIVE)
Index("users_email_once", users.c.email_folded, unique=True, postgresql_where=text("delete_time IS NULL"))
Index("users_username_once", users.c.username_folded, unique=True, postgresql_where=text("delete_time IS NULL"))

linked_identities: Final = Table(
    "linked_identities",
    metadata,
    Column("provider", Text, nullable=False),
    Column("subject", Text, nullable=False),
    _id("user_id"),
    _time("create_time"),
    PrimaryKeyConstraint("provider", "subject", name="linked_identities_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="linked_identities_user"),
)
Index("linked_identities_by_user", linked_identities.c.user_id)

user_configurations: Final = Table(
    "user_configurations",
    metadata,
    _id("user_id"),
    Column("entries", JSONB, nullable=False),
    _version(),
    _time("update_time"),
    PrimaryKeyConstraint("user_id", name="user_configurations_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="user_configurations_user"),
)

system_configurations: Final = Table(
    "system_configurations",
    metadata,
    Column("single", Boolean, nullable=False),
    Column("entries", JSONB, nullable=False),
    _version(),
    _time("update_time"),
    PrimaryKeyConstraint("single", name="system_configurations_pkey"),
    CheckConstraint("single", name="system_configurations_single"),
)
"""One row at most: the configuration of the whole platform."""

organizations: Final = Table(
    "organizations",
    metadata,
    _id("organization_id"),
    Column("name", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _time("delete_time", nullable=True),
    _version(),
    Column("personal", Boolean, nullable=False, server_default=false()),
    Column("api_key_max_lifetime_s", BigInteger),
    PrimaryKeyConstraint("organization_id", name="organizations_pkey"),
    CheckConstraint("api_key_max_lifetime_s > 0", name="organizations_lifetime_is_positive"),
)

members: Final = Table(
    "members",
    metadata,
    _id("organization_id"),
    _id("user_id"),
    Column("role", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _version(),
    PrimaryKeyConstraint("organization_id", "user_id", name="members_pkey"),
    ForeignKeyConstraint(["organization_id"], ["identity.organizations.organization_id"], name="members_organization"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="members_user"),
    CheckConstraint(_ROLES, name="members_role_known"),
)
Index("members_by_user", members.c.user_id, members.c.organization_id)

projects: Final = Table(
    "projects",
    metadata,
    _id("organization_id"),
    _id("project_id"),
    Column("name", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("description", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _time("delete_time", nullable=True),
    _version(),
    PrimaryKeyConstraint("organization_id", "project_id", name="projects_pkey"),
    ForeignKeyConstraint(["organization_id"], ["identity.organizations.organization_id"], name="projects_organization"),
)
Index(
    "projects_name_once",
    projects.c.organization_id,
    projects.c.name_folded,
    unique=True,
    postgresql_where=text("delete_time IS NULL"),
)

project_members: Final = Table(
    "project_members",
    metadata,
    _id("organization_id"),
    _id("project_id"),
    _id("user_id"),
    Column("role", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _version(),
    PrimaryKeyConstraint("organization_id", "project_id", "user_id", name="project_members_pkey"),
    ForeignKeyConstraint(
        ["organization_id", "project_id"],
        ["identity.projects.organization_id", "identity.projects.project_id"],
        name="project_members_project",
    ),
    ForeignKeyConstraint(
        ["organization_id", "user_id"],
        ["identity.members.organization_id", "identity.members.user_id"],
        name="project_members_member",
    ),
    CheckConstraint("role IN ('admin', 'member')", name="project_members_role_known"),
)
Index("project_members_by_member", project_members.c.organization_id, project_members.c.user_id)
Index("project_members_by_user", project_members.c.user_id)

_INVITATION_OPEN: Final = text("accept_time IS NULL AND revoke_time IS NULL")
invitations: Final = Table(
    "invitations",
    metadata,
    _id("organization_id"),
    _id("invitation_id"),
    Column("email", Text, nullable=False),
    Column("email_folded", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("inviter", Text, nullable=False),
    _time("create_time"),
    _time("expire_time"),
    _time("accept_time", nullable=True),
    _time("revoke_time", nullable=True),
    _id("accepted_user_id", nullable=True),
    PrimaryKeyConstraint("organization_id", "invitation_id", name="invitations_pkey"),
    UniqueConstraint("digest", name="invitations_digest_once"),
    ForeignKeyConstraint(
        ["organization_id"], ["identity.organizations.organization_id"], name="invitations_organization"
    ),
    ForeignKeyConstraint(["accepted_user_id"], ["identity.users.user_id"], name="invitations_user"),
    CheckConstraint(_ROLES, name="invitations_role_known"),
    CheckConstraint("octet_length(digest) = 32", name="invitations_digest_only"),
    CheckConstraint("(accept_time IS NULL) = (accepted_user_id IS NULL)", name="invitations_accepted_by_somebody"),
)
Index(
    "invitations_email_once",
    invitations.c.organization_id,
    invitations.c.email_folded,
    unique=True,
    postgresql_where=_INVITATION_OPEN,
)
Index("invitations_open", invitations.c.organization_id, invitations.c.invitation_id, postgresql_where=_INVITATION_OPEN)
Index("invitations_by_expire_time", invitations.c.expire_time)

service_accounts: Final = Table(
    "service_accounts",
    metadata,
    _id("organization_id"),
    _id("service_account_id"),
    Column("name", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("role", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _time("delete_time", nullable=True),
    _version(),
    PrimaryKeyConstraint("organization_id", "service_account_id", name="service_accounts_pkey"),
    UniqueConstraint("service_account_id", name="service_accounts_id_once"),
    ForeignKeyConstraint(
        ["organization_id"], ["identity.organizations.organization_id"], name="service_accounts_organization"
    ),
    CheckConstraint(_ROLES, name="service_accounts_role_known"),
)
Index(
    "service_accounts_name_once",
    service_accounts.c.organization_id,
    service_accounts.c.name_folded,
    unique=True,
    postgresql_where=text("delete_time IS NULL"),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    _id("organization_id"),
    _id("api_key_id"),
    _id("project_id", nullable=True),
    _id("user_id", nullable=True),
    _id("service_account_id", nullable=True),
    Column("name", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("pepper_version", Integer, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("secret_suffix", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("allowed_models", ARRAY(Text), nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("external_id", Text, nullable=False),
    _time("create_time"),
    _time("update_time"),
    _time("expire_time", nullable=True),
    _time("disable_time", nullable=True),
    _time("revoke_time", nullable=True),
    _time("last_used_time", nullable=True),
    Column("allowed_addresses", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _id("rotated_from_api_key_id", nullable=True),
    _id("rotated_to_api_key_id", nullable=True),
    Column("imported_prefix", Text),
    _version(),
    PrimaryKeyConstraint("organization_id", "api_key_id", name="api_keys_pkey"),
    UniqueConstraint("api_key_id", name="api_keys_id_once"),
    UniqueConstraint("digest", name="api_keys_digest_once"),
    ForeignKeyConstraint(["organization_id"], ["identity.organizations.organization_id"], name="api_keys_organization"),
    ForeignKeyConstraint(
        ["organization_id", "project_id"],
        ["identity.projects.organization_id", "identity.projects.project_id"],
        name="api_keys_project_of_organization",
    ),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="api_keys_user"),
    ForeignKeyConstraint(
        ["organization_id", "service_account_id"],
        ["identity.service_accounts.organization_id", "identity.service_accounts.service_account_id"],
        name="api_keys_service_account",
    ),
    CheckConstraint("num_nonnulls(user_id, service_account_id) = 1", name="api_keys_one_owner"),
    CheckConstraint("environment IN ('live', 'test')", name="api_keys_environment_known"),
    CheckConstraint("octet_length(digest) = 32", name="api_keys_digest_only"),
    CheckConstraint(
        "CASE WHEN imported_prefix IS NULL THEN char_length(secret_prefix) = 12 AND char_length(secret_suffix) = 4"
        " ELSE char_length(secret_prefix) <= 12 AND char_length(secret_suffix) <= 4 END",
        name="api_keys_hint_is_short",
    ),
    # Room on each page lets the time of last use be rewritten in place, without touching an index.
    postgresql_with={"fillfactor": "80"},
)
Index("api_keys_by_user", api_keys.c.user_id, api_keys.c.organization_id, api_keys.c.api_key_id)
Index("api_keys_by_project", api_keys.c.organization_id, api_keys.c.project_id, api_keys.c.api_key_id)
Index(
    "api_keys_by_service_account",
    api_keys.c.organization_id,
    api_keys.c.service_account_id,
    api_keys.c.api_key_id,
    postgresql_where=text("service_account_id IS NOT NULL"),
)
Index("api_keys_by_environment", api_keys.c.organization_id, api_keys.c.environment, api_keys.c.api_key_id)
Index(
    "api_keys_by_external_id",
    api_keys.c.organization_id,
    api_keys.c.external_id,
    api_keys.c.api_key_id,
    postgresql_where=text("external_id <> ''"),
)

imported_prefixes: Final = Table(
    "imported_prefixes",
    metadata,
    Column("prefix", Text, nullable=False),
    _time("create_time"),
    PrimaryKeyConstraint("prefix", name="imported_prefixes_pkey"),
)
"""With what the secrets of imported keys begin: a few rows, which every process knows by heart."""

sessions: Final = Table(
    "sessions",
    metadata,
    _id("session_id"),
    _id("user_id"),
    Column("method", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("peer_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    _time("create_time"),
    _time("last_refresh_time"),
    _time("expire_time"),
    _time("end_time", nullable=True),
    Column("end_reason", Text),
    PrimaryKeyConstraint("session_id", name="sessions_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="sessions_user"),
    CheckConstraint("method IN ('password', 'id_token')", name="sessions_method_known"),
    CheckConstraint("(end_time IS NULL) = (end_reason IS NULL)", name="sessions_end_has_a_reason"),
)
Index(
    "sessions_not_ended_by_user", sessions.c.user_id, sessions.c.session_id, postgresql_where=text("end_time IS NULL")
)
Index("sessions_by_expire_time", sessions.c.expire_time)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary, nullable=False),
    _id("session_id"),
    _time("create_time"),
    _time("expire_time"),
    _time("use_time", nullable=True),
    Column("successor_digest", LargeBinary),
    PrimaryKeyConstraint("digest", name="refresh_tokens_pkey"),
    ForeignKeyConstraint(["session_id"], ["identity.sessions.session_id"], name="refresh_tokens_session"),
    CheckConstraint("octet_length(digest) = 32", name="refresh_tokens_digest_only"),
    CheckConstraint("(use_time IS NULL) = (successor_digest IS NULL)", name="refresh_tokens_used_has_a_successor"),
)
Index("refresh_tokens_by_session", refresh_tokens.c.session_id)
Index("refresh_tokens_by_expire_time", refresh_tokens.c.expire_time)

sign_in_attempts: Final = Table(
    "sign_in_attempts",
    metadata,
    Column("key_digest", LargeBinary, nullable=False),
    _time("window_time"),
    Column("attempts", Integer, nullable=False),
    PrimaryKeyConstraint("key_digest", name="sign_in_attempts_pkey"),
    CheckConstraint("octet_length(key_digest) = 32", name="sign_in_attempts_digest_only"),
)
"""How often an account or an address was tried since `window_time`."""

Index("sign_in_attempts_by_window", sign_in_attempts.c.window_time)

revision_counter: Final = Table(
    "revision_counter",
    metadata,
    Column("single", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("single", name="revision_counter_pkey"),
    CheckConstraint("single", name="revision_counter_single"),
)
"""One row. Its lock is held until commit, which makes the order of revisions the order of commits."""

key_changes: Final = Table(
    "key_changes",
    metadata,
    Column("revision", BigInteger, nullable=False, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("subject_type", Text, nullable=False),
    _id("subject_id"),
    _id("organization_id", nullable=True),
    _time("change_time"),
    PrimaryKeyConstraint("revision", name="key_changes_pkey"),
    CheckConstraint(
        "subject_type IN ('api_key', 'user', 'service_account', 'project', 'organization')",
        name="key_changes_subject_type_known",
    ),
)
Index("key_changes_by_time", key_changes.c.change_time)

requests: Final = Table(
    "requests",
    metadata,
    _id("organization_id"),
    Column("method", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("field_digests", JSONB, nullable=False),
    _id("resource_id"),
    _time("create_time"),
    PrimaryKeyConstraint("organization_id", "method", "request_id", name="requests_pkey"),
)
"""Creates that named a request id. The organization is the zero id where the resource belongs to none."""

Index("requests_by_time", requests.c.create_time)
