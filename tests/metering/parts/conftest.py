"""An organization that can pay, and models with every kind of price."""

import pytest

from tests.metering.parts.support import add_models
from tests.metering.support import Platform


@pytest.fixture
async def organization_id(platform: Platform) -> str:
    """An organization that identity knows, with a hundred dollars."""
    organization_id, _ = await (await platform.start_identity()).create_organization()
    await platform.fund(organization_id, "100")
    await add_models(platform.metering)
    return organization_id
