"""Jobs and previews as messages."""

from typing import Final

from libs.common.amount import render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.metering.usage.rerate.domain import Fate, Sums
from services.metering.usage.rerate.job_store import State
from services.metering.usage.rerate.jobs import Shown
from services.metering.usage.rerate.previews import Page
from tollhouse.metering.v1 import usage_pb2 as pb

_STATES: Final = {
    State.CHECKING: pb.RERATE_JOB_STATE_CHECKING,
    State.RUNNING: pb.RERATE_JOB_STATE_RUNNING,
    State.PAUSED: pb.RERATE_JOB_STATE_PAUSED,
    State.DONE: pb.RERATE_JOB_STATE_DONE,
    State.CANCELED: pb.RERATE_JOB_STATE_CANCELED,
    State.REFUSED: pb.RERATE_JOB_STATE_REFUSED,
}


def render_job(shown: Shown) -> pb.RerateJob:
    job = shown.job
    return pb.RerateJob(
        job_id=job.job_id,
        request=pb.RerateUsageRequest.FromString(job.request),
        state=_STATES[job.state],
        refusal_reason=job.refusal_reason,
        actor=job.actor,
        create_time=render_time(job.create_time),
        end_time=render_optional_time(job.end_time),
        sums=_render_sums(shown.sums),
    )


def render_preview(page: Page) -> pb.RerateUsageResponse:
    differences = [
        pb.RerateDifference(organization_id=organization_id, model=model, sums=_render_sums(sums))
        for (organization_id, model, _), sums in page.sums.items()
    ]
    digest = "" if page.next_page_token else page.digest
    return pb.RerateUsageResponse(differences=differences, digest=digest, next_page_token=page.next_page_token)


def _render_sums(sums: Sums) -> pb.RerateSums:
    counts = sums.counts
    return pb.RerateSums(
        usage_count=sums.usages,
        changed_count=counts.get(Fate.CHANGED, 0),
        unchanged_count=counts.get(Fate.UNCHANGED, 0),
        voided_count=counts.get(Fate.VOIDED, 0),
        stated_count=counts.get(Fate.STATED, 0),
        pending_price_count=counts.get(Fate.PENDING_PRICE, 0),
        failures=[
            pb.RerateFailure(reason=reason, usage_count=count) for reason, count in sorted(sums.failures.items())
        ],
        amounts=[
            pb.RerateAmounts(before=render_amount(currency_code, before), after=render_amount(currency_code, after))
            for currency_code, (before, after) in sorted(sums.amounts.items())
        ],
    )
