"""Gateways: services of the platform that call ours, each with a key pair of its own and an entry in the trust bundle.

A gateway NAME is the issuer `tollhouse-NAME` and may sign for the one subject `service:NAME`. Running services take up
each change of the trust bundle by themselves.
"""

import os
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.installation.data_folder import CONTEXTS, RESERVED_NAMES, DataFolder, write_private
from libs.common.authentication import RETIRE_TIME, SigningKey, TrustBundle, TrustedIssuer, retire_time_of
from libs.common.clock import Clock

OVERLAP_MAX: Final = timedelta(days=90)
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_ISSUER_PREFIX: Final = "tollhouse-"
_KEY_ID_BYTES: Final = 8
_TAKEN_UP_WITHIN_S: Final = 1.0
"""Running services look at the trust bundle twice as often."""


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A public key of a gateway: its id, and when it ceases to be accepted (None for never)."""

    key_id: str
    retire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway as it stands in the trust bundle."""

    name: str
    subject: str
    issuer: str
    keys: tuple[GatewayKey, ...]
    key_file: Path | None
    """The private key, where it is in the installation's folder."""


class Gateways:
    """Creates, lists, rotates and revokes the gateways of an installation."""

    def __init__(self, folder: DataFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def create(self, name: str, out: Path | None) -> tuple[Gateway, Path]:
        """Make a key pair, trust it, and return the gateway with the file of its private key.

        Raises:
            WrongUse: no gateway may have this name.
            CommandFailed: there is one of this name, or the private key cannot be written.
        """
        require_name(name)
        key = _new_key(name)
        with self._folder.trust_locked():
            bundle = self._folder.read_trust()
            if any(one.issuer == key.issuer or _subject_of(name) in one.subjects for one in bundle.issuers):
                raise CommandFailed(f"There is a gateway {name} already. `tollhouse gateway rotate` renews its key.")
            # A file in the folder of keys is what an interrupted command left behind: its public key is not trusted.
            file = self._folder.signing_key_file(name) if out is None else _new_file(out)
            try:
                _write(file, key)
                bundle.issuers.append(key.trusted())
                self._folder.write_trust(bundle)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            return self._gateway(key.trusted()), file

    def all(self) -> list[Gateway]:
        """Return the gateways, by name."""
        found = [self._gateway(one) for one in self._folder.read_trust().issuers if _name_of(one) is not None]
        return sorted(found, key=lambda gateway: gateway.name)

    def rotate(self, name: str, *, overlap: timedelta, out: Path | None) -> tuple[Gateway, Path]:
        """Give a gateway a new key pair; return it with the file of the new private key.

        The new key is trusted before its file is written, and the old keys are accepted until the overlap is over. If
        this is interrupted, the old keys go on, and it may be done again.

        Raises:
            CommandFailed: there is no such gateway, its key is not in the installation's folder and `out` is not given,
                or the private key cannot be written.
        """
        require_name(name)
        key = _new_key(name)
        with self._folder.trust_locked():
            bundle = self._folder.read_trust()
            entry = _entry(bundle, name)
            file = self._folder.signing_key_file(name) if out is None else _replaceable(out, entry)
            if out is None and not file.exists():
                raise CommandFailed(f"The private key of {name} is not in {self._folder.path}. Give its file as --out.")
            now = self._clock.now()
            old = [one for one in entry.keys if (retire_time_of(one) or now) >= now]
            entry.keys = [*key.trusted().keys, *old]
            self._folder.write_trust(bundle)
            # So that the gateway is never refused: it may sign with the new key as soon as it sees the file.
            time.sleep(_TAKEN_UP_WITHIN_S)
            _write(file, key)
            end = self._clock.now() + overlap
            entry.keys = key.trusted().keys + ([_retired(one, end) for one in old] if overlap else [])
            self._folder.write_trust(bundle)
            return self._gateway(entry), file

    def revoke(self, name: str) -> Gateway:
        """Trust a gateway no more, and remove its private key from the installation's folder; return what it was.

        Raises:
            CommandFailed: there is no such gateway.
        """
        require_name(name)
        with self._folder.trust_locked():
            bundle = self._folder.read_trust()
            entry = _entry(bundle, name)
            gateway = self._gateway(entry)
            bundle.issuers.remove(entry)
            self._folder.write_trust(bundle)
            self._folder.signing_key_file(name).unlink(missing_ok=True)
        return gateway

    def _gateway(self, entry: TrustedIssuer) -> Gateway:
        name = _name_of(entry) or ""
        file = self._folder.signing_key_file(name)
        keys = tuple(GatewayKey(str(key["kid"]), retire_time_of(key)) for key in entry.keys)
        return Gateway(name, _subject_of(name), entry.issuer, keys, file if file.exists() else None)


def require_name(name: str) -> None:
    """Raise WrongUse unless a gateway may have this name."""
    if not _NAME.fullmatch(name):
        raise WrongUse(f"{name[:80]!r} is no name for a gateway: 1 to 63 of a-z, 0-9 and -, a letter first.")
    if name in RESERVED_NAMES:
        raise WrongUse(f"{name!r} is the name of a key of Tollhouse's own; no gateway may have it.")


def _new_key(name: str) -> SigningKey:
    issuer = f"{_ISSUER_PREFIX}{name}"
    key_id = f"{issuer}-{secrets.token_hex(_KEY_ID_BYTES)}"
    return SigningKey.generate(issuer=issuer, subject=_subject_of(name), key_id=key_id)


def _subject_of(name: str) -> str:
    return f"service:{name}"


def _name_of(entry: TrustedIssuer) -> str | None:
    """Return the name of the gateway that an entry of the trust bundle is; None where it is something else's."""
    name = entry.issuer.removeprefix(_ISSUER_PREFIX)
    is_gateway = name != entry.issuer and name not in CONTEXTS and entry.subjects == [_subject_of(name)]
    return name if is_gateway else None


def _entry(bundle: TrustBundle, name: str) -> TrustedIssuer:
    found = next((one for one in bundle.issuers if _name_of(one) == name), None)
    if found is None:
        raise CommandFailed(f"There is no gateway {name}. `tollhouse gateway list` shows those there are.")
    return found


def _retired(key: dict[str, str | list[str]], end: datetime) -> dict[str, str | list[str]]:
    """Return a key that is accepted until `end`, or until its own end if that comes first."""
    before = retire_time_of(key)
    return {**key, RETIRE_TIME: min(end, before or end).isoformat(timespec="seconds")}


def _write(file: Path, key: SigningKey) -> None:
    try:
        write_private(file, key.model_dump_json())
    except OSError as error:
        raise CommandFailed(f"The private key cannot be written to {file}: {error.strerror}.") from None


def _new_file(out: Path) -> Path:
    """Take the place of a file that must not exist yet; raises CommandFailed where it does, or cannot be made."""
    try:
        os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise CommandFailed(f"{out} exists already, and is not overwritten.") from None
    except (OSError, ValueError) as error:
        raise CommandFailed(f"The private key cannot be written to {out}: {error}.") from None
    return out


def _replaceable(out: Path, entry: TrustedIssuer) -> Path:
    """Return the file, if it does not exist or holds a private key of this gateway; else raise CommandFailed."""
    if not os.path.lexists(out):
        return out
    try:
        is_its_own = SigningKey.read(out).issuer == entry.issuer
    except (OSError, ValidationError):
        is_its_own = False
    if not is_its_own:
        raise CommandFailed(f"{out} exists and is no private key of this gateway, so it is not overwritten.")
    return out
