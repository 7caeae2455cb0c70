"""Debian's glewlwyd (C) on SQLite, configured as its sample says, clients made through its API.

Its packages are unpacked into .bench/glewlwyd instead of being installed, so that no service of
the machine is touched. Where there are none, it does not take part.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2] / ".bench" / "glewlwyd"
DATABASE = HOME / "bench.db"
CONFIG = HOME / "bench.conf"
LIBRARIES = HOME / "usr" / "lib" / "x86_64-linux-gnu"
MODULES = HOME / "usr" / "lib" / "glewlwyd"
PROGRAM = HOME / "usr" / "bin" / "glewlwyd"
SCHEMA = HOME / "usr" / "share" / "doc" / "glewlwyd" / "database" / "init.sqlite3.sql.gz"

ENVIRONMENT = {"LD_LIBRARY_PATH": str(LIBRARIES)}


def available() -> bool:
    """Whether it was unpacked."""
    return PROGRAM.exists()


def command(port: int) -> Sequence[str]:
    """How it is started."""
    return [str(PROGRAM), f"--config-file={CONFIG}", f"--port={port}"]


def make_database() -> None:
    """Make its database anew, and write its configuration."""
    for file in HOME.glob("bench.db*"):
        file.unlink()
    with sqlite3.connect(DATABASE) as database:
        database.executescript(gzip.decompress(SCHEMA.read_bytes()).decode())
    database.close()
    (MODULES / "user_middleware").mkdir(exist_ok=True)
    modules = {
        "user_module_path": "user",
        "user_middleware_module_path": "user_middleware",
        "client_module_path": "client",
        "user_auth_scheme_module_path": "scheme",
        "plugin_module_path": "plugin",
    }
    CONFIG.write_text(
        "\n".join([
            'bind_address="127.0.0.1"',
            'external_url="http://127.0.0.1"',
            'api_prefix="api"',
            'log_mode="console"',
            'log_level="ERROR"',
            'cookie_domain="127.0.0.1"',
            'session_key="GLEWLWYD2_SESSION_ID"',
            'admin_scope="g_admin"',
            'profile_scope="g_profile"',
            'hash_algorithm="SHA512"',
            *(f'{name}="{MODULES / folder}"' for name, folder in modules.items()),
            f'database = {{ type = "sqlite3"; path = "{DATABASE}"; }};\n',
        ])
    )  # fmt: skip


def make_clients(port: int, clients: Mapping[str, str]) -> None:
    """Make the scope, the OAuth 2 plugin and the clients, as its administrator does."""
    admin = {"username": "admin", "password": "password"}  # as its schema makes it
    cookie = _post(port, "auth", admin, "").partition(";")[0]
    scope = {"name": "read", "display_name": "Read", "password_required": False, "scheme": {}}
    _post(port, "scope", scope, cookie)
    parameters = {
        "url": "bench",
        "jwt-type": "sha",
        "jwt-key-size": "256",
        "key": os.urandom(32).hex(),
        "access-token-duration": 900,
        "refresh-token-duration": 1209600,
        "code-duration": 600,
        "refresh-token-rolling": False,
        "auth-type-code-enabled": False,
        "auth-type-implicit-enabled": False,
        "auth-type-password-enabled": False,
        "auth-type-client-enabled": True,
        "auth-type-refresh-enabled": False,
        "scope": [],
    }
    plugin = {"module": "oauth2-glewlwyd", "name": "bench", "display_name": "OAuth 2"}
    _post(port, "mod/plugin", {**plugin, "parameters": parameters}, cookie)
    for client_id, secret in clients.items():
        client = {
            "client_id": client_id,
            "name": client_id,
            "password": secret,
            "confidential": True,
            "enabled": True,
            "authorization_type": ["client_credentials"],
            "scope": ["read"],
        }
        _post(port, "client", client, cookie)


def _post(port: int, path: str, body: Mapping[str, Any], cookie: str) -> str:
    """Post JSON; the answer is the cookie that it sets."""
    headers = {"Content-Type": "application/json", "Cookie": cookie}
    url = f"http://127.0.0.1:{port}/api/{path}/"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return str(response.headers.get("Set-Cookie", ""))
