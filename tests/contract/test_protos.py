"""Rules that every RPC, message and field of the contract keeps, checked on the descriptors."""

import re
from collections import Counter

from buf.validate import validate_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions

from scripts import errors_page, protos
from tests.contract import contract
from tollhouse.common.v1 import access_pb2, text_pb2

STRING = FieldDescriptorProto.TYPE_STRING
REPEATED = FieldDescriptorProto.LABEL_REPEATED

# RPCs that bring a named resource into a given state: a retry finds it in that state already. An RPC that creates or
# moves something needs an idempotency key, because nothing else tells a retry from a second, separate request.
STATE_SETTING_VERBS = (
    *(
        "Approve",
        "Archive",
        "CancelRerateJob",
        "CancelSubscription",
        "Close",
        "Deactivate",
        "Delete",
        "Disable",
        "Enable",
        "GetPlanOffer",
        "Import",
        # The source and id of each event are its key.
        "IngestEvents",
        "Link",
        "Pause",
        "Publish",
        "SetEventMapping",
        "SetLimit",
        "Reactivate",
        # The provider's id of the event, or the body itself, is the key.
        "ReceiveWebhook",
        "ReconcilePayments",
        "Reject",
    ),
    *(
        "Remove",
        "ReportLeaked",
        "Resume",
        "Retry",
        "Revoke",
        "RunPeriods",
        # A month that is dropped, or a user who is forgotten, is so after a repeat.
        "DropUsageMonth",
        "ForgetUser",
        "SetUsageRetention",
        "SetEntitlementOverride",
        "SetInvoice",
        "SetLowBalanceThreshold",
        "SetPlanExperiment",
        "SetPassword",
        "SetTopUpPolicy",
        "SignIn",
    ),
    *("SignOut", "Suspend", "Sweep", "Unlink", "Update", "Void", "Withdraw"),
)

# Any content gets the same answer as any other wrong key. Only the maximum size of a request limits its length.
WRONG_KEYS_ARE_ANSWERED = {"tollhouse.metering.v1.AuthorizeRequest.api_key"}

# These are compared, decoded or parsed in code, which rejects malformed values.
NEVER_STORED_AS_SENT = {"page_token", "position", "etag", "nonce", "email", "allowed_addresses", "required_scopes"}

FLOATING = {FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FLOAT}


def test_every_element_carries_a_comment_in_full_sentences() -> None:
    silent = [
        element.name
        for element in contract.elements()
        if not element.comment.endswith((".", ":", "`")) or len(element.comment) < 8
    ]
    assert silent == []


def test_every_reason_that_a_comment_names_is_that_of_a_refusal() -> None:
    reasons = {refusal.reason for module in errors_page.MODULES.values() for refusal in errors_page.refusals(module)}
    unknown = [
        (element.name, reason)
        for element in contract.elements()
        for named in re.findall(r"\breasons? (`[A-Z_]+`(?:(?:, | or )`[A-Z_]+`)*)", " ".join(element.comment.split()))
        for reason in re.findall(r"[A-Z_]+", named)
        if reason not in reasons
    ]
    assert unknown == []


def test_no_line_is_longer_than_those_of_the_code() -> None:
    folder = protos.PROTOS / "tollhouse"
    long = [path.name for path in folder.rglob("*.proto") if max(map(len, path.read_text().splitlines())) > 120]
    assert long == []


def test_every_rpc_declares_who_may_call() -> None:
    open_to_nobody = []
    for name, method in contract.methods():
        access = method.options.Extensions[access_pb2.access]
        if not (access.public or access.operators or access.services):
            open_to_nobody.append(name)
    assert open_to_nobody == []


def test_users_may_call_rpcs_with_one_request_only() -> None:
    """A user's rights depend on the one organization that the request names; a stream could name several."""
    wrong = []
    for name, method in contract.methods():
        access = method.options.Extensions[access_pb2.access]
        if (access.scope or access.self_field or access.users) and method.client_streaming:
            wrong.append(name)
    assert wrong == []


def test_every_rpc_says_whether_it_may_be_repeated() -> None:
    silent = [
        name
        for name, method in contract.methods()
        if method.options.idempotency_level == MethodOptions.IDEMPOTENCY_UNKNOWN and not method.client_streaming
    ]
    assert silent == []


def test_every_rpc_maps_to_rest_on_a_route_of_its_own() -> None:
    """But for those to which a client sends a stream, which REST cannot."""
    routes: Counter[str] = Counter()
    problems = []
    for name, method in contract.methods():
        if method.client_streaming:
            continue
        for rule in _rest_mappings(method):
            verb, path = _route(rule)
            routes[f"{verb} {re.sub(r'{[^}]*}', '{}', path)}"] += 1
            problems += [f"{name}: {problem}" for problem in _route_problems(method, verb, path, rule.body)]
    problems += [f"{route} is mapped {count} times" for route, count in routes.items() if count > 1]
    assert problems == []


def test_paths_are_written_in_one_style() -> None:
    """Decision 22 says why: `/v1/pending-charges/{id}:retryNow`, with `=**` for ids that may hold a slash."""
    segment, variable, verb = r"[a-z]+(-[a-z]+)*", r"{[a-z_.]+}", r"(:[a-z][a-zA-Z]*)?"
    style = re.compile(rf"/v1(/({segment}|{variable}))*/({segment}{verb}|{variable}{verb}|{{[a-z_]+=\*\*}})")
    wrong = []
    for name, method in contract.methods():
        for _, path in map(_route, _rest_mappings(method)):
            # That of OpenMeter, whose clients it is for, is as it is.
            if path and path != "/api/v1/events" and not style.fullmatch(path):
                wrong.append(f"{name}: {path}")
            # A batch names what it does of each: `debits:batchDebit`.
            if path and method.name.startswith("Batch") and not re.search(r":batch[A-Z]\w+$", path):
                wrong.append(f"{name}: {path}")
    assert wrong == []


def test_common_service_has_a_path_for_each_service_that_serves_it() -> None:
    contexts = ["billing", "identity", "metering"]
    wrong = []
    for name, method in contract.methods():
        if name.startswith(("tollhouse.common.v1.AuditService/", "tollhouse.common.v1.IntegrityService/")):
            of = sorted(path.split("/")[2] for _, path in map(_route, _rest_mappings(method)))
            wrong += [f"{name}: {of}"] * (of != contexts)
    assert wrong == []


def test_id_from_elsewhere_in_a_path_can_also_be_sent_outside_of_it() -> None:
    """A path cannot carry `?`, `#` or `%` as they are, nor an id that ends like a verb; a query or a body can."""
    missing = []
    for name, method in contract.methods():
        if method.client_streaming:
            continue
        routes = [_route(rule) for rule in _rest_mappings(method)]
        bound = [set(re.findall(r"{([a-z_.]+)", path)) for _, path in routes]
        in_paths = set().union(*bound) & _ids_from_elsewhere(method.input_type)
        missing += [f"{name}: {field}" for field in sorted(in_paths) if all(field in fields for fields in bound)]
    assert missing == []


def test_request_and_response_belong_to_one_rpc_alone() -> None:
    shared = [
        name
        for name, method in contract.methods()
        if not method.input_type.endswith(f".{method.name}Request")
        or not method.output_type.endswith(f".{method.name}Response")
    ]
    used = Counter(kind for _, method in contract.methods() for kind in (method.input_type, method.output_type))
    assert shared + [kind for kind, count in used.items() if count > 1] == []


def test_lists_are_read_in_pages() -> None:
    unpaged = []
    for name, method in contract.methods():
        if method.name.startswith("List"):
            missing = {"page_size", "page_token"} - _fields_of(method.input_type)
            missing |= {"next_page_token"} - _fields_of(method.output_type)
            unpaged += [f"{name}: {field}" for field in sorted(missing)]
    assert unpaged == []


def test_every_change_is_keyed_so_that_a_repeat_is_safe() -> None:
    keys = {"request_id", "operation_id", "lease_id"}
    unkeyed = []
    for name, method in contract.methods():
        if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS or method.client_streaming:
            continue
        if method.name.startswith(STATE_SETTING_VERBS) and method.options.idempotency_level == MethodOptions.IDEMPOTENT:
            continue
        request = contract.messages()[method.input_type.removeprefix(".")]
        items = {field.type_name for field in request.field if field.label == REPEATED and field.type_name}
        named = _fields_of(method.input_type).union(*(_fields_of(item) for item in items))
        if not named & keys:
            unkeyed.append(name)
    assert unkeyed == []


def test_enum_values_carry_the_name_of_their_enum_and_start_unspecified() -> None:
    wrong = []
    for name, enum in contract.enums():
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        wrong += [f"{name}.{value.name}" for value in enum.value if not value.name.startswith(prefix)]
        if (enum.value[0].name, enum.value[0].number) != (f"{prefix}UNSPECIFIED", 0):
            wrong.append(name)
    assert wrong == []


def test_timestamp_fields_are_named_time() -> None:
    wrong = [
        name
        for name, field in contract.fields()
        if (field.type_name == ".google.protobuf.Timestamp") != field.name.endswith(("_time", "_times"))
        or field.name.endswith("_at")
    ]
    assert wrong == []


def test_nothing_is_a_floating_point_number() -> None:
    assert [name for name, field in contract.fields() if field.type in FLOATING] == []


def test_every_text_list_and_map_of_a_request_is_bounded() -> None:
    unbounded = {
        name
        for _, method in contract.methods()
        for name, field in contract.fields_reachable_from(method.input_type.removeprefix("."))
        if not _is_bounded(field) and name not in WRONG_KEYS_ARE_ANSWERED
    }
    assert sorted(unbounded) == []


def test_every_id_of_a_request_has_a_format_rule() -> None:
    unchecked = set()
    for _, method in contract.methods():
        for name, field in contract.fields_reachable_from(method.input_type.removeprefix(".")):
            rules = field.options.Extensions[validate_pb2.field].string
            if field.name in {"operation_id", "request_id"} and not rules.Extensions[text_pb2.caller_chosen_id]:
                unchecked.add(name)
            if (
                field.name in {"model", "model_id"}
                and field.type == STRING
                and not rules.Extensions[text_pb2.model_name]
            ):
                unchecked.add(name)
            if field.name in {"organization_id", "project_id", "user_id", "api_key_id"} and not rules.uuid:
                unchecked.add(name)
    assert sorted(unchecked) == []


def test_every_text_of_a_request_rejects_nul_or_is_cleaned() -> None:
    """Postgres stores no U+0000; and invalid UTF-8 is read as U+0000, so that the same rule refuses it by name."""
    open_to_anything = {
        name
        for _, method in contract.methods()
        for name, field in contract.fields_reachable_from(method.input_type.removeprefix("."))
        if field.type == STRING and not _refuses_nul(field) and name not in WRONG_KEYS_ARE_ANSWERED
    }
    assert sorted(open_to_anything) == []


def test_no_released_field_changes_its_number_type_or_name() -> None:
    """buf compares more than this; these are the changes that would silently misread a message on the wire."""
    released = FileDescriptorSet.FromString(protos.RELEASED.read_bytes())
    broken = []
    for file in released.file:
        if not file.package.startswith("tollhouse."):
            continue
        for message in file.message_type:
            name = f"{file.package}.{message.name}"
            now = contract.messages().get(name)
            kept = {_on_the_wire(field) for field in now.field} if now else set()
            broken += [f"{name}.{field.name}" for field in message.field if _on_the_wire(field) not in kept]
    assert broken == []


def _on_the_wire(field: FieldDescriptorProto) -> tuple[str, int, int, int, str]:
    return field.name, field.number, field.type, field.label, field.type_name


def _fields_of(message_name: str) -> set[str]:
    message = contract.messages().get(message_name.removeprefix("."))
    return {field.name for field in message.field} if message else set()


def _rest_mappings(method: MethodDescriptorProto) -> list[http_pb2.HttpRule]:
    # The stub of the googleapis distribution gives its extension the type of a plain descriptor.
    rule: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]  # type: ignore[index]
    return [rule, *rule.additional_bindings]


def _ids_from_elsewhere(message_name: str) -> set[str]:
    message = contract.messages()[message_name.removeprefix(".")]
    return {field.name for field in message.field if _is_from_elsewhere(field)}


def _is_from_elsewhere(field: FieldDescriptorProto) -> bool:
    text = field.options.Extensions[validate_pb2.field].string
    return text.Extensions[text_pb2.caller_chosen_id] or text.Extensions[text_pb2.model_name]


def _route(rule: http_pb2.HttpRule) -> tuple[str, str]:
    verb = rule.WhichOneof("pattern") or ""
    return verb, str(getattr(rule, verb)) if verb else ""


def _route_problems(method: MethodDescriptorProto, verb: str, path: str, body: str) -> list[str]:
    problems = [] if path.startswith("/v1/") or path == "/api/v1/events" else [f"its route is {verb} {path}"]
    variables = {variable.split(".")[0] for variable in re.findall(r"{([a-z_.]+)", path)}
    unknown = variables - _fields_of(method.input_type)
    problems += [f"its route names {variable}, which the request has not" for variable in sorted(unknown)]
    if body not in {"", "*"} | _fields_of(method.input_type):
        problems.append(f"its body names {body}, which the request has not")
    if (verb in {"get", "delete"}) == bool(body):
        problems.append(f"{verb} {'with' if body else 'without'} a body")
    return problems


def _is_bounded(field: FieldDescriptorProto) -> bool:
    rules = field.options.Extensions[validate_pb2.field]
    if field.options.Extensions[text_pb2.cut_to_chars]:
        return True
    if field.label == REPEATED:
        return bool(rules.repeated.max_items or rules.map.max_pairs)
    if field.type == FieldDescriptorProto.TYPE_BYTES:
        return bool(rules.bytes.max_len or rules.bytes.len)
    if field.type != STRING:
        return True
    text = rules.string
    if _is_from_elsewhere(field) or text.Extensions[text_pb2.model_pattern]:
        return True
    named = text.max_len or text.max_bytes or text.len or text.uuid or text.const or getattr(text, "in")
    return bool(named) or _bounds_length(text.pattern)


def _refuses_nul(field: FieldDescriptorProto) -> bool:
    """Whether the field's rules reject U+0000, for a list in each of its items."""
    if field.options.Extensions[text_pb2.cut_to_chars] or field.name in NEVER_STORED_AS_SENT:
        return True
    if field.options.debug_redact and field.name != "new_password":
        return True  # A secret is compared or hashed.
    rules = field.options.Extensions[validate_pb2.field]
    text = rules.repeated.items.string if field.label == REPEATED else rules.string
    known = (text_pb2.caller_chosen_id, text_pb2.model_name, text_pb2.model_pattern, text_pb2.clean_text)
    if any(text.Extensions[rule] for rule in known) or text.uuid or text.ip or text.const or getattr(text, "in"):
        return True
    # The patterns are written for RE2. Python reads them the same way except for the end of the text.
    return bool(text.pattern) and not re.search(text.pattern, "a\x00b") and not re.search(text.pattern, "\x00")


def _bounds_length(pattern: str) -> bool:
    """Whether a pattern is anchored at both ends and has no unbounded repetition."""
    plain = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "x", pattern)
    return plain.startswith("^") and plain.endswith("$") and not re.search(r"[*+]|{\d+,}", plain)
