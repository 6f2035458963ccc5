"""What a call would cost, over the API: published list prices, golden costs, and bad input named field by field."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import grpc
import pytest

from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from services.metering.model.rates import RateCard
from services.metering.model.rendering import render_card
from tests.metering.support import Metering, Platform, refused
from tests.metering.test_bad_input import faults
from tests.metering.test_litellm_prices import MADE
from tests.metering.test_published_prices import CALLS, CARDS
from tests.support.odd_requests import TEXTS
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import unit_pb2

DATA: Final = repository().parent / "shared" / "data"
PUBLIC_PRICE_MAP: Final = DATA / "litellm_model_prices.json"
GOLDEN_COSTS: Final = DATA / "golden_costs.json"
