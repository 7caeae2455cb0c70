"""Make a Pipfile.lock that names no package index; `make lock` calls it in the project's folder."""

import json
from pathlib import Path

from pipenv.vendor.plette import Pipfile

lock_file = Path("Pipfile.lock")
lock = json.loads(lock_file.read_text())
lock["_meta"]["sources"] = []
for package in [*lock["default"].values(), *lock["develop"].values()]:
    package.pop("index", None)

# The hash covers the index as well. This one is what pipenv computes where none is configured, so
# that `pipenv verify` and `pipenv install` take the lock there as it is.
with Path("Pipfile").open() as pipfile:
    digest = Pipfile.load(pipfile).get_hash()
lock["_meta"]["hash"] = {digest.name: digest.value}

lock_file.write_text(json.dumps(lock, indent=4) + "\n")
