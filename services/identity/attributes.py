"""What the platform keeps with a resource: metadata, and its own id for it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast

from libs.common.audit.recording import Changed, differences
from libs.common.call import is_operator
from libs.common.errors import PermissionDenied


class HasAttributes(Protocol):
    """A request that names them, such as one for a new project."""

    external_id: str

    @property
    def metadata(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Attributes:
    """The values as they are; `external_id` is empty where there is none."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    external_id: str = ""

    def changed(self, change: "AttributesChange") -> "Attributes":
        """Return the values after a change."""
        after = self if change.metadata is None else replace(self, metadata=change.metadata)
        return after if change.external_id is None else replace(after, external_id=change.external_id)

    def as_body(self) -> dict[str, str | Mapping[str, str]]:
        """Return what is compared when a request id is sent again.

        Left out where empty, so that what was sent before these fields existed can still be repeated.
        """
        both: dict[str, str | Mapping[str, str]] = {"metadata": self.metadata, "external_id": self.external_id}
        return {name: value for name, value in both.items() if value}


@dataclass(frozen=True, slots=True)
class AttributesChange:
    """New values; None leaves a value as it is."""

    metadata: Mapping[str, str] | None = None
    external_id: str | None = None


ATTRIBUTES: Final = ("metadata", "external_id")
"""Their names in an update's mask."""


def read_attributes(request: HasAttributes) -> Attributes:
    """Return what a request for a new resource says."""
    return Attributes(dict(request.metadata), request.external_id)


def read_attributes_change(request: HasAttributes, paths: Collection[str]) -> AttributesChange:
    """Return what an update gives those of them that its mask names."""
    return AttributesChange(
        metadata=dict(request.metadata) if "metadata" in paths else None,
        external_id=request.external_id if "external_id" in paths else None,
    )


def attributes_of(row: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a row, with `attributes` in place of the two columns."""
    fields = dict(row)
    metadata, external_id = fields.pop("metadata"), fields.pop("external_id")
    return {**fields, "attributes": Attributes(cast("dict[str, str]", metadata), str(external_id))}


def attribute_differences(before: Attributes, after: Attributes) -> tuple[Changed, ...]:
    """Return what the trail is told: both external ids, and of the metadata only that it changed."""
    metadata = () if before.metadata == after.metadata else (Changed("metadata"),)
    ids = differences({"external_id": before.external_id or None}, {"external_id": after.external_id or None})
    return (*metadata, *ids)


def require_operator_for(value: object) -> None:
    """Let only operators set a value that names a resource on the whole platform.

    Anybody else could find out which external ids are taken, or take another's place.

    Raises:
        PermissionDenied: there is a value, and the caller is no operator.
    """
    if value is not None and not is_operator():
        raise PermissionDenied
