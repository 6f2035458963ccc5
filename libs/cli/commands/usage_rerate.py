"""`tollhouse usage rerate`: what a re-rate would do, the job that does it, and jobs that were begun before."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output, amount_text, as_dict
from libs.cli.terminal.progress import Progress, progress_for
from libs.cli.terminal.times import parse_past
from libs.common.ids import new_id
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc

_LOOK_EVERY_S: Final = 0.5
_PAGE_SIZE: Final = 1_000
_PREVIEW_S: Final = 60.0
_UNDER_WAY: Final = (pb.RERATE_JOB_STATE_CHECKING, pb.RERATE_JOB_STATE_RUNNING)
_COLUMNS: Final = ("organization", "model", "usages", "change", "same", "left out", "fail", "before", "after")
_TimeOption = Annotated[str, typer.Option(help="A time, or a span back such as 7d.", metavar="TIME")]


async def rerate(
    channels: Channels,
    output: Output,
    start: _TimeOption = "",
    end: _TimeOption = "0s",
    organization: Annotated[list[str] | None, typer.Option(help="Only usage of this organization.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only usage of this model.")] = None,
    project: Annotated[str, typer.Option(help="Only usage of this project.")] = "",
    user: Annotated[str, typer.Option(help="Only usage of this user.")] = "",
    key: Annotated[str, typer.Option(help="Only usage of this API key.")] = "",
    subscription: Annotated[str, typer.Option(help="Only usage of this subscription.")] = "",
    current_price_version: Annotated[str, typer.Option(help="Only usage that has this price version.")] = "",
    price_version: Annotated[str, typer.Option(help="The price version to use; else those in force.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for people to read.")] = "",
    operation: Annotated[str, typer.Option(help="A name for the job, so that a repeat makes no other.")] = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only show what would be done.")] = False,
    yes: YesOption = False,
    status: Annotated[str, typer.Option(help="Show this job, which was begun before.", metavar="JOB")] = "",
    pause: Annotated[str, typer.Option(help="Pause this job.", metavar="JOB")] = "",
    resume: Annotated[str, typer.Option(help="Let this job go on.", metavar="JOB")] = "",
    cancel: Annotated[str, typer.Option(help="End this job before it is done.", metavar="JOB")] = "",
) -> None:
    """Price recorded usage again: show what it would cost, and after confirmation do it.

    The job goes on when this command is interrupted; `--status JOB` shows it then.
    """
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    named = await _named(stub, status=status, pause=pause, resume=resume, cancel=cancel)
    if named is not None:
        _show_job(output, named)
        return
    if not start:
        raise WrongUse("Say from when on usage is re-rated: --start.")
    request = pb.RerateUsageRequest(
        operation_id=operation or new_id(),
        organization_ids=organization or [],
        models=model or [],
        start_time=parse_past(start),
        end_time=parse_past(end),
        project_id=project,
        user_id=user,
        api_key_id=key,
        subscription_id=subscription,
        current_price_version_id=current_price_version,
        price_version_id=price_version,
        reason=reason,
    )
    progress = progress_for(quiet=output.as_json)
    differences, request.digest = await _previewed(stub, request, progress)
    if validate_only or not output.as_json:
        _show_differences(output, differences, request.digest)
    if validate_only:
        return
    changing = sum(one.sums.changed_count for one in differences)
    confirm(f"Re-rate {changing:,} usages?", yes=yes)
    total = sum(one.sums.usage_count for one in differences)
    job = await _followed(stub, (await stub.RerateUsage(request, timeout=_PREVIEW_S)).job, progress, total)
    _show_job(output, job)
    if job.state == pb.RERATE_JOB_STATE_REFUSED:
        raise CommandFailed(f"The job was refused: {job.refusal_reason}.")


async def _named(
    stub: usage_pb2_grpc.UsageServiceStub, *, status: str, pause: str, resume: str, cancel: str
) -> pb.RerateJob | None:
    """Do what is asked of a job that was begun before; None where none is named."""
    if sum(map(bool, (status, pause, resume, cancel))) > 1:
        raise WrongUse("Give one of --status, --pause, --resume and --cancel.")
    if pause:
        return (await stub.PauseRerateJob(pb.PauseRerateJobRequest(job_id=pause))).job
    if resume:
        return (await stub.ResumeRerateJob(pb.ResumeRerateJobRequest(job_id=resume))).job
    if cancel:
        return (await stub.CancelRerateJob(pb.CancelRerateJobRequest(job_id=cancel))).job
    return (await stub.GetRerateJob(pb.GetRerateJobRequest(job_id=status))).job if status else None


async def _previewed(
    stub: usage_pb2_grpc.UsageServiceStub, request: pb.RerateUsageRequest, progress: Progress
) -> tuple[list[pb.RerateDifference], str]:
    asked = pb.RerateUsageRequest()
    asked.CopyFrom(request)
    asked.validate_only, asked.page_size = True, _PAGE_SIZE
    found: list[pb.RerateDifference] = []
    async with progress.shown():
        while True:
            page = await stub.RerateUsage(asked, timeout=_PREVIEW_S)
            found += page.differences
            progress.note("preview", sum(one.sums.usage_count for one in found))
            asked.page_token = page.next_page_token
            if not page.next_page_token:
                return found, page.digest


async def _followed(
    stub: usage_pb2_grpc.UsageServiceStub, job: pb.RerateJob, progress: Progress, total: int
) -> pb.RerateJob:
    """Return a job when it is not under way any more."""
    async with progress.shown():
        while job.state in _UNDER_WAY:
            progress.note(f"job {job.job_id}", job.sums.usage_count, total)
            await asyncio.sleep(_LOOK_EVERY_S)
            job = (await stub.GetRerateJob(pb.GetRerateJobRequest(job_id=job.job_id))).job
    return job


def _show_differences(output: Output, differences: list[pb.RerateDifference], digest: str) -> None:
    if output.as_json:
        output.json({"differences": [as_dict(one) for one in differences], "digest": digest})
        return
    output.table(_COLUMNS, [[one.organization_id, one.model, *_cells(one.sums)] for one in differences])
    for failure in _failures(differences):
        output.remark(failure)


def _cells(sums: pb.RerateSums) -> list[str]:
    left_out = sums.voided_count + sums.stated_count + sums.pending_price_count
    failed = sum(one.usage_count for one in sums.failures)
    counts = (sums.usage_count, sums.changed_count, sums.unchanged_count, left_out, failed)
    before = ", ".join(amount_text(one.before) for one in sums.amounts)
    after = ", ".join(amount_text(one.after) for one in sums.amounts)
    return [*(f"{count:,}" for count in counts), before, after]


def _failures(differences: Iterable[pb.RerateDifference]) -> list[str]:
    counts: dict[str, int] = {}
    for difference in differences:
        for one in difference.sums.failures:
            counts[one.reason] = counts.get(one.reason, 0) + one.usage_count
    return [f"{count:,} cannot be re-rated: {reason}" for reason, count in sorted(counts.items())]


def _show_job(output: Output, job: pb.RerateJob) -> None:
    if output.as_json:
        output.json(as_dict(job))
        return
    output.line(f"{'job':<24} {job.job_id}")
    output.line(f"{'state':<24} {pb.RerateJobState.Name(job.state).removeprefix('RERATE_JOB_STATE_')}")
    for name, cell in zip(_COLUMNS[2:], _cells(job.sums), strict=True):
        output.line(f"{name:<24} {cell}".rstrip())
    for failure in _failures([pb.RerateDifference(sums=job.sums)]):
        output.remark(failure)
