"""Writes the next migration of a context, to be filled in: `make migration CONTEXT=billing NAME=add_invoices`.

With `--shards`, or `SHARDS=1`, it is one of the context's shards: it runs in the schema of each shard in turn.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from libs.common.migrate import CONTEXTS, has_shards, migrations_folder
from libs.common.sharding import SERVICES, shard_migrations_folder

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,60}")
_MIGRATION: Final = re.compile(r"([0-9]{4})_[a-z0-9_]+\.py")
_TEMPLATE: Final = '''"""{title}."""

from collections.abc import Sequence

from alembic import op

revision: str = "{revision}"
down_revision: str | None = {previous}
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        """
    )
'''


def next_migration(folder: Path, name: str) -> tuple[Path, str]:
    """Return the path and the text of the migration that follows the newest one in the folder.

    Raises:
        ValueError: the name is not one that a file can have here, or is taken.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name such as add_invoices: small letters, digits and underscores.")
    known = sorted(match[1] for path in folder.glob("*.py") if (match := _MIGRATION.fullmatch(path.name)))
    taken = [path.name for path in folder.glob(f"[0-9][0-9][0-9][0-9]_{name}.py")]
    if taken:
        raise ValueError(f"{taken[0]} has that name already.")
    revision = f"{int(known[-1]) + 1 if known else 1:04}"
    previous = f'"{known[-1]}"' if known else "None"
    title = name.replace("_", " ").capitalize()
    return folder / f"{revision}_{name}.py", _TEMPLATE.format(title=title, revision=revision, previous=previous)


def folder_of(context: str, *, shards: bool, services: Path = SERVICES) -> Path:
    """Return where a migration of the context's own schema is kept, or one of its shards.

    Raises:
        ValueError: the context has no shards.
    """
    if not shards:
        return migrations_folder(context, services)
    if not has_shards(context, services):
        raise ValueError(f"{context} has no shards.")
    return shard_migrations_folder(context, services)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("context", choices=CONTEXTS)
    parser.add_argument("name", help="what it does, such as add_invoices")
    parser.add_argument("--shards", action="store_true", help="for the tables of organizations, in each shard")
    arguments = parser.parse_args()
    try:
        path, text = next_migration(folder_of(arguments.context, shards=arguments.shards), arguments.name)
    except ValueError as error:
        sys.exit(str(error))
    path.write_text(text, encoding="utf-8")
    print(f"{path}: write the statements, and change services/{arguments.context}/tables.py to agree with them")


if __name__ == "__main__":
    main()
