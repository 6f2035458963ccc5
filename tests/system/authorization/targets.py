"""The resources on which a call is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Target:
    """An organization, or a project of it, and the ids of the resources in it."""

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
        """Return the id for a field of this name, or an empty string if there is none."""
        own = {
            "organization_id": self.organization_id,
            **dict.fromkeys(("project_id", "source_project_id"), self.project_id),
            **dict.fromkeys(("user_id", "owner_user_id"), self.user_id),
        }
        return own.get(field_name) or self.ids.get(field_name, "")

    def in_capitals(self) -> "Target":
        """Return the same place with its ids in capitals, except operation ids, which are case-sensitive."""
        ids = {name: id_.upper() for name, id_ in self.ids.items() if "operation" not in name}
        own = {name: self.value(name).upper() for name in ("organization_id", "project_id", "user_id")}
        return self.with_ids(**ids, **own)

    def with_ids(self, **ids: str) -> "Target":
        """Return the same place with some ids replaced."""
        own = {name: ids.pop(name) for name in ("organization_id", "project_id", "user_id") if name in ids}
        return replace(self, ids={**self.ids, **ids}, **own)  # type: ignore[arg-type]
