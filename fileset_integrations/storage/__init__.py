"""Where the files of FileSets live."""

from fileset_integrations.storage.directory import BucketStorage, LocalStorage, Storage, open_storage

__all__ = ["BucketStorage", "LocalStorage", "Storage", "open_storage"]
