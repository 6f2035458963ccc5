"""The migrations of shards, as their files say."""

from libs.cli.installation.environment import repository


def shard_migrations(context: str) -> list[str]:
    """Return the names of the migrations of a context's shards, in order, such as `0001_initial`."""
    folder = repository() / "services" / context / "migrations" / "shards"
    return sorted(file.stem for file in folder.glob("[0-9]*.py"))


def newest_shard_version(context: str) -> str:
    return shard_migrations(context)[-1].partition("_")[0]
