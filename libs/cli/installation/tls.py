"""The folder with an installation's certificates, for mutual TLS among the services and with whoever calls them.

It holds `ca.pem`, the authority that all of them believe, and for each of identity, billing, metering and the operator
a certificate `<name>.pem` with its key `<name>.key`. Where the certificates come from is not our business.
"""

from pathlib import Path
from typing import Final

from libs.cli.failures import WrongUse
from libs.common.channel import ClientTls

TLS_VARIABLE: Final = "TOLLHOUSE_TLS_DIR"
OPERATOR: Final = "operator"


class TlsFolder:
    """Where the files of each name are."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.authority_file = self.path / "ca.pem"

    def files_of(self, name: str) -> ClientTls:
        """Return the files with which the name proves who it is, and by which it believes others.

        Raises:
            WrongUse: one of them is not there.
        """
        files = ClientTls(self.path / f"{name}.pem", self.path / f"{name}.key", self.authority_file)
        wanted = (files.server_ca_file, files.certificate_file, files.key_file)
        missing = [path.name for path in wanted if not path.is_file()]
        if missing:
            raise WrongUse(f"The folder {self.path} has no {', '.join(missing)}.")
        return files

    def environment_of(self, context: str) -> dict[str, str]:
        """Return what a service is told of its files."""
        files = self.files_of(context)
        return {
            "TLS_CERTIFICATE_FILE": str(files.certificate_file),
            "TLS_KEY_FILE": str(files.key_file),
            "TLS_CLIENT_CA_FILE": str(files.server_ca_file),
        }
