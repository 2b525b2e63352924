"""Passwords in texts: shown as `***`, so that no console, file or database holds them."""

from __future__ import annotations

import re

MASK = "***"

# The password stands between the first colon and the last `@` before the path. One that holds a `/` or a quotation
# mark, which it should not, is found as well, unless it looks like a port: digits, then `/`.
_USER = r"(?<=[A-Za-z0-9+.-])(://[^\s:/?#'\"\[\]]*:)(?!\d{1,5}[/?#])"
_ENDS = (r"\s'\"/?#", r"\s'\"", r"\s")  # what no password holds: by the rules, in messages, anywhere
_PASSWORD = re.compile(_USER + "(?:" + "|".join(rf"(?:(?!://)[^{ends}])+@" for ends in _ENDS) + ")")


def masked(text: str) -> str:
    """The text with the password of each `scheme://user:password@host` replaced by `***`.

    Args:
        text: any text, with any number of addresses in it.

    Example:
        >>> masked("http://user:s%40cret@host:5000/path and postgresql://me:p:a@ss@db/name")
        'http://user:***@host:5000/path and postgresql://me:***@db/name'
        >>> masked("http://host:5000/users/@me")
        'http://host:5000/users/@me'
    """
    return _PASSWORD.sub(rf"\1{MASK}@", text) if "://" in text else text
