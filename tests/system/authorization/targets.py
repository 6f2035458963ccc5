"""On whose things a call is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Target:
    """A place in an organization, and the ids of what is there."""

    name: str
    organization_id: str
    project_id: str = ""
    user_id: str = ""
    """The user to whom everything there belongs."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Further ids by the name of the field that takes them."""
    missing: frozenset[str] = frozenset()
    """The sorts of resource that are not there for anybody."""
    optional: bool = False
    """Whether the place leaves something out that a request may have to name."""

    def __str__(self) -> str:
        return self.name

    def value(self, field_name: str) -> str:
        """Return the id that a field of this name takes; empty for none."""
        own = {
            "organization_id": self.organization_id,
            **dict.fromkeys(("project_id", "source_project_id"), self.project_id),
            **dict.fromkeys(("user_id", "owner_user_id"), self.user_id),
        }
        return own.get(field_name) or self.ids.get(field_name, "")

    def in_capitals(self) -> "Target":
        """Return the same place, its ids written in capitals; operations are named by their callers, to the letter."""
        ids = {name: id_.upper() for name, id_ in self.ids.items() if "operation" not in name}
        own = {name: self.value(name).upper() for name in ("organization_id", "project_id", "user_id")}
        return self.with_ids(**ids, **own)

    def with_ids(self, **ids: str) -> "Target":
        """Return the same place with other things in it."""
        own = {name: ids.pop(name) for name in ("organization_id", "project_id", "user_id") if name in ids}
        return replace(self, ids={**self.ids, **ids}, **own)  # type: ignore[arg-type]
