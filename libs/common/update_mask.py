"""The check of update masks."""

from collections.abc import Collection

from libs.common.errors import FieldViolation


def mask_violations(paths: Collection[str], updatable: Collection[str]) -> list[FieldViolation]:
    """Return what is wrong with an update mask: it must name at least one field, and only fields that can change."""
    if paths and set(paths) <= set(updatable):
        return []
    return [FieldViolation("update_mask", f"must name fields out of {', '.join(updatable)}")]
