"""Organizations with their members, invitations, projects and service accounts."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from services.identity.tables.columns import (
    HAS_EXTERNAL_ID,
    ROLE_IS_KNOWN,
    attribute_columns,
    id_column,
    metadata,
    time_column,
    version_column,
)

organizations: Final = Table(
    "organizations",
    metadata,
    id_column("organization_id"),
    Column("name", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    time_column("delete_time", nullable=True),
    version_column(),
    Column("personal", Boolean, nullable=False, server_default=false()),
    Column("api_key_max_lifetime_s", BigInteger),
    *attribute_columns(),
    # The place in the feed of organizations, and the version of the row that is in this place. Both are null until the
    # feed has numbered the row; after a change it numbers the row anew.
    Column("feed_revision", BigInteger),
    Column("feed_version", BigInteger),
    PrimaryKeyConstraint("organization_id", name="organizations_pkey"),
    CheckConstraint("api_key_max_lifetime_s > 0", name="organizations_lifetime_is_positive"),
)
Index(
    "organizations_external_id_once",
    organizations.c.external_id,
    unique=True,
    postgresql_where=HAS_EXTERNAL_ID,
)
Index("organizations_by_feed_revision", organizations.c.feed_revision, unique=True)
Index(
    "organizations_not_in_feed",
    organizations.c.update_time,
    organizations.c.organization_id,
    postgresql_where=text("feed_version IS DISTINCT FROM version"),
)

members: Final = Table(
    "members",
    metadata,
    id_column("organization_id"),
    id_column("user_id"),
    Column("role", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    version_column(),
    PrimaryKeyConstraint("organization_id", "user_id", name="members_pkey"),
    ForeignKeyConstraint(["organization_id"], ["identity.organizations.organization_id"], name="members_organization"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="members_user"),
    CheckConstraint(ROLE_IS_KNOWN, name="members_role_known"),
)
Index("members_by_user", members.c.user_id, members.c.organization_id)

projects: Final = Table(
    "projects",
    metadata,
    id_column("organization_id"),
    id_column("project_id"),
    Column("name", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("description", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    time_column("delete_time", nullable=True),
    version_column(),
    *attribute_columns(),
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
Index(
    "projects_external_id_once",
    projects.c.organization_id,
    projects.c.external_id,
    unique=True,
    postgresql_where=HAS_EXTERNAL_ID,
)

project_members: Final = Table(
    "project_members",
    metadata,
    id_column("organization_id"),
    id_column("project_id"),
    id_column("user_id"),
    Column("role", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    version_column(),
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
    id_column("organization_id"),
    id_column("invitation_id"),
    Column("email", Text, nullable=False),
    Column("email_folded", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("inviter", Text, nullable=False),
    time_column("create_time"),
    time_column("expire_time"),
    time_column("accept_time", nullable=True),
    time_column("revoke_time", nullable=True),
    id_column("accepted_user_id", nullable=True),
    PrimaryKeyConstraint("organization_id", "invitation_id", name="invitations_pkey"),
    UniqueConstraint("digest", name="invitations_digest_once"),
    ForeignKeyConstraint(
        ["organization_id"], ["identity.organizations.organization_id"], name="invitations_organization"
    ),
    ForeignKeyConstraint(["accepted_user_id"], ["identity.users.user_id"], name="invitations_user"),
    CheckConstraint(ROLE_IS_KNOWN, name="invitations_role_known"),
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
Index("invitations_open_by_inviter", invitations.c.inviter, postgresql_where=_INVITATION_OPEN)
Index("invitations_by_email", invitations.c.email_folded)
Index(
    "invitations_by_accepted_user",
    invitations.c.accepted_user_id,
    postgresql_where=text("accepted_user_id IS NOT NULL"),
)

service_accounts: Final = Table(
    "service_accounts",
    metadata,
    id_column("organization_id"),
    id_column("service_account_id"),
    Column("name", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("role", Text, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    time_column("delete_time", nullable=True),
    version_column(),
    *attribute_columns(),
    PrimaryKeyConstraint("organization_id", "service_account_id", name="service_accounts_pkey"),
    UniqueConstraint("service_account_id", name="service_accounts_id_once"),
    ForeignKeyConstraint(
        ["organization_id"], ["identity.organizations.organization_id"], name="service_accounts_organization"
    ),
    CheckConstraint(ROLE_IS_KNOWN, name="service_accounts_role_known"),
)
Index(
    "service_accounts_name_once",
    service_accounts.c.organization_id,
    service_accounts.c.name_folded,
    unique=True,
    postgresql_where=text("delete_time IS NULL"),
)
Index(
    "service_accounts_external_id_once",
    service_accounts.c.organization_id,
    service_accounts.c.external_id,
    unique=True,
    postgresql_where=HAS_EXTERNAL_ID,
)
