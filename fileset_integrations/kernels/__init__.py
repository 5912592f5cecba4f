"""Arrow columns to arrays and statistics, one conversion a module: vectorised, without a Python object per row."""
