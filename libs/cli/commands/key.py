"""`tollhouse key …`: API keys. A secret is shown once, when it is made."""

from typing import Annotated

import typer

from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.lookups import api_key_id_of, user_id_of
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationOption
from libs.cli.terminal.output import Output, as_dict
from libs.cli.terminal.times import parse_future, parse_span
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc

group = typer.Typer(name="key", help="API keys.", no_args_is_help=True)
KeyArgument = Annotated[
    str, typer.Argument(help="The key's id, or the beginning of its secret that lists show.", metavar="KEY")
]
SecretOnlyOption = Annotated[
    bool, typer.Option("--secret-only", "--quiet", "-q", help="Print the secret and nothing else.")
]
_COLUMNS = ("api_key_id", "name", "secret_prefix", "secret_suffix", "state", "project_id", "last_used_time")


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Argument(help="What it is called.")],
    organization: OrganizationOption,
    user: Annotated[str, typer.Option(help="The member who owns it, by email address or id.", metavar="USER")] = "",
    service_account: Annotated[str, typer.Option(help="The service account that owns it.", metavar="ID")] = "",
    project: Annotated[str, typer.Option(help="The only project it may act in.", metavar="ID")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="A scope it holds; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; all, if left out.")] = None,
    address: Annotated[list[str] | None, typer.Option(help="An address or range it may come from.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="A NAME=VALUE to keep with it.")] = None,
    external_id: Annotated[str, typer.Option(help="Your own id for whoever uses it.")] = "",
    expires: Annotated[str, typer.Option(help="When it ends: a time, or a span such as 30d.")] = "",
    test: Annotated[bool, typer.Option("--test", help="For trying things out.")] = False,
    request_id: Annotated[str, typer.Option(help="Makes the command safe to repeat; a repeat has no secret.")] = "",
    secret_only: SecretOnlyOption = False,
) -> None:
    """Create a key and print its secret, this once."""
    if bool(user) == bool(service_account):
        raise WrongUse("A key has one owner: give either --user or --service-account.")
    request = api_key_pb2.CreateApiKeyRequest(
        request_id=request_id,
        organization_id=organization,
        project_id=project,
        name=name,
        environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST if test else api_key_pb2.API_KEY_ENVIRONMENT_LIVE,
        scopes=scope,
        allowed_models=model,
        allowed_addresses=address,
        metadata=_pairs(metadata or []),
        external_id=external_id,
    )
    if expires:
        request.expire_time.CopyFrom(parse_future(expires))
    if user:
        request.user_id = await user_id_of(channels, user)
    else:
        request.service_account_id = service_account
    created = await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).CreateApiKey(request)
    _print_new(output, created.api_key, created.secret, secret_only=secret_only)


@calling(group, "list")
async def list_keys(
    channels: Channels,
    output: Output,
    organization: OrganizationOption,
    user: Annotated[str, typer.Option(help="Only those this user owns.", metavar="USER")] = "",
    service_account: Annotated[str, typer.Option(help="Only those this account owns.", metavar="ID")] = "",
    project: Annotated[str, typer.Option(help="Only those of this project.", metavar="ID")] = "",
    external_id: Annotated[str, typer.Option(help="Only those with this id of your own.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List an organization's keys, the newest first."""
    request = api_key_pb2.ListApiKeysRequest(
        organization_id=organization,
        project_id=project,
        user_id=await user_id_of(channels, user) if user else "",
        service_account_id=service_account,
        external_id=external_id,
    )
    stub = api_key_pb2_grpc.ApiKeyServiceStub(channels.identity)
    keys, more = await listed(stub.ListApiKeys, request, lambda page: page.api_keys, limit)
    output.many(keys, _COLUMNS, more=more)


@calling(group, "show")
async def show(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Show one key."""
    request = api_key_pb2.GetApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).GetApiKey(request)).api_key)


@calling(group, "rotate")
async def rotate(
    channels: Channels,
    output: Output,
    key: KeyArgument,
    organization: OrganizationOption,
    overlap: Annotated[str, typer.Option(help="How long the old secret goes on working, such as 24h.")] = "0s",
    expires: Annotated[str, typer.Option(help="When the new key ends: a time, or a span such as 30d.")] = "",
    request_id: Annotated[str, typer.Option(help="Makes the command safe to repeat; a repeat has no secret.")] = "",
    secret_only: SecretOnlyOption = False,
) -> None:
    """Put another key in a key's place and print its secret, this once."""
    request = api_key_pb2.RotateApiKeyRequest(
        request_id=request_id,
        organization_id=organization,
        api_key_id=await api_key_id_of(channels, organization, key),
    )
    request.overlap.FromTimedelta(parse_span(overlap))
    if expires:
        request.expire_time.CopyFrom(parse_future(expires))
    rotated = await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).RotateApiKey(request)
    _print_new(output, rotated.api_key, rotated.secret, secret_only=secret_only)


@calling(group, "disable")
async def disable(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Stop a key until it is enabled again."""
    request = api_key_pb2.DisableApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).DisableApiKey(request)).api_key)


@calling(group, "enable")
async def enable(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Let a disabled key work again."""
    request = api_key_pb2.EnableApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).EnableApiKey(request)).api_key)


@calling(group, "revoke")
async def revoke(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Stop a key for ever."""
    request = api_key_pb2.RevokeApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).RevokeApiKey(request)).api_key)


def _print_new(output: Output, key: api_key_pb2.ApiKey, secret: str, *, secret_only: bool) -> None:
    if secret_only and not secret:
        raise WrongUse(f"The key {key.api_key_id} was made before under this --request-id; its secret is not kept.")
    if secret_only:
        typer.echo(secret)
    elif output.as_json:
        output.json({"api_key": as_dict(key), "secret": secret})
    else:
        output.one(key, secret=secret)
        output.remark(
            "The secret is not kept and is not shown again." if secret else "Made before: no secret is shown."
        )


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise WrongUse(f"{wrong[0]!r} is no NAME=VALUE.")
    return pairs
