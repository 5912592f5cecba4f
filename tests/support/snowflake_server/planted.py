"""Secrets that a test can search for: whatever the server gives out or takes as a secret contains MARK."""

MARK = "pl4nt3d"
USER = "TESTER"
PASSWORD = f"{MARK}-password"
ACCESS_TOKEN = f"{MARK}-access-token"  # for authenticator="programmatic_access_token" or "oauth"
