"""Users, organizations, members, projects, API keys, and the numbered changes behind verification."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SCHEMA = "identity"


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def upgrade() -> None:
    _create_people()
    _create_projects()
    _create_api_keys()
    _create_changes()
    _create_requests()


def _create_people() -> None:
    op.create_table(
        "users",
        _id("user_id"),
        _text("email"),
        _text("email_folded"),
        _text("username", nullable=True),
        _text("username_folded", nullable=True),
        _text("full_name"),
        _text("picture_url"),
        _time("create_time"),
        _time("update_time"),
        _time("deactivate_time", nullable=True),
        _time("delete_time", nullable=True),
        sa.PrimaryKeyConstraint("user_id", name="users_pkey"),
        schema=_SCHEMA,
    )
    not_deleted = sa.text("delete_time IS NULL")
    for column, name in (("email_folded", "users_email_once"), ("username_folded", "users_username_once")):
        op.create_index(name, "users", [column], unique=True, schema=_SCHEMA, postgresql_where=not_deleted)
    op.create_table(
        "organizations",
        _id("organization_id"),
        _text("name"),
        _time("create_time"),
        _time("update_time"),
        _time("delete_time", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", name="organizations_pkey"),
        schema=_SCHEMA,
    )
    op.create_table(
        "members",
        _id("organization_id"),
        _id("user_id"),
        _text("role"),
        _time("create_time"),
        _time("update_time"),
        sa.PrimaryKeyConstraint("organization_id", "user_id", name="members_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["identity.organizations.organization_id"], name="members_organization"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="members_user"),
        sa.CheckConstraint("role IN ('owner', 'admin', 'member', 'billing', 'viewer')", name="members_role_known"),
        schema=_SCHEMA,
    )
    op.create_index("members_by_user", "members", ["user_id", "organization_id"], schema=_SCHEMA)


def _create_projects() -> None:
    op.create_table(
        "projects",
        _id("organization_id"),
        _id("project_id"),
        _text("name"),
        _text("name_folded"),
        _text("description"),
        _time("create_time"),
        _time("update_time"),
        _time("delete_time", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "project_id", name="projects_pkey"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["identity.organizations.organization_id"], name="projects_organization"
        ),
        schema=_SCHEMA,
    )
    op.create_index(
        "projects_name_once",
        "projects",
        ["organization_id", "name_folded"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("delete_time IS NULL"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        _id("organization_id"),
        _id("api_key_id"),
        _id("project_id", nullable=True),
        _id("user_id", nullable=True),
        _id("service_account_id", nullable=True),
        _text("name"),
        _text("environment"),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("pepper_version", sa.Integer, nullable=False),
        _text("secret_prefix"),
        _text("secret_suffix"),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("allowed_models", ARRAY(sa.Text), nullable=False),
        sa.Column("metadata", JSONB, nullable=False),
        _text("external_id"),
        _time("create_time"),
        _time("update_time"),
        _time("expire_time", nullable=True),
        _time("disable_time", nullable=True),
        _time("revoke_time", nullable=True),
        _time("last_used_time", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "api_key_id", name="api_keys_pkey"),
        sa.UniqueConstraint("api_key_id", name="api_keys_id_once"),
        sa.UniqueConstraint("digest", name="api_keys_digest_once"),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["identity.organizations.organization_id"], name="api_keys_organization"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "project_id"],
            ["identity.projects.organization_id", "identity.projects.project_id"],
            name="api_keys_project_of_organization",
        ),
        sa.ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="api_keys_user"),
        sa.CheckConstraint("num_nonnulls(user_id, service_account_id) = 1", name="api_keys_one_owner"),
        sa.CheckConstraint("environment IN ('live', 'test')", name="api_keys_environment_known"),
        sa.CheckConstraint("octet_length(digest) = 32", name="api_keys_digest_only"),
        sa.CheckConstraint(
            "char_length(secret_prefix) = 12 AND char_length(secret_suffix) = 4", name="api_keys_hint_is_short"
        ),
        schema=_SCHEMA,
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index("api_keys_by_user", "api_keys", ["user_id", "organization_id", "api_key_id"], schema=_SCHEMA)
    op.create_index("api_keys_by_project", "api_keys", ["organization_id", "project_id", "api_key_id"], schema=_SCHEMA)


def _create_changes() -> None:
    op.create_table(
        "revision_counter",
        sa.Column("single", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("single", name="revision_counter_pkey"),
        sa.CheckConstraint("single", name="revision_counter_single"),
        schema=_SCHEMA,
    )
    # Revisions begin at 1, so that zero can stand for none.
    op.execute("INSERT INTO identity.revision_counter (single, revision) VALUES (true, 1)")
    op.create_table(
        "key_changes",
        sa.Column("revision", sa.BigInteger, nullable=False, autoincrement=False),
        _text("kind"),
        _text("subject_type"),
        _id("subject_id"),
        _id("organization_id", nullable=True),
        _time("change_time"),
        sa.PrimaryKeyConstraint("revision", name="key_changes_pkey"),
        sa.CheckConstraint(
            "subject_type IN ('api_key', 'user', 'service_account', 'project', 'organization')",
            name="key_changes_subject_type_known",
        ),
        schema=_SCHEMA,
    )
    op.create_index("key_changes_by_time", "key_changes", ["change_time"], schema=_SCHEMA)


def _create_requests() -> None:
    op.create_table(
        "requests",
        _id("organization_id"),
        _text("method"),
        _text("request_id"),
        sa.Column("field_digests", JSONB, nullable=False),
        _id("resource_id"),
        _time("create_time"),
        sa.PrimaryKeyConstraint("organization_id", "method", "request_id", name="requests_pkey"),
        schema=_SCHEMA,
    )
    op.create_index("requests_by_time", "requests", ["create_time"], schema=_SCHEMA)
