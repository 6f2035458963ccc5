"""Adds the stubs of the contract to the wheel. They stand in `protos/`, outside of this folder."""

from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("tollhouse", "buf")


class Stubs(BuildHookInterface[BuilderConfig]):
    """An editable installation has the folder itself on its path, and needs no copy."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map each package to its place: at the top of a wheel, in `protos/` of a source archive."""
        if version == "editable":
            return
        folder = Path(self.root) / "protos"
        if not folder.is_dir():
            folder = Path(self.root).parents[1] / "protos"
        prefix = "protos/" if self.target_name == "sdist" else ""
        build_data["force_include"].update({str(folder / name): prefix + name for name in PACKAGES})
