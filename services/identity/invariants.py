"""The invariants of identity, and the walks over its tables that check them."""

from collections.abc import Sequence
from typing import Final

from libs.common.audit.invariants import AUDIT_CHECKS
from libs.common.events.invariants import EVENT_CHECKS
from libs.common.integrity.domain import ORGANIZATION, Column, Invariant, Walk

_HAVE_OWNER: Final = Invariant("organizations_have_an_owner", "An organization that is not deleted has no owner.")
_KEYS_STAY: Final = Invariant(
    "api_keys_stay_in_their_organization", "An API key names a project of another organization."
)
_ONLY_DIGESTS: Final = Invariant(
    "api_keys_hold_only_digests",
    "An API key is stored as something other than a digest of 32 bytes and at most 16 characters of the secret.",
)
_REVOKED_NOT_USED: Final = Invariant(
    "revoked_api_keys_are_not_used", "An API key was used more than ten seconds after it was revoked."
)
_USERS_OF_KEYS: Final = Invariant(
    "users_of_api_keys_are_members",
    "An API key that is not revoked belongs to a user who is no member of its organization.",
)
_ONE_MEMBER: Final = Invariant(
    "personal_organizations_have_one_member", "A personal organization has more than one member."
)
_PROJECT_MEMBERS: Final = Invariant(
    "project_members_are_members",
    "A member of a project is no member of its organization, or the project is deleted.",
)
_INVITATIONS: Final = Invariant(
    "open_invitations_lead_somewhere", "An open invitation is for an organization that is deleted or personal."
)
_SERVICE_ACCOUNTS: Final = Invariant(
    "service_accounts_of_api_keys_are_live",
    "An API key that is not revoked belongs to a deleted or missing service account.",
)
_OWN_ORGANIZATION: Final = Invariant(
    "users_own_their_organization", "A user who is not deleted does not own their personal organization."
)
_NOTHING_LEFT: Final = Invariant(
    "deleted_users_have_nothing_left",
    "A deleted user still has personal data, a sign-in method, an open session, a working API key or a membership.",
)
_NO_GAPS: Final = Invariant(
    "revisions_have_no_gaps",
    "The numbers of the stored key changes have a gap, or the revision counter has not exactly one row.",
)

_ORGANIZATIONS: Final = """
    SELECT 'organizations_have_an_owner', o.organization_id, 'organizations/' || o.organization_id, 'it has no owner'
    FROM (SELECT * FROM organizations WHERE {range}) AS o
    WHERE o.delete_time IS NULL AND NOT EXISTS (
        SELECT FROM members AS m WHERE m.organization_id = o.organization_id AND m.role = 'owner')
    UNION ALL
    SELECT 'personal_organizations_have_one_member', o.organization_id, 'organizations/' || o.organization_id,
        'it is personal and has ' || m.members || ' members'
    FROM (SELECT * FROM organizations WHERE {range}) AS o
    CROSS JOIN LATERAL (SELECT count(*) AS members FROM members WHERE organization_id = o.organization_id) AS m
    WHERE o.personal AND o.delete_time IS NULL AND m.members > 1
"""

_API_KEYS: Final = """
    SELECT 'api_keys_stay_in_their_organization', k.organization_id, 'api_keys/' || k.api_key_id,
        'the project ' || k.project_id || ' is not in the organization'
    FROM (SELECT * FROM api_keys WHERE {range}) AS k
    WHERE k.project_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM projects AS p WHERE p.organization_id = k.organization_id AND p.project_id = k.project_id)
    UNION ALL
    SELECT 'api_keys_hold_only_digests', k.organization_id, 'api_keys/' || k.api_key_id,
        'the stored digest or hint has the wrong length'
    FROM (SELECT * FROM api_keys WHERE {range}) AS k
    WHERE octet_length(k.digest) <> 32 OR k.pepper_version < 1
        OR char_length(k.secret_prefix) > 12 OR char_length(k.secret_suffix) > 4
        OR (k.imported_prefix IS NULL AND char_length(k.secret_prefix || k.secret_suffix) < 16)
    UNION ALL
    SELECT 'revoked_api_keys_are_not_used', k.organization_id, 'api_keys/' || k.api_key_id,
        'revoked at ' || k.revoke_time || ' and used at ' || k.last_used_time
    FROM (SELECT * FROM api_keys WHERE {range}) AS k
    WHERE k.last_used_time > k.revoke_time + interval '10 s'
    UNION ALL
    SELECT 'users_of_api_keys_are_members', k.organization_id, 'api_keys/' || k.api_key_id,
        'the user ' || k.user_id || ' is no member'
    FROM (SELECT * FROM api_keys WHERE {range}) AS k
    WHERE k.revoke_time IS NULL AND k.user_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM members AS m WHERE m.organization_id = k.organization_id AND m.user_id = k.user_id)
    UNION ALL
    SELECT 'service_accounts_of_api_keys_are_live', k.organization_id, 'api_keys/' || k.api_key_id,
        'the service account ' || k.service_account_id || ' is deleted or missing'
    FROM (SELECT * FROM api_keys WHERE {range}) AS k
    WHERE k.revoke_time IS NULL AND k.service_account_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM service_accounts AS a WHERE a.organization_id = k.organization_id
            AND a.service_account_id = k.service_account_id AND a.delete_time IS NULL)
"""

_MEMBERS_OF_PROJECTS: Final = """
    SELECT 'project_members_are_members', w.organization_id,
        'projects/' || w.project_id || '/members/' || w.user_id,
        'the user is no member of the organization, or the project is gone'
    FROM (SELECT * FROM project_members WHERE {range}) AS w
    LEFT JOIN members AS m ON m.organization_id = w.organization_id AND m.user_id = w.user_id
    LEFT JOIN projects AS p
        ON p.organization_id = w.organization_id AND p.project_id = w.project_id AND p.delete_time IS NULL
    WHERE m.user_id IS NULL OR p.project_id IS NULL
"""

_OPEN_INVITATIONS: Final = """
    SELECT 'open_invitations_lead_somewhere', i.organization_id, 'invitations/' || i.invitation_id,
        'its organization is deleted or personal'
    FROM (SELECT * FROM invitations WHERE {range}) AS i
    JOIN organizations AS o ON o.organization_id = i.organization_id
    WHERE i.accept_time IS NULL AND i.revoke_time IS NULL AND (o.delete_time IS NOT NULL OR o.personal)
"""

# What a deleted user may have left is looked for in correlated counts, so that it is found by index for each of them.
_USERS: Final = """
    SELECT 'users_own_their_organization', u.personal_organization_id, 'users/' || u.user_id,
        'the organization is deleted, not personal, or not theirs'
    FROM (SELECT * FROM users WHERE {range}) AS u
    LEFT JOIN organizations AS o
        ON o.organization_id = u.personal_organization_id AND o.personal AND o.delete_time IS NULL
    LEFT JOIN members AS m ON m.organization_id = o.organization_id AND m.user_id = u.user_id AND m.role = 'owner'
    WHERE u.delete_time IS NULL AND m.user_id IS NULL
    UNION ALL
    SELECT 'deleted_users_have_nothing_left', u.personal_organization_id, 'users/' || u.user_id,
        'deleted at ' || u.delete_time || ', but some of their data is left'
    FROM (SELECT * FROM users WHERE {range} AND delete_time IS NOT NULL) AS u
    WHERE u.email <> '' OR u.password_hash IS NOT NULL OR u.external_id <> '' OR u.metadata <> '{}'
        OR (SELECT count(*) FROM linked_identities AS l WHERE l.user_id = u.user_id) > 0
        OR (SELECT count(*) FROM sessions AS s WHERE s.user_id = u.user_id AND s.end_time IS NULL) > 0
        OR (SELECT count(*) FROM api_keys AS k WHERE k.user_id = u.user_id AND k.revoke_time IS NULL) > 0
        OR (SELECT count(*) FROM members AS m WHERE m.user_id = u.user_id) > 0
"""

# The counter holds the last number that was given.
_KEY_CHANGES: Final = """
    SELECT 'revisions_have_no_gaps', NULL, 'key_changes/' || c.revision,
        'the next number is ' || coalesce(
            (SELECT CAST(n.revision AS text) FROM key_changes AS n
            WHERE n.revision > c.revision ORDER BY n.revision LIMIT 1), 'missing')
    FROM (SELECT revision FROM key_changes WHERE {range}) AS c
    LEFT JOIN key_changes AS f ON f.revision = c.revision + 1
    LEFT JOIN revision_counter AS r ON r.revision = c.revision
    WHERE f.revision IS NULL AND r.revision IS NULL
"""

_COUNTER: Final = """
    SELECT 'revisions_have_no_gaps', NULL, 'revision_counter', 'it has ' || count(*) || ' rows'
    FROM revision_counter HAVING count(*) <> 1
"""

CHECKS: Final[Sequence[Walk]] = (
    Walk("organizations", (ORGANIZATION,), (_HAVE_OWNER, _ONE_MEMBER), _ORGANIZATIONS),
    Walk(
        "api_keys",
        (ORGANIZATION, Column("api_key_id", "uuid")),
        (_KEYS_STAY, _ONLY_DIGESTS, _REVOKED_NOT_USED, _USERS_OF_KEYS, _SERVICE_ACCOUNTS),
        _API_KEYS,
    ),
    Walk(
        "project_members",
        (ORGANIZATION, Column("project_id", "uuid"), Column("user_id", "uuid")),
        (_PROJECT_MEMBERS,),
        _MEMBERS_OF_PROJECTS,
    ),
    Walk("invitations", (ORGANIZATION, Column("invitation_id", "uuid")), (_INVITATIONS,), _OPEN_INVITATIONS),
    Walk(
        "users",
        (Column("personal_organization_id", "uuid"),),
        (_OWN_ORGANIZATION, _NOTHING_LEFT),
        _USERS,
        organization_column="personal_organization_id",
    ),
    Walk("key_changes", (Column("revision", "bigint"),), (_NO_GAPS,), _KEY_CHANGES, organization_column=""),
    Walk("revision_counter", (), (_NO_GAPS,), _COUNTER, organization_column=""),
    *AUDIT_CHECKS,
    *EVENT_CHECKS,
)
