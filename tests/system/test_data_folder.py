"""The contents of a data folder, and the upgrade of one that an older version created."""

from pathlib import Path

from libs.cli.installation.data_folder import SERVICE_NAMES, DataFolder
from libs.common.authentication import TrustBundle


def test_folder_of_an_older_version_gets_missing_files_and_keeps_existing_ones(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    # The folder as it was before sessions were introduced.
    folder.signing_key_file("session").unlink()
    bundle = TrustBundle.read(folder.trust_bundle_file)
    older = [trusted for trusted in bundle.issuers if trusted.issuer != "tollhouse-session"]
    folder.trust_bundle_file.write_text(TrustBundle(issuers=older).model_dump_json())
    kept = {path: path.read_bytes() for path in folder.path.rglob("*.json") if path != folder.trust_bundle_file}

    DataFolder(folder.path).prepare()

    assert {path: path.read_bytes() for path in kept} == kept
    upgraded = TrustBundle.read(folder.trust_bundle_file)
    assert [trusted for trusted in upgraded.issuers if trusted.issuer != "tollhouse-session"] == older
    assert folder.signing_key_file("session").exists()


def test_each_key_may_sign_for_its_own_kind_of_caller_only(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    subjects = {trusted.issuer: trusted.subjects for trusted in TrustBundle.read(folder.trust_bundle_file).issuers}
    assert subjects == {
        **{f"tollhouse-{name}": [f"service:{name}"] for name in SERVICE_NAMES},
        "tollhouse-operator": ["operator:*"],
        "tollhouse-session": ["user:*"],
    }
