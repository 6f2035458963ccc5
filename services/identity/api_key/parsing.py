"""Reads requests into commands. What annotations cannot check is checked here; all invalid fields are named at once."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeAlias

from libs.common.access import is_known_scope
from libs.common.addresses import network_text, parse_network
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_time
from libs.common.update_mask import mask_violations
from services.identity.api_key.domain import UPDATABLE, Environment, KeyFilter, NewApiKey, State, gateway_scopes_of
from services.identity.api_key.importing.imports import Imported
from services.identity.api_key.manage.leaks import Leak
from services.identity.api_key.manage.limits import gateway_violations
from tollhouse.identity.v1 import api_key_pb2 as pb

ENVIRONMENTS: Final = {
    pb.API_KEY_ENVIRONMENT_LIVE: Environment.LIVE,
    pb.API_KEY_ENVIRONMENT_TEST: Environment.TEST,
}
_STATES: Final = {
    pb.API_KEY_STATE_ACTIVE: State.ACTIVE,
    pb.API_KEY_STATE_DISABLED: State.DISABLED,
    pb.API_KEY_STATE_REVOKED: State.REVOKED,
    pb.API_KEY_STATE_EXPIRED: State.EXPIRED,
}
_Dated: TypeAlias = pb.CreateApiKeyRequest | pb.UpdateApiKeyRequest | pb.RotateApiKeyRequest | pb.ImportedApiKey


def read_new_api_key(request: pb.CreateApiKeyRequest) -> NewApiKey:
    """Return the key that a CreateApiKeyRequest describes.

    Raises:
        InvalidArgument: naming every field at fault.
    """
    violations: list[FieldViolation] = []
    new = _new_api_key(request, request.organization_id.lower(), "", violations)
    new = replace(
        new,
        all_organizations=request.all_organizations,
        gateway_organization_id=request.gateway_organization_id.lower() or None,
    )
    violations += gateway_violations(new.scopes, project_id=new.project_id, environment=new.environment)
    violations += _reach_violations(new)
    if violations:
        raise InvalidArgument(violations)
    return new


def read_update(request: pb.UpdateApiKeyRequest) -> dict[str, object]:
    """Return the new values of the fields that the update mask names.

    Raises:
        InvalidArgument: naming every field at fault.
    """
    paths = list(request.update_mask.paths)
    violations = mask_violations(paths, UPDATABLE)
    values = {
        "name": request.name,
        "metadata": dict(request.metadata),
        "external_id": request.external_id,
        "scopes": _scopes(request.scopes, "", violations),
        "allowed_models": tuple(sorted(request.allowed_models)),
        "allowed_addresses": _addresses(request.allowed_addresses, "", violations),
        "expire_time": read_expire_time(request, "", violations),
        "subscription_id": request.subscription_id.lower() or None,
    }
    if violations:
        raise InvalidArgument(violations)
    return {path: values[path] for path in paths}


def read_imports(request: pb.ImportApiKeysRequest) -> list[Imported]:
    """Return the keys of an import. What is wrong with one key becomes that key's own outcome.

    Raises:
        InvalidArgument: a digest comes more than once.
    """
    require_each_digest_once(request)
    keys: list[Imported] = []
    for index, key in enumerate(request.api_keys):
        place = f"api_keys[{index}]."
        violations: list[FieldViolation] = []
        new = _new_api_key(key, request.organization_id.lower(), place, violations)
        violations += [
            FieldViolation(f"{place}scopes", f"an imported key cannot carry {scope}, as it cannot call Tollhouse")
            for scope in gateway_scopes_of(new.scopes)
        ]
        wanted = InvalidArgument(violations) if violations else new
        keys.append(Imported(bytes.fromhex(key.digest), key.secret_suffix, wanted))
    return keys


def require_each_digest_once(request: pb.ImportApiKeysRequest) -> None:
    """Raise InvalidArgument naming every digest that stands in an import before."""
    seen: set[str] = set()
    repeated: list[FieldViolation] = []
    for index, key in enumerate(request.api_keys):
        if key.digest.lower() in seen:
            repeated.append(FieldViolation(f"api_keys[{index}].digest", "must not come twice"))
        seen.add(key.digest.lower())
    if repeated:
        raise InvalidArgument(repeated)


def read_leak(request: pb.ReportLeakedApiKeyRequest) -> Leak:
    return Leak(request.key, bytes.fromhex(request.digest), request.source, request.url)


def read_filter(request: pb.ListApiKeysRequest) -> KeyFilter:
    return KeyFilter(
        project_id=request.project_id.lower(),
        user_id=request.user_id.lower(),
        service_account_id=request.service_account_id.lower(),
        external_id=request.external_id,
        environment=ENVIRONMENTS.get(request.environment),
        state=_STATES.get(request.state),
        subscription_id=request.subscription_id.lower(),
    )


def read_expire_time(request: _Dated, place: str, violations: list[FieldViolation]) -> datetime | None:
    if not request.HasField("expire_time"):
        return None
    return parse_time(f"{place}expire_time", request.expire_time, violations)


def _new_api_key(
    request: pb.CreateApiKeyRequest | pb.ImportedApiKey,
    organization_id: str,
    place: str,
    violations: list[FieldViolation],
) -> NewApiKey:
    return NewApiKey(
        organization_id=organization_id,
        project_id=request.project_id.lower() or None,
        user_id=request.user_id.lower() or None,
        service_account_id=request.service_account_id.lower() or None,
        name=request.name,
        environment=ENVIRONMENTS.get(request.environment, Environment.LIVE),
        scopes=_scopes(request.scopes, place, violations),
        allowed_models=tuple(sorted(request.allowed_models)),
        allowed_addresses=_addresses(request.allowed_addresses, place, violations),
        metadata=dict(request.metadata),
        external_id=request.external_id,
        expire_time=read_expire_time(request, place, violations),
        subscription_id=request.subscription_id.lower() or None,
    )


def _reach_violations(new: NewApiKey) -> Iterable[FieldViolation]:
    """Return what is wrong with where the scopes of gateways are to hold."""
    given = [name for name in ("all_organizations", "gateway_organization_id") if getattr(new, name)]
    if len(given) > 1:
        yield FieldViolation("gateway_organization_id", "must be empty where all_organizations is set")
    if not gateway_scopes_of(new.scopes):
        yield from (FieldViolation(name, "must be unset for a key without a scope of gateways") for name in given)


def _scopes(scopes: Collection[str], place: str, violations: list[FieldViolation]) -> tuple[str, ...]:
    violations += [
        FieldViolation(f"{place}scopes[{index}]", "is none of Tollhouse's scopes")
        for index, scope in enumerate(scopes)
        if not is_known_scope(scope)
    ]
    return tuple(sorted(scopes))


def _addresses(texts: Iterable[str], place: str, violations: list[FieldViolation]) -> tuple[str, ...]:
    """Return the addresses and ranges in canonical form, without duplicates, sorted by their texts."""
    networks: set[str] = set()
    for index, text in enumerate(texts):
        try:
            networks.add(network_text(parse_network(text)))
        except ValueError:
            message = "must be an IP address, or a CIDR range with no bits set behind its prefix"
            violations.append(FieldViolation(f"{place}allowed_addresses[{index}]", message))
    return tuple(sorted(networks))
