"""Configurations: a bounded map of keys to texts, changed key by key; each change increments the version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.errors import FieldViolation, InvalidArgument
from services.identity.errors import ConfigurationFull


@dataclass(frozen=True, slots=True)
class Configuration:
    """The entries at one version."""

    entries: Mapping[str, str]
    version: int = 0
    """Zero while nothing has ever been configured."""
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        return str(self.version)


@dataclass(frozen=True, slots=True)
class ConfigurationChange:
    """Which entries to write, and which to remove."""

    entries: Mapping[str, str]
    removed_keys: Sequence[str]

    @property
    def keys(self) -> list[str]:
        return sorted({*self.entries, *self.removed_keys})


def change_of(entries: Mapping[str, str], removed_keys: Sequence[str]) -> ConfigurationChange:
    """Return what is to be written and removed.

    Raises:
        InvalidArgument: it is nothing at all, or the same key is to be written and removed.
    """
    if not entries and not removed_keys:
        raise InvalidArgument([FieldViolation("entries", "must name what to write, unless something is removed")])
    both = sorted(set(entries).intersection(removed_keys))
    if both:
        raise InvalidArgument([FieldViolation("removed_keys", f"must not name what is written: {', '.join(both)}")])
    return ConfigurationChange(dict(entries), tuple(removed_keys))


def changed(configuration: Configuration, change: ConfigurationChange, *, keys_max: int) -> Configuration:
    """Return the configuration after the change; the same one where the change makes no difference.

    Raises:
        ConfigurationFull: it would have more keys than it may.
    """
    kept = {key: value for key, value in configuration.entries.items() if key not in change.removed_keys}
    entries = {**kept, **change.entries}
    if entries == configuration.entries:
        return configuration
    if len(entries) > keys_max:
        raise ConfigurationFull(keys=len(entries), keys_max=keys_max)
    return replace(configuration, entries=entries, version=configuration.version + 1)
