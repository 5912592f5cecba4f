"""Client-side encryption, as the connector does it: what a warehouse writes into such a stage, the connector can read.

AES-128 in CBC mode under a key for each file, which stands in the metadata, itself encrypted (ECB) under the stage's
master key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from pathlib import Path

from tests.support.snowflake_server.planted import MARK

_KEY_ID = {"queryId": "01b0-local", "smkId": "1"}


def _master_key(stage_key: str) -> bytes:
    return hashlib.sha256(f"{MARK}{stage_key}".encode()).digest()[:16]


def material(stage_key: str) -> dict[str, str]:
    """The stage's master key, as GET and PUT hand it out."""
    return {"queryStageMasterKey": base64.b64encode(_master_key(stage_key)).decode(), **_KEY_ID}


def encrypt(content: Path, stage_key: str) -> dict[str, str]:
    """Encrypt a file in place; returns the metadata that go with it."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    plain = content.read_bytes()
    key, start = secrets.token_bytes(16), secrets.token_bytes(16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(start)).encryptor()
    content.write_bytes(encryptor.update(_padded(plain)) + encryptor.finalize())
    wrapper = Cipher(algorithms.AES(_master_key(stage_key)), modes.ECB()).encryptor()
    wrapped = wrapper.update(_padded(key)) + wrapper.finalize()
    return {
        "x-amz-meta-sfc-digest": base64.b64encode(hashlib.sha256(plain).digest()).decode(),
        "x-amz-meta-x-amz-key": base64.b64encode(wrapped).decode(),
        "x-amz-meta-x-amz-iv": base64.b64encode(start).decode(),
        "x-amz-meta-x-amz-matdesc": json.dumps({**_KEY_ID, "keySize": "128"}, separators=(",", ":")),
    }


def _padded(data: bytes) -> bytes:
    """PKCS #7."""
    missing = 16 - len(data) % 16
    return data + bytes([missing]) * missing
