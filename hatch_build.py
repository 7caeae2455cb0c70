"""Install the door as a package, though in the repository it is one file.

Only a package can hold the `py.typed` that makes type checkers read it (PEP 561). This is a hook
and no `force-include` in pyproject.toml because that would also act on editable installs, where a
copy of the door would hide the file that is being edited.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class InstallDoorAsPackage(BuildHookInterface[Any]):
    """Map `oauth2_m2m.py` to `oauth2_m2m/__init__.py`, beside the marker of typed packages."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"] |= {
                "oauth2_m2m.py": "oauth2_m2m/__init__.py",
                "_oauth2_m2m/cli/__main__.py": "oauth2_m2m/__main__.py",
                "py.typed": "oauth2_m2m/py.typed",
            }
