"""The invariants of identity. Each is one statement that returns the violations.

Each statement reads its whole table once. All run in one snapshot, on a connection with a longer statement timeout.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.audit.invariants import AUDIT_INVARIANT
from libs.common.integrity.domain import Invariant

_OF_ORGANIZATION: Final = "(CAST(:organization_id AS uuid) IS NULL OR {table}.organization_id = :organization_id)"
_O: Final = _OF_ORGANIZATION.format(table="o")
_K: Final = _OF_ORGANIZATION.format(table="k")
_I: Final = _OF_ORGANIZATION.format(table="i")
_W: Final = _OF_ORGANIZATION.format(table="w")
_U: Final = "(CAST(:organization_id AS uuid) IS NULL OR u.personal_organization_id = :organization_id)"
_COUNT_USERS: Final = f"SELECT count(*) FROM identity.users u WHERE {_U}"  # noqa: S608 -- constants of ours.
_COUNT_KEYS: Final = f"SELECT count(*) FROM identity.api_keys k WHERE {_K}"  # noqa: S608 -- constants of ours.

INVARIANTS: Final[Sequence[Invariant]] = (
    Invariant(
        "organizations_have_an_owner",
        "An organization that is not deleted has no owner.",
        f"""
        SELECT o.organization_id, 'organizations/' || o.organization_id AS resource, 'it has no owner' AS detail
        FROM identity.organizations o
        WHERE {_O} AND o.delete_time IS NULL AND NOT EXISTS (
            SELECT FROM identity.members m WHERE m.organization_id = o.organization_id AND m.role = 'owner')
        """,  # noqa: S608 -- constants of ours.
        f"SELECT count(*) FROM identity.organizations o WHERE {_O}",  # noqa: S608
    ),
    Invariant(
        "api_keys_stay_in_their_organization",
        "An API key names a project of another organization.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the project ' || k.project_id || ' is not in the organization' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND k.project_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM identity.projects p
            WHERE p.organization_id = k.organization_id AND p.project_id = k.project_id)
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "api_keys_hold_only_digests",
        "An API key is stored as something other than a digest of 32 bytes and at most 16 characters of the secret.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the stored digest or hint has the wrong length' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND (octet_length(k.digest) <> 32 OR k.pepper_version < 1
            OR char_length(k.secret_prefix) > 12 OR char_length(k.secret_suffix) > 4
            OR (k.imported_prefix IS NULL AND char_length(k.secret_prefix || k.secret_suffix) < 16))
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "revoked_api_keys_are_not_used",
        "An API key was used more than ten seconds after it was revoked.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'revoked at ' || k.revoke_time || ' and used at ' || k.last_used_time AS detail
        FROM identity.api_keys k
        WHERE {_K} AND k.last_used_time > k.revoke_time + interval '10 s'
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "users_of_api_keys_are_members",
        "An API key that is not revoked belongs to a user who is no member of its organization.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the user ' || k.user_id || ' is no member' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND k.revoke_time IS NULL AND k.user_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM identity.members m WHERE m.organization_id = k.organization_id AND m.user_id = k.user_id)
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "personal_organizations_have_one_member",
        "A personal organization has more than one member.",
        f"""
        SELECT o.organization_id, 'organizations/' || o.organization_id AS resource,
               'it is personal and has ' || count(*) || ' members' AS detail
        FROM identity.organizations o JOIN identity.members m ON m.organization_id = o.organization_id
        WHERE {_O} AND o.personal AND o.delete_time IS NULL
        GROUP BY o.organization_id HAVING count(*) > 1
        """,  # noqa: S608
        f"SELECT count(*) FROM identity.organizations o WHERE {_O} AND o.personal",  # noqa: S608
    ),
    Invariant(
        "project_members_are_members",
        "A member of a project is no member of its organization, or the project is deleted.",
        f"""
        SELECT w.organization_id, 'projects/' || w.project_id || '/members/' || w.user_id AS resource,
               'the user is no member of the organization, or the project is gone' AS detail
        FROM identity.project_members w
        WHERE {_W} AND (NOT EXISTS (
            SELECT FROM identity.members m WHERE m.organization_id = w.organization_id AND m.user_id = w.user_id
        ) OR NOT EXISTS (
            SELECT FROM identity.projects p WHERE p.organization_id = w.organization_id
                AND p.project_id = w.project_id AND p.delete_time IS NULL))
        """,  # noqa: S608
        f"SELECT count(*) FROM identity.project_members w WHERE {_W}",  # noqa: S608
    ),
    Invariant(
        "open_invitations_lead_somewhere",
        "An open invitation is for an organization that is deleted or personal.",
        f"""
        SELECT i.organization_id, 'invitations/' || i.invitation_id AS resource,
               'its organization is deleted or personal' AS detail
        FROM identity.invitations i JOIN identity.organizations o ON o.organization_id = i.organization_id
        WHERE {_I} AND i.accept_time IS NULL AND i.revoke_time IS NULL AND (o.delete_time IS NOT NULL OR o.personal)
        """,  # noqa: S608
        f"SELECT count(*) FROM identity.invitations i WHERE {_I}",  # noqa: S608
    ),
    Invariant(
        "service_accounts_of_api_keys_are_live",
        "An API key that is not revoked belongs to a deleted or missing service account.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the service account ' || k.service_account_id || ' is deleted or missing' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND k.revoke_time IS NULL AND k.service_account_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM identity.service_accounts a WHERE a.organization_id = k.organization_id
                AND a.service_account_id = k.service_account_id AND a.delete_time IS NULL)
        """,  # noqa: S608
        f"SELECT count(*) FROM identity.api_keys k WHERE {_K} AND k.service_account_id IS NOT NULL",  # noqa: S608
    ),
    Invariant(
        "users_own_their_organization",
        "A user who is not deleted does not own their personal organization.",
        f"""
        SELECT u.personal_organization_id AS organization_id, 'users/' || u.user_id AS resource,
               'the organization is deleted, not personal, or not theirs' AS detail
        FROM identity.users u
        WHERE {_U} AND u.delete_time IS NULL AND NOT EXISTS (
            SELECT FROM identity.organizations o
            JOIN identity.members m ON m.organization_id = o.organization_id AND m.user_id = u.user_id
            WHERE o.organization_id = u.personal_organization_id AND o.personal AND o.delete_time IS NULL
                AND m.role = 'owner')
        """,  # noqa: S608
        _COUNT_USERS,
    ),
    Invariant(
        "deleted_users_have_nothing_left",
        "A deleted user still has personal data, a sign-in method, an open session, a working API key or a membership.",
        f"""
        SELECT u.personal_organization_id AS organization_id, 'users/' || u.user_id AS resource,
               'deleted at ' || u.delete_time || ', but some of their data is left' AS detail
        FROM identity.users u
        WHERE {_U} AND u.delete_time IS NOT NULL AND (
            u.email <> '' OR u.password_hash IS NOT NULL OR u.external_id <> '' OR u.metadata <> '{{}}'
            OR EXISTS (SELECT FROM identity.linked_identities l WHERE l.user_id = u.user_id)
            OR EXISTS (SELECT FROM identity.sessions s WHERE s.user_id = u.user_id AND s.end_time IS NULL)
            OR EXISTS (SELECT FROM identity.api_keys k WHERE k.user_id = u.user_id AND k.revoke_time IS NULL)
            OR EXISTS (SELECT FROM identity.members m WHERE m.user_id = u.user_id))
        """,  # noqa: S608
        _COUNT_USERS,
    ),
    Invariant(
        "revisions_have_no_gaps",
        "The numbers of the stored key changes have a gap, or the revision counter has not exactly one row.",
        """
        SELECT NULL AS organization_id, 'key_changes/' || revision AS resource,
               'the next number is ' || coalesce(CAST(next AS text), 'missing') AS detail
        FROM (
            SELECT revision, lead(revision) OVER (ORDER BY revision) AS next FROM (
                SELECT revision FROM identity.key_changes
                UNION ALL SELECT revision + 1 FROM identity.revision_counter) numbered
        ) pairs
        WHERE CAST(:organization_id AS uuid) IS NULL AND next <> revision + 1
        UNION ALL
        SELECT NULL, 'revision_counter', 'it has ' || count(*) || ' rows'
        FROM identity.revision_counter WHERE CAST(:organization_id AS uuid) IS NULL HAVING count(*) <> 1
            AND CAST(:organization_id AS uuid) IS NULL
        """,
        "SELECT count(*) FROM identity.key_changes WHERE CAST(:organization_id AS uuid) IS NULL",
    ),
    AUDIT_INVARIANT,
)
