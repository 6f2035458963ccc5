"""The data folder of an installation: its keys, passwords, embedded Postgres and logs."""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from libs.cli.failures import CommandFailed
from libs.common.authentication import SigningKey, TrustBundle, TrustedIssuer, mint_token
from libs.common.clock import Clock

CONTEXTS: Final = ("identity", "billing", "metering")
READY_FILE: Final = "ready.json"
"""The file in the data folder with the addresses of the running services and an operator's token."""
# Services that can call others: the three of ours, and a gateway in front of the platform's models.
SERVICE_NAMES: Final = (*CONTEXTS, "gateway")
AUDIENCES: Final = [f"{context}.tollhouse" for context in CONTEXTS]
_OPERATOR: Final = "operator"
# Identity signs access tokens of sessions with a separate key, so that its service key cannot act as a user.
_SESSION: Final = "session"
# The subject of each key that belongs to no service, and the subjects it may sign for.
_SUBJECTS: Final = {_OPERATOR: "operator:cli", _SESSION: "user:*"}
_MAY_SPEAK_FOR: Final = {_OPERATOR: ["operator:*"], _SESSION: ["user:*"]}
RESERVED_NAMES: Final = frozenset({*CONTEXTS, _OPERATOR, _SESSION})
"""The names of our own keys, which no gateway may have."""
_SECRET_BYTES: Final = 32


class DataFolder:
    """The paths and secrets of the folder. Only the owner can read the files; each is created once and then kept."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.postgres = self.path / "postgres"
        self.logs = self.path / "logs"
        self.trust_bundle_file = self.path / "trust.json"
        self.pepper_file = self.path / "peppers.json"
        self.event_keys_file = self.path / "event-keys.json"
        self.conversation_keys_file = self.path / "conversation-keys.json"
        self.invoice_link_secret_file = self.path / "invoice-links.txt"
        self.pids_file = self.path / "pids.json"
        self._keys = self.path / "keys"
        self._passwords_file = self.path / "passwords.json"

    @classmethod
    def existing(cls, path: Path) -> "DataFolder":
        """Return the folder of an installation that exists; raises CommandFailed if it has no keys."""
        folder = cls(path)
        if not folder.signing_key_file(_OPERATOR).exists():
            raise CommandFailed(f"{path} has no keys. Run `tollhouse up --data-dir {path}` to create them.")
        return folder

    def prepare(self) -> None:
        """Create what is missing: folders, signing keys, the trust bundle, the pepper, other secrets and passwords.

        A folder of an older version gets what newer versions need and keeps what it has: the trust bundle keeps the
        gateways, and whatever else an operator has put there.
        """
        for folder in (self.path, self.logs, self._keys):
            self._make(folder)
        with self.trust_locked():
            known = {one.issuer: one for one in self.read_trust().issuers} if self.trust_bundle_file.exists() else {}
            own = [self._trusted(name, known) for name in (*SERVICE_NAMES, _OPERATOR, _SESSION)]
            others = [one for one in known.values() if one.issuer not in {mine.issuer for mine in own}]
            self.write_trust(TrustBundle(issuers=[*own, *others]))
        if not self.pepper_file.exists():
            write_private(self.pepper_file, json.dumps({"1": secrets.token_hex(_SECRET_BYTES)}))
        for keys_file in (self.event_keys_file, self.conversation_keys_file):
            if not keys_file.exists():
                write_private(keys_file, json.dumps({"1": secrets.token_hex(_SECRET_BYTES)}))
        if not self.invoice_link_secret_file.exists():
            write_private(self.invoice_link_secret_file, secrets.token_hex(_SECRET_BYTES))
        if not self._passwords_file.exists():
            write_private(self._passwords_file, json.dumps({name: secrets.token_urlsafe(24) for name in CONTEXTS}))

    def signing_key_file(self, name: str) -> Path:
        return self._keys / f"{name}.json"

    def passwords(self) -> dict[str, str]:
        """Return the password of each context's login role."""
        passwords: dict[str, str] = json.loads(self._passwords_file.read_bytes())
        return passwords

    def operator_token(self, lifetime: timedelta, clock: Clock, audiences: list[str] | None = None) -> str:
        """Sign a token with which an operator can call the services."""
        key = SigningKey.read(self.signing_key_file(_OPERATOR))
        return mint_token(key, audiences=audiences or AUDIENCES, lifetime=lifetime, clock=clock)

    @contextmanager
    def trust_locked(self) -> Iterator[None]:
        """Keep other commands from changing the trust bundle meanwhile; wait for those that do."""
        try:
            file = (self.path / "trust.lock").open("w")
        except OSError as error:
            raise CommandFailed(f"The trust bundle in {self.path} cannot be changed: {error.strerror}.") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read_trust(self) -> TrustBundle:
        """Return the trust bundle; raises CommandFailed where the file holds none."""
        try:
            return TrustBundle.read(self.trust_bundle_file)
        except (OSError, ValueError):
            raise CommandFailed(
                f"{self.trust_bundle_file} is no trust bundle. Put a copy of it back. If there is none, remove the "
                "file and run `tollhouse up`: it is made anew, and gateways have to be created again."
            ) from None

    def write_trust(self, bundle: TrustBundle) -> None:
        """Put a trust bundle in the place of the one before. Running services take it up within a second."""
        try:
            write_private(self.trust_bundle_file, bundle.model_dump_json())
        except OSError as error:
            raise CommandFailed(f"{self.trust_bundle_file} cannot be written: {error.strerror}.") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process. The kernel releases the lock when the process ends, in whatever way."""
        self._make(self.path)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandFailed(f"Another `tollhouse up` is running with {self.path}.") from None
            yield

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CommandFailed(f"The data folder cannot be created: {error}.") from None

    def _trusted(self, name: str, known: Mapping[str, TrustedIssuer]) -> TrustedIssuer:
        """Return the entry of one of our own keys; the keys that are trusted beside it, in an overlap, stay."""
        entry = self._signing_key(name).trusted(_MAY_SPEAK_FOR.get(name))
        before = known.get(entry.issuer)
        if before is None or entry.keys[0] not in before.keys:
            return entry
        return TrustedIssuer(issuer=entry.issuer, subjects=entry.subjects, keys=before.keys)

    def _signing_key(self, name: str) -> SigningKey:
        file = self.signing_key_file(name)
        if not file.exists():
            subject = _SUBJECTS.get(name, f"service:{name}")
            key = SigningKey.generate(issuer=f"tollhouse-{name}", subject=subject)
            write_private(file, key.model_dump_json())
        return SigningKey.read(file)


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically: readers see the old or the new content. Only the owner can read it."""
    # mkstemp creates the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
