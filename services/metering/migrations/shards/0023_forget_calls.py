"""ForgetUser empties what authorizations and the parts of recorded calls keep of a user, too.

The request of a part stays while the call is not recorded: it is recorded if no last settlement comes. Until then the
operation has an empty fingerprint. The owner alone may change rows of parts, so this is a function of the owner's.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FORGET = """
CREATE FUNCTION forget_user_in_calls(forgotten uuid, after_organization uuid, after_operation text, rows_max integer,
    OUT emptied bigint, OUT last_organization uuid, OUT last_operation text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    SELECT organization_id, operation_id INTO last_organization, last_operation FROM authorizations
    WHERE (organization_id, operation_id) > (after_organization, after_operation)
    ORDER BY organization_id, operation_id OFFSET rows_max - 1 LIMIT 1;
    WITH found AS MATERIALIZED (
        SELECT organization_id, operation_id, labels FROM authorizations
        WHERE (organization_id, operation_id) > (after_organization, after_operation)
            AND (last_organization IS NULL OR (organization_id, operation_id) <= (last_organization, last_operation))
            AND user_id = forgotten
    ), parts AS (
        UPDATE settlement_parts AS s SET request = '' FROM found AS f
        WHERE s.organization_id = ANY (ARRAY[f.organization_id]) AND s.operation_id = f.operation_id
            AND s.request <> '' AND EXISTS (
                SELECT FROM usage_operations AS o
                WHERE o.organization_id = f.organization_id AND o.operation_id = f.operation_id
                    AND o.fingerprint <> ''
            )
        RETURNING s.organization_id, s.operation_id
    ), labelled AS (
        UPDATE authorizations AS a SET labels = NULL FROM found AS f
        WHERE a.organization_id = ANY (ARRAY[f.organization_id]) AND a.operation_id = f.operation_id
            AND f.labels IS NOT NULL
        RETURNING a.organization_id, a.operation_id
    )
    SELECT count(*) INTO emptied FROM (SELECT * FROM parts UNION SELECT * FROM labelled) AS calls;
END $$
"""


def upgrade() -> None:
    op.execute(_FORGET)
    op.execute("REVOKE ALL ON FUNCTION forget_user_in_calls(uuid, uuid, text, integer) FROM PUBLIC")
