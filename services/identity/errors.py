"""The refusals of identity's commands. Answers about a presented key are no refusals and do not stand here."""

from libs.common.errors import Kind, Refusal


class UserAlreadyExists(Refusal):
    """The email or the username belongs to another user; the fact `field` names which."""

    kind = Kind.ALREADY_EXISTS
    reason = "USER_ALREADY_EXISTS"
    template = "Another user has this {field}."


class MemberAlreadyExists(Refusal):
    """The user belongs to the organization already."""

    kind = Kind.ALREADY_EXISTS
    reason = "MEMBER_ALREADY_EXISTS"
    template = "The user belongs to the organization already ({field})."


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


class ApiKeyRevoked(Refusal):
    """A revoked key stays revoked."""

    kind = Kind.FAILED_PRECONDITION
    reason = "API_KEY_REVOKED"
    template = "The API key is revoked, and a revocation is final."


class RevisionNotReached(Refusal):
    """The caller asks for changes that nobody has made."""

    kind = Kind.FAILED_PRECONDITION
    reason = "REVISION_NOT_REACHED"
    template = "The revision {min_revision} was asked for, but the newest is {revision}."


class TooManyWatchers(Refusal):
    """The process serves as many change streams as it may."""

    kind = Kind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_WATCHERS"
    template = "This process serves {watchers} change streams and takes no more."
    retry_after_ms = 1_000
