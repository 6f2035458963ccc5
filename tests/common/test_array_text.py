"""Arrays of texts that statements take as one text."""

import asyncpg

from libs.common.array_text import array_text, column_text
from tests.support.database import TestPostgres

TEXTS = [
    *("", " ", "NULL", "null", '"', '""', "\\", "\\\\", '\\"', "'", "''", ",", "{", "}", "{}", '","', "a,b"),
    *("line\nbreak", "tab\t", "E'\\x00'", "\u00e4\u20ac\U0001f600", "x" * 10_000, '{"a","b"}', "$1", "\\n"),
]


async def test_postgres_reads_the_same_texts(postgres: TestPostgres) -> None:
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        for texts in ([], ["plain", "0.0125"], TEXTS, *([text] for text in TEXTS)):
            assert await connection.fetchval("SELECT $1::text::text[]", array_text(texts)) == texts
    finally:
        await connection.close()


async def test_postgres_reads_the_same_column_with_nulls_and_none_of_a_column_of_nulls(postgres: TestPostgres) -> None:
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        for column in (TEXTS, [None, *TEXTS], [text for each in TEXTS for text in (each, None)], ["NULL", None]):
            assert await connection.fetchval("SELECT $1::text::text[]", column_text(column)) == column
        for length in range(3):
            assert await connection.fetchval("SELECT $1::text::text[]", column_text([None] * length)) == []
    finally:
        await connection.close()
