"""Why an image or a request got no answer: every stable code with its HTTP and gRPC status and its title, once."""

from __future__ import annotations

from enum import StrEnum

# The gRPC status that stands for an HTTP status.
GRPC_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Code(StrEnum):
    """A reason for programs: a string that never changes its meaning.

    ```python
    assert Code.EMPTY == "empty" and Code.EMPTY.status == 422
    ```

    `status` is the HTTP status and `phrase` the title of the problem document (RFC 9457); `grpc_status` is the name of
    the gRPC status.
    """

    status: int
    phrase: str

    EMPTY = "empty", 422, "Empty image"
    UNSUPPORTED_TYPE = "unsupported_type", 415, "Unsupported image type"
    TOO_MANY_BYTES = "too_many_bytes", 413, "Image too large"
    TOO_MANY_PIXELS = "too_many_pixels", 413, "Image too large"
    TOO_MUCH_WORK = "too_much_work", 413, "Image too costly to decode"
    CANNOT_DECODE = "cannot_decode", 422, "Image cannot be decoded"
    CANNOT_READ = "cannot_read", 400, "File cannot be read"
    NOT_A_FILE = "not_a_file", 400, "Not an ordinary file"
    UNSAFE_PATH = "unsafe_path", 422, "Name leads out of its archive"
    DAMAGED_ARCHIVE = "damaged_archive", 422, "Damaged archive"
    BAD_BASE64 = "bad_base64", 422, "Not base64"
    ALL_FAILED = "all_failed", 422, "No image could be used"
    NO_IMAGES = "no_images", 400, "No image in the request"
    BAD_BODY = "bad_body", 400, "Malformed request body"
    UNSUPPORTED_BODY = "unsupported_body", 415, "Unsupported content type"
    BODY_TOO_LARGE = "body_too_large", 413, "Request body too large"
    TOO_MANY_FILES = "too_many_files", 413, "Too many images"
    BAD_PARAMETER = "bad_parameter", 422, "Parameter out of range"
    UNAUTHORIZED = "unauthorized", 401, "API key needed"
    FORBIDDEN = "forbidden", 403, "Not allowed"
    TOO_SLOW = "too_slow", 408, "Request too slow"
    OVERLOADED = "overloaded", 429, "Too many requests"
    BAD_REQUEST = "bad_request", 400, "Malformed request"
    HEADER_TOO_LARGE = "header_too_large", 431, "Request head too large"
    RELOAD_REFUSED = "reload_refused", 422, "Bundle refused"
    CLIENT_GONE = "client_gone", 499, "Client closed the connection"
    NOT_FOUND = "not_found", 404, "Not found"
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "Method not allowed"
    ENGINE_FAILED = "engine_failed", 500, "Inference failed"
    DEADLINE_MISSED = "deadline_missed", 504, "Deadline missed"
    NOT_READY = "not_ready", 503, "Not ready"
    INTERNAL = "internal", 500, "Internal error"

    # The defaults are for type checkers alone, which take the look-up `Code("empty")` for a call of this.
    def __new__(cls, code: str, status: int = 0, phrase: str = "") -> Code:
        """One member."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.phrase = phrase
        return member

    @property
    def grpc_status(self) -> str:
        """The name of the gRPC status of the code."""
        return GRPC_STATUS[self.status]
