"""The page that lists who may call each RPC matches the protos."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from scripts import access_page


def test_committed_page_matches_the_protos() -> None:
    assert access_page.PAGE.read_text(encoding="utf-8") == access_page.render(
        access_page.services() + access_page.proxy_services()
    )


def test_page_has_a_row_for_every_rpc() -> None:
    lines = access_page.render(access_page.services()).splitlines()
    names = [method.name for service in access_page.services() for method in service.methods]
    rows = [line for line in lines if line.count("|") == len(access_page.COLUMNS) + 1]
    heads = 2 * len(access_page.services())
    assert len(rows) == len(names) + heads
    assert len(names) > 50


def test_rpc_that_declares_no_access_gets_no_page() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared", syntax="proto3")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="OpenService")
    service.method.add(name="Do", input_type=".undeclared.Nothing", output_type=".undeclared.Nothing")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    with pytest.raises(ValueError, match=r"undeclared\.OpenService\.Do declares no access"):
        access_page.render([pool.FindServiceByName("undeclared.OpenService")])
