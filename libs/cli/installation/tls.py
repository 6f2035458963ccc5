"""The folder with an installation's certificates, for mutual TLS between the services and with their callers.

It holds `ca.pem`, the authority that all of them trust, and for each of identity, billing, metering and the operator a
certificate `<name>.pem` with its key `<name>.key`. The certificates are issued outside of Tollhouse.
"""

from pathlib import Path
from typing import Final

from libs.cli.failures import WrongUse
from libs.common.channel import ClientTls

TLS_VARIABLE: Final = "TOLLHOUSE_TLS_DIR"
OPERATOR: Final = "operator"


class TlsFolder:
    """Finds the files of each name."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.authority_file = self.path / "ca.pem"

    def files_of(self, name: str) -> ClientTls:
        """Return the certificate and key of the name, and the authority by which it verifies others.

        Raises:
            WrongUse: one of the files does not exist.
        """
        files = ClientTls(self.path / f"{name}.pem", self.path / f"{name}.key", self.authority_file)
        wanted = (files.server_ca_file, files.certificate_file, files.key_file)
        missing = [path.name for path in wanted if not path.is_file()]
        if missing:
            raise WrongUse(f"The folder {self.path} lacks {', '.join(missing)}.")
        return files

    def environment_of(self, context: str) -> dict[str, str]:
        """Return the settings that name a service's files."""
        files = self.files_of(context)
        return {
            "TLS_CERTIFICATE_FILE": str(files.certificate_file),
            "TLS_KEY_FILE": str(files.key_file),
            "TLS_CLIENT_CA_FILE": str(files.server_ca_file),
        }
