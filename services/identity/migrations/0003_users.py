"""What users sign in with, what they may do on the platform, what they chose, and the organization each has."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SCHEMA = "identity"


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=nullable)


def _text(name: str, *, nullable: bool = False, server_default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable, server_default=server_default)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _version() -> sa.Column[int]:
    return sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1"))


def upgrade() -> None:
    _extend_users()
    _give_every_user_an_organization()
    _constrain_users()
    _create_linked_identities()
    _create_configurations()


def _extend_users() -> None:
    for column in (
        _time("email_verify_time", nullable=True),
        _text("platform_role", server_default="user"),
        _text("password_hash", nullable=True),
        _time("password_change_time", nullable=True),
        _time("last_sign_in_time", nullable=True),
        _id("last_selected_organization_id", nullable=True),
        _id("last_selected_project_id", nullable=True),
        _id("personal_organization_id", nullable=True),
        _text("deleted_name", server_default=""),
        _version(),
    ):
        op.add_column("users", column, schema=_SCHEMA)


def _give_every_user_an_organization() -> None:
    # A random id of version 4 with the time put in front and its version changed is one of version 7.
    op.execute(
        """
        UPDATE identity.users SET personal_organization_id = CAST(
            overlay(
                overlay(
                    CAST(gen_random_uuid() AS text)
                    PLACING regexp_replace(
                        lpad(to_hex(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), 12, '0'),
                        '^(.{8})', '\\1-')
                    FROM 1 FOR 13)
                PLACING '7' FROM 15 FOR 1)
            AS uuid)
        """
    )
    op.execute(
        """
        INSERT INTO identity.organizations (organization_id, name, create_time, update_time)
        SELECT personal_organization_id, coalesce(nullif(full_name, ''), username, split_part(email, '@', 1)),
               create_time, now()
        FROM identity.users
        """
    )
    op.execute(
        """
        INSERT INTO identity.members (organization_id, user_id, role, create_time, update_time)
        SELECT personal_organization_id, user_id, 'owner', create_time, now() FROM identity.users
        """
    )


def _constrain_users() -> None:
    # What is written from now on is checked; a later migration reads the rest through without holding anybody up.
    op.create_check_constraint(
        "users_platform_role_known",
        "users",
        "platform_role IN ('user', 'admin', 'admin_readonly')",
        schema=_SCHEMA,
        postgresql_not_valid=True,
    )
    op.create_check_constraint(
        "users_have_an_organization",
        "users",
        "personal_organization_id IS NOT NULL",
        schema=_SCHEMA,
        postgresql_not_valid=True,
    )
    for name, columns, table in (
        ("users_personal_organization", ["personal_organization_id"], "organizations"),
        ("users_last_selected_organization", ["last_selected_organization_id"], "organizations"),
        ("users_last_selected_project", ["last_selected_organization_id", "last_selected_project_id"], "projects"),
    ):
        op.create_foreign_key(
            name,
            "users",
            table,
            columns,
            ["organization_id", "project_id"][: len(columns)],
            source_schema=_SCHEMA,
            referent_schema=_SCHEMA,
            postgresql_not_valid=True,
        )


def _create_linked_identities() -> None:
    op.create_table(
        "linked_identities",
        _text("provider"),
        _text("subject"),
        _id("user_id"),
        _time("create_time"),
        sa.PrimaryKeyConstraint("provider", "subject", name="linked_identities_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="linked_identities_user"),
        schema=_SCHEMA,
    )
    op.create_index("linked_identities_by_user", "linked_identities", ["user_id"], schema=_SCHEMA)


def _create_configurations() -> None:
    op.create_table(
        "user_configurations",
        _id("user_id"),
        sa.Column("entries", JSONB, nullable=False),
        _version(),
        _time("update_time"),
        sa.PrimaryKeyConstraint("user_id", name="user_configurations_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="user_configurations_user"),
        schema=_SCHEMA,
    )
    op.create_table(
        "system_configurations",
        sa.Column("single", sa.Boolean, nullable=False),
        sa.Column("entries", JSONB, nullable=False),
        _version(),
        _time("update_time"),
        sa.PrimaryKeyConstraint("single", name="system_configurations_pkey"),
        sa.CheckConstraint("single", name="system_configurations_single"),
        schema=_SCHEMA,
    )
