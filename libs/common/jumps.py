"""The SQL that finds organizations by jumps along an index. By itself Postgres would read all rows of each."""


def jumps(*tables: str, after: str = "$1::uuid", limit: str, where: str = "true") -> str:
    """Return the beginning of a query, with a table `looked` of the next organizations, by id, that have rows.

    `tables` are those of which one must have a row for which `where` holds, each with an index that begins with the
    organization. `after` and `limit` are SQL.
    """

    def next_after(known: str) -> str:
        probes = (
            f"(SELECT organization_id FROM {table} WHERE organization_id > {known} AND {where}"  # noqa: S608 -- ours.
            " ORDER BY organization_id LIMIT 1)"
            for table in tables
        )
        return f"least({', '.join(probes)})"

    return f"""
WITH RECURSIVE found AS (
    SELECT {next_after(after)} AS organization_id
    UNION ALL
    SELECT {next_after("found.organization_id")} FROM found WHERE organization_id IS NOT NULL
), looked AS MATERIALIZED (
    SELECT organization_id FROM found WHERE organization_id IS NOT NULL LIMIT {limit}
)
"""  # noqa: S608 -- made of SQL of ours; values are bound.
