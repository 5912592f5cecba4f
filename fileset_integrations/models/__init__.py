"""The recipes' models, one module a framework. Each is built from the data's description, not from a batch."""
