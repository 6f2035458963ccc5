"""`tollhouse conversation …`: conversations and what was said in them."""

from typing import Annotated, Final

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output, as_dict
from tollhouse.metering.v1 import conversation_pb2, conversation_pb2_grpc

group = typer.Typer(name="conversation", help="Conversations and their messages.", no_args_is_help=True)
ConversationArgument = Annotated[str, typer.Argument(help="The conversation's id.", metavar="CONVERSATION")]
_METERING: Final = ("metering",)
_COLUMNS: Final = ("conversation_id", "user_id", "title", "message_count", "create_time", "update_time")
_MESSAGE_COLUMNS: Final = ("position", "role", "content", "model", "cost", "create_time")


@calling(group, "list", _METERING)
async def list_conversations(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    user: Annotated[str, typer.Option(help="Only those of this user.")] = "",
    project: Annotated[str, typer.Option(help="Only those of this project.")] = "",
    title: Annotated[str, typer.Option(help="Only those with this text in their title.")] = "",
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones, too.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones, too.")] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """List conversations, the latest begun first."""
    request = conversation_pb2.ListConversationsRequest(
        organization_id=organization,
        user_id=user,
        project_id=project,
        title=title,
        show_archived=archived,
        show_deleted=deleted,
    )
    found, more = await listed(_stub(channels).ListConversations, request, lambda page: page.conversations, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "show", _METERING)
async def show(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    conversation: ConversationArgument,
    without_content: Annotated[bool, typer.Option("--without-content", help="Leave contents out.")] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """Show the messages of a conversation in their order."""
    request = conversation_pb2.ListMessagesRequest(
        organization_id=organization, conversation_id=conversation, without_content=without_content
    )
    found, more = await listed(_stub(channels).ListMessages, request, lambda page: page.messages, limit)
    output.many(found, _MESSAGE_COLUMNS, more=more)


@calling(group, "delete", _METERING)
async def delete(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    conversation: ConversationArgument,
    yes: YesOption = False,
) -> None:
    """Delete the title and contents of a conversation; counts, usage and costs stay."""
    confirm(f"Delete everything that was said in {conversation}?", yes=yes)
    request = conversation_pb2.DeleteConversationRequest(organization_id=organization, conversation_id=conversation)
    left = (await _stub(channels).DeleteConversation(request)).conversation
    if output.as_json:
        output.json(as_dict(left))
    else:
        output.line(f"deleted; {left.message_count} messages are still counted")


def _stub(channels: Channels) -> conversation_pb2_grpc.ConversationServiceStub:
    return conversation_pb2_grpc.ConversationServiceStub(channels.metering)
