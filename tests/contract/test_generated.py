"""The committed stubs equal what the generators produce from the committed protos."""

from pathlib import Path

from scripts import protos


def test_committed_stubs_equal_regenerated_ones(tmp_path: Path) -> None:
    assert protos.compare(protos.generate(tmp_path)) == []


def test_generation_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert protos.generate(tmp_path / "first") == protos.generate(tmp_path / "second")


def test_copies_of_google_protos_equal_the_installed_ones() -> None:
    assert protos.stale_copies() == []
