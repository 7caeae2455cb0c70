"""Make a Pipfile.lock that names no package index. Called by `make lock`."""

import json
import sys
from pathlib import Path

lock_file = Path(sys.argv[1])
lock = json.loads(lock_file.read_text())
lock["_meta"]["sources"] = []
for package in [*lock["default"].values(), *lock["develop"].values()]:
    package.pop("index", None)
lock_file.write_text(json.dumps(lock, indent=4) + "\n")
