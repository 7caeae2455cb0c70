"""The operator's command line, run in this process on the database of a test."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner, Result

from _oauth2_m2m.cli import app


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs commands; a thread of their own each, for they start an event loop."""

    mongo_url: str
    database_name: str

    def __call__(self, *words: object, answer: str = "", code: int = 0) -> Result:
        """Run a command, which must end with this code.

        Args:
            words: the command line.
            answer: what is typed when it asks.
            code: how it must end.
        """
        environment = {"MONGODB_URL": self.mongo_url, "MONGODB_DB": self.database_name}

        def invoke() -> Result:
            runner = CliRunner(env=environment)
            return runner.invoke(app, list(map(str, words)), input=answer)

        with ThreadPoolExecutor(1) as thread:
            result = thread.submit(invoke).result()
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def json(self, *words: object, **options: Any) -> Any:
        """Run a command with `--json`; what it printed."""
        return json.loads(self(*words, "--json", **options).stdout)
