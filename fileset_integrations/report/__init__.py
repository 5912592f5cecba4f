"""One HTML page about a FileSet, which needs nothing but itself: no script, no network, no other file."""
