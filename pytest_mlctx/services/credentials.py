"""Redaction of the credentials in URIs, for logs, messages and reports."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a session that only tells where it tracks does not load it
    from typing import Any

    from pydantic import ValidationError

# With a space in it a password is no URI's, but SQLAlchemy takes it.
_CREDENTIALS = re.compile(r"""(?<=://)(?:[^/\s]\S*|[^:/@\s]*:[^@\n'"]*)@""")
_USER_INFO = re.compile(r"(?<=://)[^/\s'\"]+@")
_HEADER = re.compile(r"""(?i)(authorization['"]?\s*[:=]\s*b?['"]?(?:basic|bearer)\s+)[^\s'",}]+""")
_PARAMETERS = re.compile(r"(?i)([?&](?:[a-z_-]*(?:pass|pwd|token|secret|key|odbc_connect)[a-z_-]*)=)[^&\s]*")


def redact(text: str) -> str:
    """The text with the credentials of every URI in it, user name included, replaced by ``***``."""
    return _PARAMETERS.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def redact_prose(text: str) -> str:
    """The same in a text of others, such as a traceback, where an ``@`` may belong to something else."""
    return _HEADER.sub(r"\1***", _PARAMETERS.sub(r"\1***", _USER_INFO.sub("***@", text)))


class _Discreet(str):
    """A string with credentials that its ``repr`` does not show: pytest prints that of a test's fixtures."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(self))


def discreet(text: str) -> str:
    """The text itself; where it holds credentials, as a string whose ``repr`` is redacted."""
    return _Discreet(text) if _holds_credentials(text) else text


def _holds_credentials(text: str) -> bool:
    return redact(text) != text


def redacted(error: ValidationError) -> ValidationError:
    """The error without the credentials in its inputs: pydantic shows the input of each mistake."""
    from pydantic import ValidationError
    from pydantic_core import InitErrorDetails, PydanticCustomError

    mistakes = error.errors(include_url=False)
    if not any(_holds_credentials(f"{mistake['msg']} {mistake['input']!r}") for mistake in mistakes):
        return error
    custom: Any = PydanticCustomError  # typed for literals only
    return ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(
                type=custom(mistake["type"], redact(mistake["msg"])),
                loc=mistake["loc"],
                input=redact(str(mistake["input"])),
            )
            for mistake in mistakes
        ],
    )
