"""Where the files of FileSets live: `opening.open_storage` finds the storage of a location."""
