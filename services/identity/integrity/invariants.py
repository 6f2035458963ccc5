"""The invariants of identity, each as one statement whose rows are its violations.

Each reads its whole table once. They run in one snapshot, on a connection that may take its time.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.audit.invariants import AUDIT_INVARIANT
from libs.common.integrity.model import Invariant

_OF_ORGANIZATION: Final = "(CAST(:organization_id AS uuid) IS NULL OR {table}.organization_id = :organization_id)"
_O: Final = _OF_ORGANIZATION.format(table="o")
_K: Final = _OF_ORGANIZATION.format(table="k")
_COUNT_KEYS: Final = f"SELECT count(*) FROM identity.api_keys k WHERE {_K}"  # noqa: S608 -- constants of ours.

INVARIANTS: Final[Sequence[Invariant]] = (
    Invariant(
        "organizations_have_an_owner",
        "Every organization that is not deleted has a member with the role of owner.",
        f"""
        SELECT o.organization_id, 'organizations/' || o.organization_id AS resource, 'no member owns it' AS detail
        FROM identity.organizations o
        WHERE {_O} AND o.delete_time IS NULL AND NOT EXISTS (
            SELECT FROM identity.members m WHERE m.organization_id = o.organization_id AND m.role = 'owner')
        """,  # noqa: S608 -- constants of ours.
        f"SELECT count(*) FROM identity.organizations o WHERE {_O}",  # noqa: S608
    ),
    Invariant(
        "api_keys_stay_in_their_organization",
        "The project of a key belongs to the organization of the key.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the project ' || k.project_id || ' is none of the organization' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND k.project_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM identity.projects p
            WHERE p.organization_id = k.organization_id AND p.project_id = k.project_id)
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "api_keys_hold_only_digests",
        "Of a secret only a digest of 32 bytes, the version of its pepper and 16 characters are stored.",
        f"""
        SELECT k.organization_id, 'api_keys/' || k.api_key_id AS resource,
               'the stored digest or hint has the wrong length' AS detail
        FROM identity.api_keys k
        WHERE {_K} AND (octet_length(k.digest) <> 32 OR k.pepper_version < 1
            OR char_length(k.secret_prefix) <> 12 OR char_length(k.secret_suffix) <> 4)
        """,  # noqa: S608
        _COUNT_KEYS,
    ),
    Invariant(
        "revoked_api_keys_are_not_used",
        "No key was last used more than ten seconds after it was revoked.",
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
        "The user of a key that is not revoked belongs to the organization of the key.",
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
        "revisions_have_no_gaps",
        "The changes that are kept are numbered without gaps up to the counter, and the counter is one row.",
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
