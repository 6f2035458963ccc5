"""Regenerates the Python modules of the contract, each beside its proto file, and the contract as a descriptor set.

Without arguments it writes them. With `--check` it changes nothing and fails if a committed module is missing, stale or
has no proto. With `--release` it saves the contract that later changes must not break. The versions of the generators
come from requirements.lock, so the result is the same on every machine.
"""

import argparse
import difflib
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
RELEASED = PROTOS / "released.binpb"
PUBLISHED = PROTOS / "tollhouse.binpb"

# Modules are generated for these packages only. Those of google come from the googleapis-common-protos distribution,
# because registering the same file twice would break the descriptor pool.
GENERATED_PACKAGES = ("tollhouse", "buf", "envoy")
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed modules, write nothing")
    parser.add_argument(
        "--release", action="store_true", help="save the contract as the promised one, generate nothing"
    )
    arguments = parser.parse_args()
    if arguments.release:
        RELEASED.write_bytes(descriptor_set(comments=False))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generated = generate(Path(folder))
    problems = stale_copies() + (compare(generated) if arguments.check else write(generated))
    if not arguments.check:
        PUBLISHED.write_bytes(descriptor_set())
    elif not PUBLISHED.exists() or PUBLISHED.read_bytes() != descriptor_set():
        problems.append(f"{PUBLISHED.relative_to(ROOT)} is stale: run `make protos`")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def proto_files() -> list[str]:
    """Returns the proto files to generate modules from, relative to the import root, in a stable order."""
    return sorted(
        path.relative_to(PROTOS).as_posix()
        for package in GENERATED_PACKAGES
        for path in (PROTOS / package).rglob("*.proto")
    )


def published_files() -> list[str]:
    """Returns the proto files of the descriptor set: the above and the details of refusals, which no other imports."""
    return [*proto_files(), "google/rpc/error_details.proto"]


def include_folders() -> list[Path]:
    """Returns the import folders: our protos, google.api of its wheel, the well-known types of protoc."""
    spec = importlib.util.find_spec("grpc_tools")
    if spec is None or spec.origin is None:
        raise SystemExit("grpcio-tools is not installed: run this with .venv/bin/python")
    return [PROTOS, googleapis_folder(), Path(spec.origin).parent / "_proto"]


def googleapis_folder() -> Path:
    """Returns the folder of the installed googleapis-common-protos that holds `google/`."""
    return Path(str(distribution("googleapis-common-protos").locate_file("")))


def run_protoc(files: list[str], *arguments: str) -> None:
    """Runs protoc on proto files, with the plugins installed beside this interpreter."""
    includes = [f"-I{folder}" for folder in include_folders()]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments, *files]
    finished = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"protoc failed:\n{finished.stderr}")


def descriptor_set(*, comments: bool = True) -> bytes:
    """Returns the serialized FileDescriptorSet of the whole contract, its imports included."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "contract.binpb"
        included = ["--include_imports", *(["--include_source_info"] if comments else [])]
        run_protoc(published_files(), *included, f"--descriptor_set_out={target}")
        return target.read_bytes()


def generate(folder: Path) -> dict[Path, bytes]:
    """Generates every module into the folder; returns the contents by path relative to the import root."""
    run_protoc(
        proto_files(),
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--mypy_out=quiet:{folder}",
        f"--mypy_grpc_out=quiet,only_async:{folder}",
    )
    modules = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    with_services = {path for path in modules if path.name.endswith("_pb2_grpc.py") and b"Servicer" in modules[path]}
    return {
        path: content
        for path, content in modules.items()
        # The plugins also write an empty stub module for a file without services; those are left out.
        if "_pb2_grpc" not in path.name or path.with_suffix(".py") in with_services
    }


def committed_modules() -> set[Path]:
    """Returns the generated modules that exist now, relative to the import root."""
    return {
        path.relative_to(PROTOS)
        for package in GENERATED_PACKAGES
        for path in (PROTOS / package).rglob("*_pb2*")
        if path.name.endswith(GENERATED_SUFFIXES)
    }


def write(generated: dict[Path, bytes]) -> list[str]:
    """Updates the committed modules; files that do not differ are not touched."""
    for stale in committed_modules() - set(generated):
        (PROTOS / stale).unlink()
        print(f"removed protos/{stale}")
    for path, content in generated.items():
        target = PROTOS / path
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
            print(f"wrote protos/{path}")
    return []


def compare(generated: dict[Path, bytes]) -> list[str]:
    """Returns one line per committed module that is missing, left over or different."""
    committed = committed_modules()
    problems = dict.fromkeys(set(generated) - committed, "is missing")
    problems |= dict.fromkeys(committed - set(generated), "has no proto file")
    for path in set(generated) & committed:
        difference = first_difference((PROTOS / path).read_text(encoding="utf-8"), generated[path].decode("utf-8"))
        if difference is not None:
            problems[path] = f"is stale ({difference[:100]})"
    return [f"protos/{path} {problem}: run `make protos`" for path, problem in sorted(problems.items())]


def first_difference(committed: str, generated: str) -> str | None:
    """Returns the first line that differs, or None if the texts are equal."""
    lines = difflib.unified_diff(committed.splitlines(), generated.splitlines(), n=0, lineterm="")
    return next((line for line in lines if not line.startswith(("---", "+++", "@@"))), None)


def stale_copies() -> list[str]:
    """Returns one line per copy of a google proto that differs from the installed distribution's file."""
    return [
        f"{copy.relative_to(ROOT)}: differs from the installed googleapis-common-protos; copy it again"
        for copy in sorted((PROTOS / "google").rglob("*.proto"))
        if copy.read_bytes() != (googleapis_folder() / copy.relative_to(PROTOS)).read_bytes()
    ]


if __name__ == "__main__":
    sys.exit(main())
