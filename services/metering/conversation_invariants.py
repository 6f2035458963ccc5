"""The invariants of conversations, and the walks that check them.

A message is written with its conversation's sums and the counts of its month in one transaction, after its usage.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.ids import NIL
from libs.common.integrity.domain import ORGANIZATION, Check, Column, Invariant, Walk

_IN_ORDER: Final = Invariant(
    "messages_are_in_order", "The positions of a conversation's messages have a gap, or a message has no conversation."
)
_SUMS: Final = Invariant(
    "conversations_add_up", "The costs of a conversation differ from the sum of the costs of its messages."
)
_USAGE: Final = Invariant(
    "messages_have_their_usage",
    "A message has usage that is not recorded under its operation id, or another cost than that usage.",
)
_COUNTS: Final = Invariant(
    "message_counts_equal_messages", "The count of a user's messages in a month differs from the messages there are."
)

_CONVERSATIONS: Final = """
    SELECT 'messages_are_in_order', c.organization_id, 'conversations/' || c.conversation_id,
        format('it has %s messages up to position %s, and says %s', m.count, m.last, c.message_count)
    FROM (SELECT * FROM conversations WHERE {range}) AS c
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(max(position), 0) AS last FROM conversation_messages AS m
        WHERE m.organization_id = c.organization_id AND m.conversation_id = c.conversation_id
    ) AS m
    WHERE (m.count, m.last) <> (c.message_count, c.message_count)
    UNION ALL
    SELECT 'conversations_add_up', c.organization_id, 'conversations/' || c.conversation_id,
        format('it cost %s %s, and its messages %s', coalesce(off.value, '0'),
            coalesce(off.key, off.currency_code), coalesce(off.cost, 0))
    FROM (SELECT * FROM conversations WHERE {range}) AS c
    CROSS JOIN LATERAL (
        SELECT kept.key, kept.value, m.currency_code, m.cost FROM jsonb_each_text(c.costs) AS kept
        FULL JOIN (
            SELECT currency_code, sum(cost) AS cost FROM conversation_messages AS m
            WHERE m.organization_id = c.organization_id AND m.conversation_id = c.conversation_id AND cost IS NOT NULL
            GROUP BY currency_code
        ) AS m ON m.currency_code = kept.key
        WHERE CAST(kept.value AS numeric) IS DISTINCT FROM m.cost
    ) AS off
"""

# The operation is compared, and the usage where its month is still there.
_MESSAGES: Final = """
    SELECT 'messages_have_their_usage', m.organization_id, 'messages/' || m.operation_id,
        CASE WHEN o.operation_id IS NULL THEN 'its usage is not recorded'
            ELSE format('it cost %s, and its usage %s', coalesce(CAST(m.cost AS text), 'nothing known'),
                coalesce(CAST(r.cost AS text), 'nothing known')) END
    FROM (SELECT * FROM conversation_messages WHERE {range} AND usage_id IS NOT NULL) AS m
    LEFT JOIN usage_operations AS o ON o.organization_id = m.organization_id AND o.operation_id = m.operation_id
        AND o.usage_id = m.usage_id
    LEFT JOIN usage_records AS r
        ON r.organization_id = o.organization_id AND r.occur_time = o.occur_time AND r.usage_id = o.usage_id
    LEFT JOIN usage_pricings AS p ON p.organization_id = r.organization_id AND p.usage_id = r.usage_id
    WHERE o.operation_id IS NULL
        OR r.usage_id IS NOT NULL AND (m.cost, m.currency_code) IS DISTINCT FROM (r.cost, r.currency_code)
            AND (m.cost, m.currency_code) IS DISTINCT FROM (p.cost, p.currency_code)
    UNION ALL
    SELECT 'messages_are_in_order', m.organization_id, 'messages/' || m.operation_id, 'it has no conversation'
    FROM (SELECT * FROM conversation_messages WHERE {range}) AS m
    WHERE NOT EXISTS (
        SELECT FROM conversations AS c
        WHERE c.organization_id = m.organization_id AND c.conversation_id = m.conversation_id)
    UNION ALL
    SELECT 'message_counts_equal_messages', m.organization_id, 'messages/' || m.operation_id, 'it is not counted'
    FROM (SELECT * FROM conversation_messages WHERE {range}) AS m
    JOIN conversations AS c ON c.organization_id = m.organization_id AND c.conversation_id = m.conversation_id
    WHERE NOT EXISTS (
        SELECT FROM conversation_months AS n
        WHERE n.organization_id = m.organization_id AND n.user_id = coalesce(c.user_id, CAST('{nil}' AS uuid))
            AND n.month = date_trunc('month', m.create_time, 'UTC'))
""".replace("{nil}", NIL)

# A user's messages are found by the user's conversations.
_MONTHS: Final = """
    SELECT 'message_counts_equal_messages', n.organization_id, 'users/' || n.user_id,
        format('in the month from %s there are %s messages, and %s are counted', n.month, s.messages, n.messages)
    FROM (SELECT * FROM conversation_months WHERE {range}) AS n
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages, count(*) FILTER (WHERE m.role = 'USER') AS user_messages,
            count(*) FILTER (WHERE m.role = 'ASSISTANT') AS assistant_messages
        FROM conversations AS c
        JOIN conversation_messages AS m
            ON m.organization_id = c.organization_id AND m.conversation_id = c.conversation_id
        WHERE c.organization_id = n.organization_id
            AND (c.user_id = n.user_id OR c.user_id IS NULL AND n.user_id = CAST('{nil}' AS uuid))
            AND m.create_time >= n.month AND m.create_time < n.month + interval '1 month'
    ) AS s
    WHERE (s.messages, s.user_messages, s.assistant_messages) <> (n.messages, n.user_messages, n.assistant_messages)
""".replace("{nil}", NIL)

_BY_CONVERSATION: Final = (ORGANIZATION, Column("conversation_id", "text"))

CONVERSATIONS: Final[Sequence[Check]] = (
    Walk("conversations", _BY_CONVERSATION, (_IN_ORDER, _SUMS), _CONVERSATIONS, rows_min=1),
    Walk(
        "conversation_messages",
        (*_BY_CONVERSATION, Column("position", "bigint")),
        (_IN_ORDER, _USAGE, _COUNTS),
        _MESSAGES,
    ),
    Walk(
        "conversation_months",
        (ORGANIZATION, Column("user_id", "uuid"), Column("month", "timestamptz")),
        (_COUNTS,),
        _MONTHS,
        rows_min=1,
    ),
)
