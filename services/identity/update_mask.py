"""What every update asks of its mask."""

from collections.abc import Collection

from libs.common.errors import FieldViolation


def mask_violations(paths: Collection[str], updatable: Collection[str]) -> list[FieldViolation]:
    """Return what is wrong with an update's mask: it must name something, and nothing that cannot change."""
    if paths and set(paths) <= set(updatable):
        return []
    return [FieldViolation("update_mask", f"must name fields out of {', '.join(updatable)}")]
