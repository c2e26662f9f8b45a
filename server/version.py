"""Which version this is."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Final


def _find() -> str:
    try:
        return installed_version("parlance")
    except PackageNotFoundError:
        return "0.1.0"  # started from a checkout; kept equal to setup.cfg by a test


VERSION: Final = _find()
