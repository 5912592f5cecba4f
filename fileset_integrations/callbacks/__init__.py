"""Callbacks for training runs, one module a framework; `fileset_integrations.lightning` and `.keras` have them too."""
