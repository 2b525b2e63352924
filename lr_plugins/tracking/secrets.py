"""Passwords in addresses: finding, masking and removing them."""

from __future__ import annotations

import os
import re
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit, urlunsplit

MASK = "***"
USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
"""The environment variables in which MLflow itself looks for credentials."""
# The password stands between the first colon and the last @ before the path. One that holds a / or ?, which it should
# not, is found as well, unless it looks like a port: digits, then the path.
_USER_AND_PASSWORD = re.compile(
    r"""(?P<start>(?<=[A-Za-z0-9+.-])://[^\s:/?#'"<>\[\]]*:)(?!\d{1,5}[/?#])"""
    r"""(?:(?:(?!://)[^\s'"/?#])+@|(?:(?!://)[^\s'"])+@)"""
)
# A token in place of a user name: long, with digits.
_USER_ALONE = re.compile(r"""(?P<start>https?://)(?=[^\s:@/?#'"<>]*\d)[^\s:@/?#'"<>]{12,}@""")
_IN_A_QUERY = re.compile(
    r"""(?P<start>[?&;](?:\w*(?:passw(?:or)?d|pwd|passphrase|secret|token)|api_?key|access_?key)=)[^\s&;#'"<>]+""",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text with the passwords of the addresses in it replaced by `***`.

    Example:
        >>> masked("no answer from http://me:s3cret@host:5000/path")
        'no answer from http://me:***@host:5000/path'
        >>> masked("postgresql://host/mlflow?user=me&password=s3cret")
        'postgresql://host/mlflow?user=me&password=***'
        >>> masked("http://host:5000/#/experiments/1?workflowType=machine_learning")
        'http://host:5000/#/experiments/1?workflowType=machine_learning'
    """
    text = _USER_AND_PASSWORD.sub(rf"\g<start>{MASK}@", text)
    text = _USER_ALONE.sub(rf"\g<start>{MASK}@", text)
    return _IN_A_QUERY.sub(rf"\g<start>{MASK}", text)


def has_secret(address: str) -> bool:
    """Whether an address contains a password.

    Example:
        >>> has_secret("http://me:s3cret@host"), has_secret("sqlite:///mlflow.db")
        (True, False)
    """
    return masked(address) != address


def without_user(address: str) -> tuple[str, str | None, str | None]:
    """An http address without user name and password, and these two, which are None if the address has none.

    Example:
        >>> without_user("http://me:s3%40cret@host:5000/path")
        ('http://host:5000/path', 'me', 's3@cret')
        >>> without_user("postgresql://me:s3cret@host/mlflow")
        ('postgresql://me:s3cret@host/mlflow', None, None)
    """
    try:
        parts = urlsplit(address)
    except ValueError:  # MLflow will reject it
        return address, None, None
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not at:
        return address, None, None
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=host)), unquote(name), unquote(password)


_given: dict[str, str] = {}  # credentials put into the environment because an address had them


def connectable(address: str) -> str:
    """An address for MLflow's client: user and password are moved to the environment.

    Credentials that the environment already has take precedence, as in MLflow.
    """
    for name, value in _given.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _given.clear()
    plain, user, password = without_user(address)
    if not user or not password:
        return address
    if not (os.environ.get(TOKEN) or (os.environ.get(USERNAME) and os.environ.get(PASSWORD))):
        _given.update({USERNAME: user, PASSWORD: password})
        os.environ.update(_given)
    return plain


class MaskedStream:
    """A stream that masks passwords in what is written to it.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(masked(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
