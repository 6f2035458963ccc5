"""The exception by which LiteLLM answers with an error of ours."""

from litellm.proxy._types import ProxyException

from tollhouse_litellm.denials import HttpError


class Refusal(ProxyException):  # type: ignore[misc]  # LiteLLM has no types for us.
    """Refuses a call. LiteLLM takes the status from `code`, and shows end users what `to_dict` returns."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.message, error.kind, None, error.status, headers=dict(error.headers))
        self._reason = error.code
        # Where LiteLLM makes another exception of this one, for transcriptions, it takes the status from here.
        self.status_code = error.status

    def to_dict(self) -> dict[str, object]:
        """Return `error` of the body. Its code is the reason, where LiteLLM would repeat the status."""
        return {"message": self.message, "type": self.type, "param": None, "code": self._reason}
