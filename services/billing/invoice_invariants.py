"""The invariants of invoices, and the walks that check them; see `invariants`."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_FOLLOW: Final = Invariant(
    "invoices_follow_each_other",
    "An account's invoice does not begin where the one before it ends, or voided movements are on no invoice or two.",
)
_TOTALS: Final = Invariant(
    "invoices_equal_the_ledger",
    "An invoice's subtotal differs from its lines, or from what the movements that it covers took from the account.",
)
_CREDITED: Final = Invariant(
    "credit_notes_stay_within_invoices",
    "What was credited of an invoice differs from its credit notes, or a voided invoice was not credited as a whole.",
)
_NUMBERED: Final = Invariant("invoices_have_their_numbers", "A document's number was given to another, or to none.")
_ISSUED: Final = Invariant(
    "due_invoices_are_issued", "An invoice that is to be issued by itself could not be, in five attempts or more."
)
_NUMBERS: Final = Invariant(
    "invoice_numbers_have_no_gaps", "A counter of invoice numbers differs from how many were given, or from the last."
)

# The invoice before and the credit notes are found by the unique position and by the index on what they correct. The
# movements of an invoice's step are a range of the account's sequence; each is in the step of one invoice, so all steps
# of an account read its movements once.
_INVOICES: Final = """
    WITH i AS MATERIALIZED (
        SELECT * FROM invoices WHERE {range}
            AND (CAST(:since_time AS timestamptz) IS NULL OR state_time >= CAST(:since_time AS timestamptz))
    )
    SELECT 'invoices_follow_each_other', i.organization_id, 'invoices/' || i.invoice_id,
        'it covers what is after ' || i.after_sequence || ' and from '
            || coalesce(CAST(i.from_time AS text), 'the first')
            || ', but the one before ends at ' || coalesce(b.to_sequence, 0) || ' and '
            || coalesce(CAST(b.to_time AS text), 'the first')
    FROM i
    LEFT JOIN invoices AS b
        ON b.organization_id = i.organization_id AND b.account_id = i.account_id AND b.position = i.position - 1
    WHERE i.position IS NOT NULL AND (
        (i.position = 1) <> (b.invoice_id IS NULL) OR i.after_sequence <> coalesce(b.to_sequence, 0)
        OR i.from_time IS DISTINCT FROM b.to_time OR i.to_sequence < i.after_sequence OR i.to_time < i.from_time
        OR i.first_sequence <> coalesce(b.rest_from, i.after_sequence + 1))
    UNION ALL
    SELECT 'invoices_follow_each_other', i.organization_id, 'invoices/' || i.invoice_id,
        'it covers the movements of ' || r.invoice_id || ' again, which is '
            || coalesce(v.state || ' and covered by ' || coalesce(CAST(v.replaced_by AS text), 'none'), 'not there')
    FROM i
    CROSS JOIN LATERAL unnest(i.replaces) AS r (invoice_id)
    LEFT JOIN invoices AS v ON v.organization_id = i.organization_id AND v.invoice_id = r.invoice_id
    WHERE v.state IS DISTINCT FROM 'VOID' OR v.replaced_by IS NULL
        OR v.replaced_by <> i.invoice_id AND NOT v.replaced_by = ANY (i.replaces)
    UNION ALL
    SELECT 'invoices_equal_the_ledger', i.organization_id, 'invoices/' || i.invoice_id,
        'its subtotal is ' || i.subtotal || ' and its lines add up to ' || l.amount
    FROM i
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CAST(line ->> 'amount' AS numeric)), 0) AS amount
        FROM jsonb_array_elements(i.document -> 'lines') AS e (line)
    ) AS l
    WHERE i.subtotal <> l.amount
    UNION ALL
    SELECT 'invoices_equal_the_ledger', i.organization_id, 'invoices/' || i.invoice_id,
        'its step has ' || i.step_amount || ' and leaves ' || i.rest_amount || ' to later ones, but the movements have '
            || m.amount || ' and the one before has left ' || coalesce(b.rest_amount, 0)
    FROM i
    LEFT JOIN invoices AS b
        ON b.organization_id = i.organization_id AND b.account_id = i.account_id AND b.position = i.position - 1
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END), 0) AS amount
        FROM transactions AS t
        WHERE t.organization_id = i.organization_id AND t.account_id = i.account_id
            AND t.sequence > i.after_sequence AND t.sequence <= i.to_sequence
            AND t.system_account IN ('REVENUE', 'ADJUSTMENTS')
            AND (t.direction = 'DEBIT' OR (t.metadata ->> 'credit_note_id') IS NULL)
    ) AS m
    WHERE i.position IS NOT NULL AND i.step_amount <> m.amount + coalesce(b.rest_amount, 0) - i.rest_amount
    UNION ALL
    SELECT 'invoices_equal_the_ledger', i.organization_id, 'invoices/' || i.invoice_id,
        'its subtotal is ' || i.subtotal || ', but its step has ' || i.step_amount || ' and what it covers again '
            || r.amount
    FROM i
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(v.step_amount), 0) AS amount FROM invoices AS v
        WHERE v.organization_id = i.organization_id AND v.invoice_id = ANY (i.replaces)
    ) AS r
    WHERE i.position IS NOT NULL AND i.subtotal <> i.step_amount + r.amount
    UNION ALL
    SELECT 'credit_notes_stay_within_invoices', i.organization_id, 'invoices/' || i.invoice_id,
        'it is ' || i.state || ' with ' || i.subtotal || ' and ' || i.tax || ' tax, of which ' || i.credited || ' and '
            || i.credited_tax || ' is credited, but its credit notes have ' || n.subtotal || ' and ' || n.tax
    FROM i
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(c.subtotal), 0) AS subtotal, coalesce(sum(c.tax), 0) AS tax FROM invoices AS c
        WHERE c.organization_id = i.organization_id AND c.corrects_invoice_id = i.invoice_id
    ) AS n
    WHERE i.kind = 'INVOICE' AND ((i.credited, i.credited_tax) <> (n.subtotal, n.tax)
        OR i.state = 'VOID' AND (i.credited, i.credited_tax) <> (i.subtotal, i.tax))
    UNION ALL
    SELECT 'credit_notes_stay_within_invoices', i.organization_id, 'invoices/' || i.invoice_id,
        'the notes credit ' || c.amount || ' of line ' || c.line || ', which has '
            || coalesce(o.line ->> 'amount', 'none')
    FROM i
    CROSS JOIN LATERAL (
        SELECT CAST(e.line ->> 'corrects_line' AS int) AS line, sum(CAST(e.line ->> 'amount' AS numeric)) AS amount
        FROM invoices AS n CROSS JOIN LATERAL jsonb_array_elements(n.document -> 'lines') AS e (line)
        WHERE n.organization_id = i.organization_id AND n.corrects_invoice_id = i.invoice_id
        GROUP BY 1
    ) AS c
    LEFT JOIN LATERAL (SELECT i.document -> 'lines' -> (c.line - 1) AS line) AS o ON true
    WHERE o.line IS NULL OR abs(c.amount) > abs(CAST(o.line ->> 'amount' AS numeric))
        OR sign(c.amount) <> sign(CAST(o.line ->> 'amount' AS numeric)) AND c.amount <> 0
    UNION ALL
    SELECT 'invoices_have_their_numbers', i.organization_id, 'invoices/' || i.invoice_id,
        'its number ' || i.number || ' was given to ' || coalesce(CAST(n.invoice_id AS text), 'none')
    FROM i LEFT JOIN invoice_numbers AS n ON n.number = i.number
    WHERE (n.organization_id, n.invoice_id) IS DISTINCT FROM (i.organization_id, i.invoice_id)
"""

_DUES: Final = """
    SELECT 'due_invoices_are_issued', d.organization_id, 'accounts/' || d.account_id,
        'its invoice until ' || d.end_time || ' has failed ' || d.attempts || ' times: ' || d.error
    FROM invoice_dues AS d WHERE {range} AND d.attempts >= 5
"""

# The numbers of a prefix are counted by their unique index.
_COUNTERS: Final = """
    SELECT 'invoice_numbers_have_no_gaps', CAST(NULL AS uuid), 'invoice-counters/' || c.prefix,
        'it has come to ' || c.last_count || ', with ' || n.given || ' numbers from ' || coalesce(n.first, 0) || ' to '
            || coalesce(n.last, 0)
    FROM (SELECT * FROM invoice_counters WHERE {range}) AS c
    CROSS JOIN LATERAL (
        SELECT count(*) AS given, min(count) AS first, max(count) AS last FROM invoice_numbers WHERE prefix = c.prefix
    ) AS n
    WHERE n.given <> c.last_count OR n.last IS DISTINCT FROM nullif(c.last_count, 0) OR coalesce(n.first, 1) <> 1
"""

INVOICE_CHECKS: Final[Sequence[Check]] = (
    Walk(
        "invoices",
        (ORGANIZATION, Column("invoice_id", "uuid")),
        (_FOLLOW, _TOTALS, _CREDITED, _NUMBERED),
        _INVOICES,
        rows_min=1,
    ),
    Walk(
        "invoice_dues",
        (ORGANIZATION, Column("account_id", "uuid"), Column("end_time", "timestamptz")),
        (_ISSUED,),
        _DUES,
    ),
)
INVOICE_PLATFORM_CHECKS: Final[Sequence[Check]] = (
    Walk("invoice_counters", (Column("prefix", "text"),), (_NUMBERS,), _COUNTERS, organization_column=""),
)
