"""What an installation keeps, and what becomes of a folder that an older version made."""

from pathlib import Path

from libs.cli.installation.data_folder import SERVICE_NAMES, DataFolder
from libs.common.authentication import TrustBundle


def test_folder_of_an_older_version_gets_what_was_added_and_keeps_what_it_has(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    # As it was before there were sessions.
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


def test_each_key_may_speak_for_its_own_kind_alone(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    subjects = {trusted.issuer: trusted.subjects for trusted in TrustBundle.read(folder.trust_bundle_file).issuers}
    assert subjects == {
        **{f"tollhouse-{name}": [f"service:{name}"] for name in SERVICE_NAMES},
        "tollhouse-operator": ["operator:*"],
        "tollhouse-session": ["user:*"],
    }
