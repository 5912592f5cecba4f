"""fsspec's drivers, with the errors of what they are built on turned into ours."""

from __future__ import annotations

import functools
from typing import Any

from fileset_integrations.errors import FileSetError, FileSetLocationError


class Driver:
    """A driver as it is, but for errors that only its own library knows.

    Drivers promise OSError, and give it for what a store answers. Where there is no answer, s3fs lets botocore's own
    errors through (seen with 2026.9: no credentials, nobody at the endpoint), which are plain exceptions.

    Args:
        driver: fsspec's.
        location: How it is named in errors.
    """

    def __init__(self, driver: Any, location: str) -> None:
        self._driver, self._location = driver, location

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._driver, name)
        if not callable(value):
            return value

        @functools.wraps(value)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return value(*arguments, **options)
            except Exception as error:
                if isinstance(error, OSError | FileSetError) or type(error).__module__ == "builtins":
                    raise
                raise FileSetLocationError(
                    f"{self._location}: the store cannot be reached ({type(error).__name__}: {error}). Check its "
                    "address (storage_options=), the network, and that the environment or a profile has credentials."
                ) from error

        return call
