"""Personal organizations, invitations, project members and service accounts."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SCHEMA = "identity"
_ROLES = "role IN ('owner', 'admin', 'member', 'billing', 'viewer')"


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=nullable)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _version() -> sa.Column[int]:
    return sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1"))


def upgrade() -> None:
    _extend_what_is_there()
    _create_project_members()
    _create_invitations()
    _create_service_accounts()


def _extend_what_is_there() -> None:
    for table in ("organizations", "members", "projects"):
        op.add_column(table, _version(), schema=_SCHEMA)
    op.add_column(
        "organizations",
        sa.Column("personal", sa.Boolean, nullable=False, server_default=sa.false()),
        schema=_SCHEMA,
    )
    op.execute(
        "UPDATE identity.organizations o SET personal = true FROM identity.users u"
        " WHERE u.personal_organization_id = o.organization_id"
    )
    op.add_column("organizations", sa.Column("api_key_max_lifetime_s", sa.BigInteger), schema=_SCHEMA)
    op.create_check_constraint(
        "organizations_lifetime_is_positive",
        "organizations",
        "api_key_max_lifetime_s > 0",
        schema=_SCHEMA,
        postgresql_not_valid=True,
    )


def _create_project_members() -> None:
    op.create_table(
        "project_members",
        _id("organization_id"),
        _id("project_id"),
        _id("user_id"),
        _text("role"),
        _time("create_time"),
        _time("update_time"),
        _version(),
        sa.PrimaryKeyConstraint("organization_id", "project_id", "user_id", name="project_members_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id", "project_id"],
            ["identity.projects.organization_id", "identity.projects.project_id"],
            name="project_members_project",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "user_id"],
            ["identity.members.organization_id", "identity.members.user_id"],
            name="project_members_member",
        ),
        sa.CheckConstraint("role IN ('admin', 'member')", name="project_members_role_known"),
        schema=_SCHEMA,
    )
    op.create_index("project_members_by_member", "project_members", ["organization_id", "user_id"], schema=_SCHEMA)
    op.create_index("project_members_by_user", "project_members", ["user_id"], schema=_SCHEMA)


def _create_invitations() -> None:
    op.create_table(
        "invitations",
        _id("organization_id"),
        _id("invitation_id"),
        _text("email"),
        _text("email_folded"),
        _text("role"),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _text("inviter"),
        _time("create_time"),
        _time("expire_time"),
        _time("accept_time", nullable=True),
        _time("revoke_time", nullable=True),
        _id("accepted_user_id", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "invitation_id", name="invitations_pkey"),
        sa.UniqueConstraint("digest", name="invitations_digest_once"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["identity.organizations.organization_id"], name="invitations_organization"
        ),
        sa.ForeignKeyConstraint(["accepted_user_id"], ["identity.users.user_id"], name="invitations_user"),
        sa.CheckConstraint(_ROLES, name="invitations_role_known"),
        sa.CheckConstraint("octet_length(digest) = 32", name="invitations_digest_only"),
        sa.CheckConstraint(
            "(accept_time IS NULL) = (accepted_user_id IS NULL)", name="invitations_accepted_by_somebody"
        ),
        schema=_SCHEMA,
    )
    still_open = sa.text("accept_time IS NULL AND revoke_time IS NULL")
    op.create_index(
        "invitations_email_once",
        "invitations",
        ["organization_id", "email_folded"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=still_open,
    )
    op.create_index(
        "invitations_open",
        "invitations",
        ["organization_id", "invitation_id"],
        schema=_SCHEMA,
        postgresql_where=still_open,
    )
    op.create_index("invitations_by_expire_time", "invitations", ["expire_time"], schema=_SCHEMA)


def _create_service_accounts() -> None:
    op.create_table(
        "service_accounts",
        _id("organization_id"),
        _id("service_account_id"),
        _text("name"),
        _text("name_folded"),
        _text("description"),
        _text("role"),
        _time("create_time"),
        _time("update_time"),
        _time("delete_time", nullable=True),
        _version(),
        sa.PrimaryKeyConstraint("organization_id", "service_account_id", name="service_accounts_pkey"),
        sa.UniqueConstraint("service_account_id", name="service_accounts_id_once"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["identity.organizations.organization_id"], name="service_accounts_organization"
        ),
        sa.CheckConstraint(_ROLES, name="service_accounts_role_known"),
        schema=_SCHEMA,
    )
    op.create_index(
        "service_accounts_name_once",
        "service_accounts",
        ["organization_id", "name_folded"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("delete_time IS NULL"),
    )
    # Validated by a later migration: in this one it would keep writers of keys out for as long as it reads.
    op.create_foreign_key(
        "api_keys_service_account",
        "api_keys",
        "service_accounts",
        ["organization_id", "service_account_id"],
        ["organization_id", "service_account_id"],
        source_schema=_SCHEMA,
        referent_schema=_SCHEMA,
        postgresql_not_valid=True,
    )
