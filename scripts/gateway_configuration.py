"""Writes the configuration of the REST gateway for a container: deploy/envoy/envoy.yaml and its descriptor set.

With `--check` it changes nothing and fails if a file differs from what it would write.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import yaml

from libs.cli.gateway.bootstrap import Gateway, bootstrap
from libs.cli.gateway.descriptors import descriptor_set

FOLDER: Final = Path(__file__).resolve().parent.parent / "deploy" / "envoy"
# Where docker-compose.yml puts the folder, and where the services listen in it.
MOUNTED: Final = Path("/etc/envoy")
PORT: Final = 8080
TARGETS: Final = {context: (context, 8080) for context in ("identity", "billing", "metering")}
_HEAD: Final = """\
# Envoy's configuration for REST before the three services. README.md beside it says how to run it and what to change.
# Written from the descriptors by `make protos`: change libs/cli/gateway, or a copy of this file.
"""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that they can be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.rstrip("\n") else None)


_Dumper.add_representer(str, _text)


def files() -> dict[Path, bytes]:
    """Return what the folder must hold."""
    gateway = Gateway(
        targets=TARGETS,
        descriptors_file=MOUNTED / "descriptors.binpb",
        host="0.0.0.0",  # noqa: S104 -- in a container.
        port=PORT,
    )
    written = yaml.dump(bootstrap(gateway), Dumper=_Dumper, sort_keys=False, width=120)
    return {FOLDER / "envoy.yaml": (_HEAD + written).encode(), FOLDER / "descriptors.binpb": descriptor_set()}


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check = parser.parse_args().check
    stale = {path: content for path, content in files().items() if not path.exists() or path.read_bytes() != content}
    for path, content in stale.items():
        if check:
            print(f"{path.relative_to(FOLDER.parents[1])} is stale: run `make protos`", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"wrote {path.relative_to(FOLDER.parents[1])}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
