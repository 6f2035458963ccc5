"""The refusals of identity's commands. The codes of VerifyApiKey are ordinary answers and do not stand here."""

from datetime import timedelta

from libs.common.errors import Kind, Refusal


class UserAlreadyExists(Refusal):
    """The email or the username belongs to another user; the fact `field` names which."""

    kind = Kind.ALREADY_EXISTS
    reason = "USER_ALREADY_EXISTS"
    template = "Another user has this {field}."


class IdentityAlreadyLinked(Refusal):
    """Somebody else signs in with the identity; the fact `field` names what identifies it."""

    kind = Kind.ALREADY_EXISTS
    reason = "IDENTITY_ALREADY_LINKED"
    template = "Another user signs in with this {field} of the provider {provider}."


class TooManyIdentities(Refusal):
    """A user has as many linked identities as the limit allows."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_IDENTITIES"
    template = "The user has {identities} linked identities, which is the maximum."


class LastWayToSignIn(Refusal):
    """The change would leave the user unable to sign in."""

    kind = Kind.FAILED_PRECONDITION
    reason = "LAST_WAY_TO_SIGN_IN"
    template = "The user could not sign in any more. Link another identity or set a password first."


class WrongPassword(Refusal):
    """The current password given with a change of password is wrong."""

    kind = Kind.PERMISSION_DENIED
    reason = "WRONG_PASSWORD"
    template = "The current password is wrong."


class ConfigurationFull(Refusal):
    """A configuration has as many keys as the limit allows."""

    kind = Kind.FAILED_PRECONDITION
    reason = "CONFIGURATION_FULL"
    template = "The configuration would have {keys} keys, and may have {keys_max}; remove some first."


class OrganizationAlreadyExists(Refusal):
    """Another organization has the external id."""

    kind = Kind.ALREADY_EXISTS
    reason = "ORGANIZATION_ALREADY_EXISTS"
    template = "Another organization has this {field}."


class MemberAlreadyExists(Refusal):
    """The user belongs to the organization already."""

    kind = Kind.ALREADY_EXISTS
    reason = "MEMBER_ALREADY_EXISTS"
    template = "The user is a member of the organization already ({field})."


class ProjectAlreadyExists(Refusal):
    """The organization has a project of this name."""

    kind = Kind.ALREADY_EXISTS
    reason = "PROJECT_ALREADY_EXISTS"
    template = "The organization has another project with this {field}."


class LastOwner(Refusal):
    """The change would leave the organization without an owner."""

    kind = Kind.FAILED_PRECONDITION
    reason = "LAST_OWNER"
    template = "The user is the last owner of the organization; make another member an owner first."


class PersonalOrganization(Refusal):
    """The organization is a user's personal one: it has no other members and is deleted only with its user."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PERSONAL_ORGANIZATION"
    template = "A user's personal organization cannot have other members, and is deleted only with its user."


class RoleNotHeld(Refusal):
    """The role allows something that the caller may not do, so the caller can neither give it nor take it away."""

    kind = Kind.PERMISSION_DENIED
    reason = "ROLE_NOT_HELD"
    template = "The role {role} allows something that the caller may not do."


class InvitationAlreadyExists(Refusal):
    """The address has an open invitation to the organization."""

    kind = Kind.ALREADY_EXISTS
    reason = "INVITATION_ALREADY_EXISTS"
    template = "The organization has another open invitation with this {field}."


class InvitationExpired(Refusal):
    """The invitation was not accepted before it expired."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVITATION_EXPIRED"
    template = "The invitation expired at {expire_time}."


class InvitationUsed(Refusal):
    """The invitation was accepted before; it works once."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVITATION_USED"
    template = "The invitation was accepted already."


class ProjectMemberAlreadyExists(Refusal):
    """The user is a member of the project already."""

    kind = Kind.ALREADY_EXISTS
    reason = "PROJECT_MEMBER_ALREADY_EXISTS"
    template = "The user is a member of the project already ({field})."


class ServiceAccountAlreadyExists(Refusal):
    """The organization has a service account of this name."""

    kind = Kind.ALREADY_EXISTS
    reason = "SERVICE_ACCOUNT_ALREADY_EXISTS"
    template = "The organization has another service account with this {field}."


class ApiKeyRevoked(Refusal):
    """The key is revoked, and a revocation cannot be undone."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_REVOKED"
    template = "The API key is revoked, which cannot be undone."


class ApiKeyExpired(Refusal):
    """An expired key cannot be rotated."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_EXPIRED"
    template = "The API key has expired; create another."


class ApiKeyDisabled(Refusal):
    """A disabled key cannot be rotated: the new secret would undo the disabling."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_DISABLED"
    template = "The API key is disabled; enable it first."


class ApiKeyRotated(Refusal):
    """The key was rotated before; its end was fixed then."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_ROTATED"
    template = "The API key was rotated already, to {rotated_to_api_key_id}."


class ApiKeyAlreadyExists(Refusal):
    """A key with this digest exists, for another owner or with other terms."""

    kind = Kind.ALREADY_EXISTS
    reason = "API_KEY_ALREADY_EXISTS"
    template = "An API key with this digest exists and has another {field}."


class ApiKeyNotStored(Refusal):
    """The database did not take one key of an import; the others are stored."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_NOT_STORED"
    template = "The key could not be stored; the log of the service says why."


class ScopeNotHeld(Refusal):
    """The caller or the key's owner does not hold a scope that the key would get."""

    kind = Kind.PERMISSION_DENIED
    reason = "SCOPE_NOT_HELD"
    template = "The scope {scope} is not held by both the caller and the owner of the key."


class KeyLimitExceeded(Refusal):
    """The key that the caller came with is more limited than the key they want to make or change."""

    kind = Kind.PERMISSION_DENIED
    reason = "KEY_LIMIT_EXCEEDED"
    template = "The new key would exceed the key the call came with in its {field}."


class TooManyImportedPrefixes(Refusal):
    """Every process keeps all prefixes of imported secrets in memory, so their number is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_IMPORTED_PREFIXES"
    template = "There are {prefixes} prefixes of imported secrets, which is the maximum."


class TooManyUnknownKeys(Refusal):
    """Too many unknown keys were presented from one address."""

    kind = Kind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_UNKNOWN_KEYS"
    template = "The address has presented too many unknown keys; try again in {wait_ms} ms."

    def __init__(self, *, wait_ms: int) -> None:
        super().__init__(wait_ms=wait_ms)
        self.retry_after_ms = wait_ms


class RevisionNotReached(Refusal):
    """The caller asks for a revision that does not exist yet."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REVISION_NOT_REACHED"
    template = "Revision {min_revision} was asked for, but the newest is {revision}."


class BatchAnswerTooLarge(Refusal):
    """The answers to a batch are too large together, and this is one of the largest."""

    kind = Kind.FAILED_PRECONDITION
    reason = "BATCH_ANSWER_TOO_LARGE"
    template = (
        "The answer has {bytes} bytes, and the answers of the batch may have {max_bytes} together; ask for it alone."
    )


class SignInRefused(Refusal):
    """The credentials do not sign anybody in. Whether the user exists, and what is wrong, is not revealed."""

    kind = Kind.UNAUTHENTICATED
    reason = "SIGN_IN_REFUSED"
    template = "These credentials do not sign anybody in."


class ProviderNotConfigured(Refusal):
    """No OpenShift cluster is configured under the name."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PROVIDER_NOT_CONFIGURED"
    template = "No OpenShift cluster is configured as {provider}."


class InvalidAccessToken(Refusal):
    """The provider does not accept the access token, or it is not a person's."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_ACCESS_TOKEN"
    template = "The access token is not accepted."


class InvalidIdToken(Refusal):
    """The ID token is not accepted. Why is written to the log only."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_ID_TOKEN"
    template = "The ID token is not accepted."


class InvalidRefreshToken(Refusal):
    """The refresh token is malformed or unknown, was used before, or its session has ended."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_REFRESH_TOKEN"
    template = "The refresh token is not valid; sign in again."


class SignUpRefused(Refusal):
    """The identity is linked to no user, and it may not become a new one."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SIGN_UP_REFUSED"
    template = "No user has this identity, and it cannot become a new user: {cause}."


class TooManyAttempts(Refusal):
    """Too many passwords were tried for the account or from the address, or too many wrong tokens came from it."""

    kind = Kind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_ATTEMPTS"
    template = "There were too many attempts; wait before trying again."

    def __init__(self, *, wait: timedelta) -> None:
        super().__init__()
        self.retry_after_ms = round(wait.total_seconds() * 1000)


class SessionsNotConfigured(Refusal):
    """No key to sign access tokens with is configured."""

    kind = Kind.FAILED_PRECONDITION
    reason = "SESSIONS_NOT_CONFIGURED"
    template = "No session key is configured, so nobody can sign in."
