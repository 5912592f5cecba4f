"""Files of stages: how the SQL of tests declares them, and what a URL of one gives."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

PARQUET = "file_format = (type = parquet)"
SSE = "encryption = (type = 'SNOWFLAKE_SSE')"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def fetch(url: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for a URL as any HTTP client would."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())
