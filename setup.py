"""Which packages ship; everything else is in pyproject.toml.

pyproject.toml can either list packages or find them. We need both: those under fileset_integrations/ are found, so that
a new one is never forgotten, and conf/, which lies at the repository's top, ships as `fileset_integrations.conf`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fileset_integrations", "fileset_integrations.*"]), "fileset_integrations.conf"],
    package_dir={"fileset_integrations.conf": "conf"},
)
