"""Files of a stage through the connector's own GET and PUT, which work for stages of every kind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fileset_integrations.errors import FileSetFetchError, SnowflakeError, StageFileNotFoundError
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.downloads import Download, Patience, digest_file
from fileset_integrations.storage.locations import StageLocation, literal

_NO_SUCH_FILE = 253006  # the connector's own number, for a GET that matches nothing


class ConnectorFiles:
    """A stage's files by GET, one statement a file.

    Connector 5.2 renames whole files into place, but neither resumes a body that broke off nor verifies one of a stage
    that is encrypted on the server (both seen): so a failure is tried again here, and the caller verifies.

    Args:
        session: The connection.
        location: The stage.
        shown: How a path is named in errors.
    """

    def __init__(self, session: SnowflakeSession, location: StageLocation, shown: Callable[[str], str]) -> None:
        self._session, self._location, self._shown = session, location, shown

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        """Fetch a whole file; see `PresignedFiles.download`."""
        del size  # compared by the caller
        patience = Patience(self._shown(path))
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix="get-"))
        try:
            while True:
                try:
                    self._session.execute(_get(self._location, path, folder), again=True)
                    break
                except SnowflakeError as error:
                    cause = self._judge(error, path)
                patience.wait(cause)
            (folder / path.rsplit("/", 1)[-1]).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return digest_file(target, with_md5)

    def _judge(self, error: SnowflakeError, path: str) -> str:
        shown = self._shown(path)
        if error.errno == _NO_SUCH_FILE:
            raise StageFileNotFoundError(
                f"{shown}: the stage has no such file. Make or copy the FileSet again."
            ) from error
        if error.refused:
            raise FileSetFetchError(f"{shown}: cannot be fetched: {error}") from error
        return f"the connector says: {error}"

    def upload(self, source: bytes, path: str) -> str:
        """Put bytes under a path where nothing is; the status that the connector reports.

        Raises:
            SnowflakeError: It was refused, or the answer was lost.
        """
        folder, _, name = path.rpartition("/")
        # https://docs.snowflake.com/en/sql-reference/sql/put; compression would rename the file.
        sql = (
            f"PUT {literal('file:///' + name)} {self._location.reference(folder + '/')} "
            "AUTO_COMPRESS=FALSE SOURCE_COMPRESSION=NONE OVERWRITE=FALSE"
        )
        rows = self._session.execute(sql, upload=source).dicts()
        return str(rows[0].get("status", "")).upper() if rows else ""


def _get(location: StageLocation, path: str, folder: Path) -> str:
    # https://docs.snowflake.com/en/sql-reference/sql/get; a file's own path matches that file, and such whose names
    # go on after it, which do no harm in a folder of our own.
    return f"GET {location.reference(path)} {literal(f'file://{folder}/')}"
