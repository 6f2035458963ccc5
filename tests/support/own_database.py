"""Which tests have a database of their own, and which share one with the other tests of their module."""

import pytest


def has_own_database(request: pytest.FixtureRequest) -> bool:
    """Return whether the test asks for a database by a fixture, or is marked `own_database`.

    Such a test looks at all organizations, damages what is stored, changes what all share, or stops a service. Any
    other one works in organizations of its own, and shares database and services with those of its module.
    """
    return "database_admin_url" in request.fixturenames or request.node.get_closest_marker("own_database") is not None
