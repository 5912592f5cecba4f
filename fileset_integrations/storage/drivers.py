"""fsspec's drivers: found by a URL, made anew in forked processes, their failures told in our words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from fileset_integrations.errors import (
    FileSetCorruptError,
    FileSetError,
    FileSetFetchError,
    FileSetLocationError,
    MissingDependencyError,
    how_to_install,
)
from fileset_integrations.storage.downloads import Download, digest_file
from fileset_integrations.storage.fetching import RemoteFile

# Of what drivers raise, some is of classes that only they know: the names tell.
_OF_CREDENTIALS = re.compile("Permission|Credential|Token|Auth|Profile|Forbidden")
_OF_THE_WAY = re.compile("Connect|Timeout|Endpoint|Payload|SSL")
_SECRET_OPTION = re.compile("passw|secret|token|key|sas|sig|credential|connection_string", re.IGNORECASE)
_WHERE_CREDENTIALS_ARE = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment; a profile in ~/.aws; or "
    "storage_options=, which no other process is told",
}
_THE_DRIVERS_OWN = "the environment, as fsspec's driver reads it; or storage_options=, which no other process is told"
_LONGEST = 300  # characters of what a driver says


class Driver:
    """The driver of a location.

    Args:
        location: The URL.
        options: What the driver is told; in nothing that is shown.

    Attributes:
        location: The URL as the driver writes it.

    Raises:
        FileSetLocationError: There is no such driver, or it takes neither this URL nor these options.
    """

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._pid = os.getpid()
        self._scheme = location.split("://", 1)[0]
        try:
            self._fs, root = fsspec.core.url_to_fs(location, **self._options)
        except ImportError as error:
            if self._scheme in ("s3", "s3a"):
                raise MissingDependencyError(f"{location}: {self.said(error)}. {how_to_install('s3')}") from error
            raise FileSetLocationError(
                f"{location}: {self.said(error)}. To read and write there, install fsspec's driver for "
                f"{self._scheme}://."
            ) from error
        except (ValueError, TypeError) as error:
            raise FileSetLocationError(
                f"{location}: {self.said(error)}. Pass a directory, or a URL and storage_options that fsspec knows."
            ) from error
        self.location: str = self._fs.unstrip_protocol(root.rstrip("/"))

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The driver; made anew in a forked process, where one with an event loop (s3fs) refuses to work."""
        if self._pid != os.getpid():
            self._fs, _ = fsspec.core.url_to_fs(self.location, **self._options)
            self._pid = os.getpid()
        return self._fs

    @contextmanager
    def explained(self, path: str, done: str) -> Iterator[None]:
        """Tell what goes wrong in our words; that a file is missing, or there already, is for the caller to judge.

        Args:
            path: What is asked for.
            done: What was to be done with it: "read", "listed", "written", "removed" or "fetched".

        Raises:
            FileSetLocationError: It cannot be done; says what would do.
        """
        try:
            yield
        except (FileSetError, FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            raise FileSetLocationError(self.why(path, done, error)) from error

    def why(self, path: str, done: str, error: Exception) -> str:
        """What went wrong, and what would do."""
        name = type(error).__name__
        if isinstance(error, PermissionError) or _OF_CREDENTIALS.search(name):
            where = _WHERE_CREDENTIALS_ARE.get(self._scheme, _THE_DRIVERS_OWN)
            remedy = f"Check the credentials and what they allow. They come from {where}."
        elif isinstance(error, ConnectionError | TimeoutError) or _OF_THE_WAY.search(name):
            remedy = (
                "Check the network, and the endpoint if it is one of your own; run it again once the store answers."
            )
        else:
            remedy = "Pass a location for which you have the right to do that."
        return f"{path}: cannot be {done} ({name}: {self.said(error)}). {remedy}"

    def said(self, error: Exception) -> str:
        """What a driver says, in one line without what it was told in secret."""
        text = " ".join(str(error).split())
        for secret in _secrets(self._options):
            text = text.replace(secret, "***")
        return text[:_LONGEST].rstrip(".")


def _secrets(options: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and value and _SECRET_OPTION.search(str(name)):
            yield value


class DriverFiles:
    """What is fetched through a driver: a whole file in one go, which the driver itself tries again where that helps.

    Args:
        driver: The driver.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def check_process(self) -> None:
        """Every process may fetch, forked ones by a driver of their own."""

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        """Fetch a whole file.

        Args:
            path: Its URL.
            target: The file to write.
            size: Bytes that it has; compared by the caller.
            with_md5: Compute its md5 too.

        Raises:
            FileSetCorruptError: It is not there.
            FileSetFetchError: It cannot be fetched.
            OSError: The disk is full.
        """
        del size
        try:
            self._driver.fs.get_file(path, str(target))
        except FileNotFoundError as error:
            raise FileSetCorruptError(f"{path}: the file is missing. Make or copy the FileSet again.") from error
        except Exception as error:
            if isinstance(error, OSError) and (
                error.errno in (errno.ENOSPC, errno.EDQUOT) or error.filename == str(target)
            ):
                raise  # of the disk that it is written to
            raise FileSetFetchError(self._driver.why(path, "fetched", error)) from error
        return digest_file(target, with_md5)

    def listed_md5(self, file: RemoteFile) -> None:
        """None: what stores state under various names is the md5 of some files and not of others, and does not say."""

    def shown(self, path: str) -> str:
        """A URL holds no credentials, and is shown as it is."""
        return path

    def want(self, paths: Iterable[str]) -> None:
        """Nothing is prepared."""

    def unverified(self, file: RemoteFile) -> None:
        """Nothing: of what was made here the manifest knows the digests; of others' files, the driver is trusted."""
