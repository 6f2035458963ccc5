"""`tollhouse key …`: API keys. A secret is shown once, when the key is created."""

from enum import StrEnum
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
    str, typer.Argument(help="The key's id, or the visible beginning of its secret.", metavar="KEY")
]
SecretOnlyOption = Annotated[
    bool, typer.Option("--secret-only", "--quiet", "-q", help="Print the secret and nothing else.")
]


class _State(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"
    EXPIRED = "expired"


_COLUMNS = ("api_key_id", "name", "secret_prefix", "secret_suffix", "state", "project_id", "last_used_time")


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Argument(help="The name of the key.")],
    organization: OrganizationOption,
    user: Annotated[
        str, typer.Option(help="The member who owns the key: an email address or id.", metavar="USER")
    ] = "",
    service_account: Annotated[str, typer.Option(help="The service account that owns the key.", metavar="ID")] = "",
    project: Annotated[str, typer.Option(help="The only project the key can act in.", metavar="ID")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="A scope the key carries; may be repeated.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model the key can use; may be repeated. All, if left out.")
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="An IP address or range the key can be used from; may be repeated.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="Metadata as NAME=VALUE; may be repeated.")] = None,
    subscription: Annotated[
        str, typer.Option(help="The subscription that calls with the key fall under; it stops with it.", metavar="ID")
    ] = "",
    external_id: Annotated[str, typer.Option(help="Your own id for the user of the key.")] = "",
    all_organizations: Annotated[
        bool, typer.Option("--all-organizations", help="Let a gateway's scopes hold in all organizations.")
    ] = False,
    gateway_organization: Annotated[
        str, typer.Option(help="The organization in which a gateway's scopes hold, instead of its own.", metavar="ID")
    ] = "",
    expires: Annotated[str, typer.Option(help="When the key expires: a time, or a span from now such as 30d.")] = "",
    test: Annotated[
        bool, typer.Option("--test", help="Create a key of the TEST environment: metered, never charged.")
    ] = False,
    request_id: Annotated[
        str, typer.Option(help="Makes the command safe to repeat; a repeat does not show the secret.")
    ] = "",
    secret_only: SecretOnlyOption = False,
) -> None:
    """Create a key and print its secret, which is not shown again."""
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
        subscription_id=subscription,
        all_organizations=all_organizations,
        gateway_organization_id=gateway_organization,
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
    user: Annotated[str, typer.Option(help="Only keys of this user.", metavar="USER")] = "",
    service_account: Annotated[str, typer.Option(help="Only keys of this service account.", metavar="ID")] = "",
    project: Annotated[str, typer.Option(help="Only keys of this project.", metavar="ID")] = "",
    external_id: Annotated[str, typer.Option(help="Only keys with this external id.")] = "",
    subscription: Annotated[str, typer.Option(help="Only keys of this subscription.", metavar="ID")] = "",
    state: Annotated[_State | None, typer.Option(help="Only keys in this state.")] = None,
    limit: LimitOption = LIMIT,
) -> None:
    """List an organization's keys, newest first."""
    request = api_key_pb2.ListApiKeysRequest(
        organization_id=organization,
        project_id=project,
        user_id=await user_id_of(channels, user) if user else "",
        service_account_id=service_account,
        external_id=external_id,
        subscription_id=subscription,
        state=api_key_pb2.ApiKeyState.Value(f"API_KEY_STATE_{state.name if state else 'UNSPECIFIED'}"),
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
    overlap: Annotated[str, typer.Option(help="How long the old secret keeps working, such as 24h.")] = "0s",
    expires: Annotated[
        str, typer.Option(help="When the new key expires: a time, or a span from now such as 30d.")
    ] = "",
    request_id: Annotated[
        str, typer.Option(help="Makes the command safe to repeat; a repeat does not show the secret.")
    ] = "",
    secret_only: SecretOnlyOption = False,
) -> None:
    """Replace a key with a new one and print the new secret, which is not shown again."""
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
    """Disable a key until it is enabled again."""
    request = api_key_pb2.DisableApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).DisableApiKey(request)).api_key)


@calling(group, "enable")
async def enable(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Enable a disabled key."""
    request = api_key_pb2.EnableApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).EnableApiKey(request)).api_key)


@calling(group, "revoke")
async def revoke(channels: Channels, output: Output, key: KeyArgument, organization: OrganizationOption) -> None:
    """Revoke a key for good."""
    request = api_key_pb2.RevokeApiKeyRequest(
        organization_id=organization, api_key_id=await api_key_id_of(channels, organization, key)
    )
    output.one((await api_key_pb2_grpc.ApiKeyServiceStub(channels.identity).RevokeApiKey(request)).api_key)


def _print_new(output: Output, key: api_key_pb2.ApiKey, secret: str, *, secret_only: bool) -> None:
    if secret_only and not secret:
        raise WrongUse(
            f"The key {key.api_key_id} was created earlier with this --request-id; its secret cannot be shown again."
        )
    if secret_only:
        typer.echo(secret)
    elif output.as_json:
        output.json({"api_key": as_dict(key), "secret": secret})
    else:
        output.one(key, secret=secret)
        output.remark(
            "The secret is not stored and cannot be shown again."
            if secret
            else "The key was created earlier, so its secret cannot be shown."
        )


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise WrongUse(f"{wrong[0]!r} is not of the form NAME=VALUE.")
    return pairs
