"""What a test can choose of the server as a whole: above all, things that differ from cloud to cloud."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

_CHOICES = {
    "transfer": ("s3", "gcs"),
    "digests": ("content", "multipart", "opaque", "none"),
    "results": ("arrow", "json"),
    "timestamp_unit": ("ms", "us", "ns"),
}


@dataclass
class Settings:
    """One object for all parts of the server; a change takes effect for the next request.

    Args:
        transfer: How GET hands out files: "s3", temporary keys to a bucket, or "gcs", a presigned URL for each file.
        digests: What LIST's md5 and the ETag are of a file: the MD5 of its "content"; "multipart", another hexadecimal
            number with "-2" behind it; "opaque", another one that looks like an MD5; "none", null and no ETag.
        expired_status: HTTP status of a URL that has expired; None for that of the cloud: 403 of S3, 400 of Google's.
        timestamp_unit: Of TIMESTAMP_NTZ in unloaded files.
        results: Form of the rows of a SELECT, "arrow" or "json"; those of other statements are always JSON.
        rows_inline: Rows of a result that come with the answer; the others come in chunks.
        rows_per_chunk: Rows of such a chunk.
    """

    transfer: str = "s3"
    digests: str = "content"
    expired_status: int | None = None
    timestamp_unit: str = "ms"
    results: str = "arrow"
    rows_inline: int = 500
    rows_per_chunk: int = 2_000

    def change(self, changes: dict[str, Any]) -> None:
        """Set some of them.

        Raises:
            ValueError: There is no such setting or no such choice.
        """
        known = {field.name for field in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no setting {name!r}; there are {', '.join(sorted(known))}.")
            if value not in _CHOICES.get(name, (value,)):
                raise ValueError(f"{name}={value!r}; possible are {', '.join(_CHOICES[name])}.")
        for name, value in changes.items():
            setattr(self, name, value)

    def reset(self) -> None:
        self.change({field.name: field.default for field in fields(self) if field.default is not MISSING})
