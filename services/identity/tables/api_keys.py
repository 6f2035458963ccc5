"""API keys."""

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.identity.tables.columns import id_column, metadata, time_column, version_column

api_keys: Final = Table(
    "api_keys",
    metadata,
    id_column("organization_id"),
    id_column("api_key_id"),
    id_column("project_id", nullable=True),
    id_column("user_id", nullable=True),
    id_column("service_account_id", nullable=True),
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
    time_column("create_time"),
    time_column("update_time"),
    time_column("expire_time", nullable=True),
    time_column("disable_time", nullable=True),
    time_column("revoke_time", nullable=True),
    time_column("last_used_time", nullable=True),
    Column("allowed_addresses", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    id_column("rotated_from_api_key_id", nullable=True),
    id_column("rotated_to_api_key_id", nullable=True),
    Column("imported_prefix", Text),
    version_column(),
    # The subscription in billing that metered calls with the key fall under. Identity does not know whether it is live.
    id_column("subscription_id", nullable=True),
    # Where the scopes of gateways on the key hold: in all organizations, in another one, or else in the key's own.
    Column("all_organizations", Boolean, nullable=False, server_default=text("false")),
    id_column("gateway_organization_id", nullable=True),
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
    CheckConstraint(
        "NOT all_organizations OR (gateway_organization_id IS NULL AND service_account_id IS NOT NULL)",
        name="api_keys_reach_is_one",
    ),
    CheckConstraint("environment IN ('live', 'test')", name="api_keys_environment_known"),
    CheckConstraint("octet_length(digest) = 32", name="api_keys_digest_only"),
    CheckConstraint(
        "CASE WHEN imported_prefix IS NULL THEN char_length(secret_prefix) = 12 AND char_length(secret_suffix) = 4"
        " ELSE char_length(secret_prefix) <= 12 AND char_length(secret_suffix) <= 4 END",
        name="api_keys_hint_is_short",
    ),
    # Free space on each page lets the time of last use be updated in place, without an index update (HOT).
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

Index(
    "api_keys_by_subscription",
    api_keys.c.organization_id,
    api_keys.c.subscription_id,
    api_keys.c.api_key_id,
    postgresql_where=text("subscription_id IS NOT NULL"),
)
# Keys that are neither revoked nor disabled: those of an organization, and those of a user.
for _name, _owner in (("api_keys_active", ()), ("api_keys_active_of_user", (api_keys.c.user_id,))):
    Index(
        _name,
        api_keys.c.organization_id,
        *_owner,
        api_keys.c.api_key_id,
        postgresql_where=text("revoke_time IS NULL AND disable_time IS NULL"),
    )
Index(
    "api_keys_by_expiry",
    api_keys.c.expire_time,
    postgresql_where=text("expire_time IS NOT NULL AND revoke_time IS NULL"),
)

# For which time at which it expires it is announced that a key does so soon.
api_key_notices: Final = Table(
    "api_key_notices",
    metadata,
    id_column("organization_id"),
    id_column("api_key_id"),
    time_column("expire_time"),
    PrimaryKeyConstraint("organization_id", "api_key_id", name="api_key_notices_pkey"),
)

imported_prefixes: Final = Table(
    "imported_prefixes",
    metadata,
    Column("prefix", Text, nullable=False),
    time_column("create_time"),
    PrimaryKeyConstraint("prefix", name="imported_prefixes_pkey"),
)
"""The prefixes of imported secrets: a few rows, which every process keeps in memory."""
