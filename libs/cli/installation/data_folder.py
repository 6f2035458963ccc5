"""The folder that holds what one installation keeps: its keys, its passwords, its Postgres and its logs."""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from libs.cli.failures import CommandFailed
from libs.common.authentication import SigningKey, TrustBundle, mint_token
from libs.common.clock import Clock

CONTEXTS: Final = ("identity", "billing", "metering")
READY_FILE: Final = "ready.json"
"""The file in the folder that says where the services are while they run, and as whom to call them."""
# Whoever may call: the three services, a gateway that stands before the platform's models, and the operators.
SERVICE_NAMES: Final = (*CONTEXTS, "gateway")
AUDIENCES: Final = [f"{context}.tollhouse" for context in CONTEXTS]
_OPERATOR: Final = "operator"
# Identity signs the access tokens of sessions with a key of its own, so that its own key cannot speak for a user.
_SESSION: Final = "session"
# Whom each key that is no service's may speak for.
_SUBJECTS: Final = {_OPERATOR: "operator:cli", _SESSION: "user:*"}
_MAY_SPEAK_FOR: Final = {_OPERATOR: ["operator:*"], _SESSION: ["user:*"]}
_SECRET_BYTES: Final = 32


class DataFolder:
    """Paths and secrets. All files are readable for their owner alone; each is made once and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.postgres = self.path / "postgres"
        self.logs = self.path / "logs"
        self.trust_bundle_file = self.path / "trust.json"
        self.pepper_file = self.path / "peppers.json"
        self.pids_file = self.path / "pids.json"
        self._keys = self.path / "keys"
        self._passwords_file = self.path / "passwords.json"

    @classmethod
    def existing(cls, path: Path) -> "DataFolder":
        """Return the folder of an installation that was set up before."""
        folder = cls(path)
        if not folder.signing_key_file(_OPERATOR).exists():
            raise CommandFailed(f"{path} holds no keys; `tollhouse up --data-dir {path}` makes them.")
        return folder

    def prepare(self) -> None:
        """Make whatever is missing: folders, signing keys, the trust bundle, the pepper and the role passwords.

        The folder of an older version so gets what has been added since, and keeps what it has.
        """
        for folder in (self.path, self.logs, self._keys):
            self._make(folder)
        trusted = [
            self._signing_key(name).trusted(_MAY_SPEAK_FOR.get(name)) for name in (*SERVICE_NAMES, _OPERATOR, _SESSION)
        ]
        write_private(self.trust_bundle_file, TrustBundle(issuers=trusted).model_dump_json())
        if not self.pepper_file.exists():
            write_private(self.pepper_file, json.dumps({"1": secrets.token_hex(_SECRET_BYTES)}))
        if not self._passwords_file.exists():
            write_private(self._passwords_file, json.dumps({name: secrets.token_urlsafe(24) for name in CONTEXTS}))

    def signing_key_file(self, name: str) -> Path:
        return self._keys / f"{name}.json"

    def passwords(self) -> dict[str, str]:
        """Return the password of each context's login role."""
        passwords: dict[str, str] = json.loads(self._passwords_file.read_bytes())
        return passwords

    def operator_token(self, lifetime: timedelta, clock: Clock, audiences: list[str] | None = None) -> str:
        """Mint a token with which an operator may call the services."""
        key = SigningKey.read(self.signing_key_file(_OPERATOR))
        return mint_token(key, audiences=audiences or AUDIENCES, lifetime=lifetime, clock=clock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder to this process; the lock goes with the process, however it ends."""
        self._make(self.path)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandFailed(f"Another `tollhouse up` already runs on {self.path}.") from None
            yield

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CommandFailed(f"The data folder cannot be made: {error}.") from None

    def _signing_key(self, name: str) -> SigningKey:
        file = self.signing_key_file(name)
        if not file.exists():
            subject = _SUBJECTS.get(name, f"service:{name}")
            key = SigningKey.generate(issuer=f"tollhouse-{name}", subject=subject)
            write_private(file, key.model_dump_json())
        return SigningKey.read(file)


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole: nobody ever reads half of it, and only its owner reads it at all."""
    # mkstemp makes the file 0600.
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
