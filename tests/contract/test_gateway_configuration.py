"""The configuration of the gateway that is committed, and what clients are told of it."""

from scripts.gateway_configuration import files


def test_committed_configuration_is_the_one_that_the_descriptors_give() -> None:
    stale = [path.name for path, content in files().items() if not path.exists() or path.read_bytes() != content]
    assert stale == [], "run `make protos`"
