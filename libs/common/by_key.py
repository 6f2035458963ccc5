"""How a statement finds one row by its primary key, also with a plan that was made while the table was small."""


def by_key(organization_id: str, column: str, value: str) -> str:
    """Return the condition for the row with the primary key (organization_id, `column`), as a whole WHERE.

    While a table is small, or was when it was analyzed, any index that begins with the organization costs as much as
    the key, and of these Postgres takes the one that was made last. It reads all rows of an organization then, until
    the table is analyzed again. Only the key has this order without sorting.

    EXISTS ignores an order: there, the condition belongs into a subquery of it.
    """
    return f"organization_id = {organization_id} AND {column} BETWEEN {value} AND {value} ORDER BY {column} LIMIT 1"
