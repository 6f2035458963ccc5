"""Users, what they sign in with, and configurations."""

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.identity.tables.columns import (
    HAS_EXTERNAL_ID,
    attribute_columns,
    id_column,
    metadata,
    tenant_key,
    time_column,
    version_column,
)

users: Final = Table(
    "users",
    metadata,
    id_column("user_id"),
    Column("email", Text, nullable=False),
    Column("email_folded", Text, nullable=False),
    Column("username", Text),
    Column("username_folded", Text),
    Column("full_name", Text, nullable=False),
    Column("picture_url", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    time_column("deactivate_time", nullable=True),
    time_column("delete_time", nullable=True),
    time_column("email_verify_time", nullable=True),
    Column("platform_role", Text, nullable=False, server_default=text("'user'")),
    Column("password_hash", Text),
    time_column("password_change_time", nullable=True),
    time_column("last_sign_in_time", nullable=True),
    id_column("last_selected_organization_id", nullable=True),
    id_column("last_selected_project_id", nullable=True),
    id_column("personal_organization_id", nullable=True),
    Column("deleted_name", Text, nullable=False, server_default=text("''")),
    version_column(),
    *attribute_columns(),
    PrimaryKeyConstraint("user_id", name="users_pkey"),
    CheckConstraint("platform_role IN ('user', 'admin', 'admin_readonly')", name="users_platform_role_known"),
    CheckConstraint("personal_organization_id IS NOT NULL", name="users_have_an_organization"),
    tenant_key("users_personal_organization", "organizations", "personal_organization_id"),
    tenant_key("users_last_selected_organization", "organizations", "last_selected_organization_id"),
    tenant_key("users_last_selected_project", "projects", "last_selected_organization_id", "last_selected_project_id"),
)
Index("users_by_last_sign_in", users.c.last_sign_in_time)
Index("users_personal_organization_once", users.c.personal_organization_id, unique=True)
_INACTIVE: Final = text("deactivate_time IS NOT NULL AND delete_time IS NULL")
Index("users_inactive", users.c.user_id, postgresql_where=_INACTIVE)
Index("users_email_once", users.c.email_folded, unique=True, postgresql_where=text("delete_time IS NULL"))
Index("users_username_once", users.c.username_folded, unique=True, postgresql_where=text("delete_time IS NULL"))
Index("users_external_id_once", users.c.external_id, unique=True, postgresql_where=HAS_EXTERNAL_ID)

linked_identities: Final = Table(
    "linked_identities",
    metadata,
    Column("provider", Text, nullable=False),
    Column("subject", Text, nullable=False),
    id_column("user_id"),
    time_column("create_time"),
    PrimaryKeyConstraint("provider", "subject", name="linked_identities_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="linked_identities_user"),
)
Index("linked_identities_by_user", linked_identities.c.user_id)

user_configurations: Final = Table(
    "user_configurations",
    metadata,
    id_column("user_id"),
    Column("entries", JSONB, nullable=False),
    version_column(),
    time_column("update_time"),
    PrimaryKeyConstraint("user_id", name="user_configurations_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="user_configurations_user"),
)

system_configurations: Final = Table(
    "system_configurations",
    metadata,
    Column("single", Boolean, nullable=False),
    Column("entries", JSONB, nullable=False),
    version_column(),
    time_column("update_time"),
    PrimaryKeyConstraint("single", name="system_configurations_pkey"),
    CheckConstraint("single", name="system_configurations_single"),
)
"""One row at most: the configuration of the whole platform."""
