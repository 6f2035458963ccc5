"""The RPCs of UsageService that sum usage up: proto in, use case, proto out."""

from collections.abc import Mapping
from typing import Final

import grpc

from libs.common.pages import decode_page_token, encode_page_token, page_size, that_fit
from libs.common.validation import Reader
from services.metering.usage.query_parsing import list_fingerprint, read_query
from services.metering.usage.rendering import render_summary
from services.metering.usage.statistics.parsing import read_trends
from services.metering.usage.statistics.rendering import render_trends
from services.metering.usage.usages import Usages
from services.metering.usage_errors import TooManyRows
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc as rpc

TREND_ROWS_MAX: Final = 20_000
"""The most sums that trends are made from: of some hundred days, and the currencies of each."""


class StatisticsServicer(rpc.UsageServiceServicer):
    """Serves sums of usage and what follows from them."""

    _usages: Usages

    @property
    def statistics_readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "QueryUsage": lambda request: read_query(request, self._usages.now()),
            "GetUsageTrends": lambda request: read_trends(request, self._usages.now()),
        }

    async def QueryUsage(
        self, request: pb.QueryUsageRequest, context: grpc.aio.ServicerContext
    ) -> pb.QueryUsageResponse:
        query = read_query(request, self._usages.now())
        fingerprint = list_fingerprint(request)
        after = decode_page_token(request.page_token, fingerprint) if request.page_token else None
        summaries, following = await self._usages.query(query, after=after, limit=page_size(request.page_size))
        await self._usages.know_units(unit_id for summary in summaries for unit_id in summary.quantities)
        rendered = that_fit(render_summary(summary, self._usages.units) for summary in summaries)
        if len(rendered) < len(summaries):
            if query.top is not None:
                raise TooManyRows(rows=len(rendered))
            following = summaries[len(rendered) - 1].key
        token = encode_page_token(*following, fingerprint=fingerprint) if following else ""
        return pb.QueryUsageResponse(summaries=rendered, next_page_token=token)

    async def GetUsageTrends(
        self, request: pb.GetUsageTrendsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUsageTrendsResponse:
        asked = read_trends(request, self._usages.now())
        summaries, following = await self._usages.query(asked.query, after=None, limit=TREND_ROWS_MAX)
        if following is not None:
            raise TooManyRows(rows=TREND_ROWS_MAX)
        await self._usages.know_units(unit_id for summary in summaries for unit_id in summary.quantities)
        return render_trends(asked, summaries, self._usages.units)
