"""Takes Scalar, which shows the page about the API, from its npm package into libs/cli/gateway/page/scalar.js.gz.

To take another version, change the constants below. Without arguments it downloads and writes; with `--check` it only
compares the committed file with the digest.
"""

import argparse
import base64
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@scalar/api-reference@1.72.1"
INTEGRITY = "XpEJ0rfc/cXbCrR+iC4kK0o/WwX2dTtGQbT049OlPKAHD6IMIFdTeGz2r+M27P2EDWKyUITRm/NzlP8z2pw/Ow=="
"""The SHA-512 of the package, as npm tells it."""
MEMBER = "package/dist/browser/standalone.js"
MEMBER_SHA256 = "bf091006bdc3af6067af77c2f534812e3e633e94a94e87138069f570f33b762c"
ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "libs" / "cli" / "gateway" / "page" / "scalar.js.gz"


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the digest, write nothing")
    if parser.parse_args().check:
        return 0 if is_the_package_s(gzip.decompress(TARGET.read_bytes())) else _fail(f"{TARGET.name} is not {PACKAGE}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S607
        (archive,) = Path(folder).iterdir()
        if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != INTEGRITY:
            return _fail(f"npm gave something else than {PACKAGE}")
        with tarfile.open(archive) as members:
            member = members.extractfile(MEMBER)
            script = member.read() if member else b""
    if not is_the_package_s(script):
        return _fail(f"{MEMBER} has another digest")
    TARGET.write_bytes(gzip.compress(script, 9, mtime=0))
    return 0


def is_the_package_s(script: bytes) -> bool:
    """Tells whether this is the script of the package."""
    return hashlib.sha256(script).hexdigest() == MEMBER_SHA256


def _fail(problem: str) -> int:
    print(problem, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
