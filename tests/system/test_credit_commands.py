"""`tollhouse credits`: credits for one user, and what is left of them."""

from tests.system.commands import done, found, made
from tests.system.installation import Installation, create_organization_and_owner
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc


async def test_credits_for_a_user_are_granted_listed_and_shown(installation: Installation) -> None:
    scope = ("--model", "gpt-of-anna")
    async with installation.connection().open() as channels:
        org, anna = await create_organization_and_owner(channels)
        models = model_pb2_grpc.ModelServiceStub(channels.metering)
        await models.CreateModel(model_pb2.CreateModelRequest(model_id="gpt-of-anna"))
    granted = made(installation, "credits", "grant", org, "1000", "TOKEN", "--user", anna, *scope)
    assert (granted["user_id"], granted["model"]) == (anna, "gpt-of-anna")
    (hers,) = found(installation, "credits", "list", org, "--user", anna)
    assert hers == granted
    text = done(installation, "credits", "show", org, "TOKEN", "--user", anna, *scope)
    shown = {line[:24].strip(): line[25:] for line in text.splitlines()}
    amount = "1000 TOKEN"
    assert shown["available"] == amount
    assert f"{amount}, of which {amount} is left" in text
    assert shown["scoped"] == ""
    assert f"scoped                   {amount}" in done(installation, "credits", "show", org).splitlines()
