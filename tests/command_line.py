"""The operator's command line, run in this process on the database of a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from typer.testing import CliRunner, Result

from _oauth2_m2m.cli import app


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs commands; a thread of their own each, for they start an event loop."""

    mongo_url: str
    database_name: str
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def using(self, **environment: str | None) -> CommandLine:
        """The same in another environment; `None` takes a variable out."""
        return replace(self, environment={**self.environment, **environment})

    def __call__(self, *words: object, answer: str = "", code: int = 0) -> Result:
        """Run a command, which must end with this code.

        Args:
            words: the command line.
            answer: what is typed when it asks.
            code: how it must end.
        """
        environment: dict[str, str | None] = {
            # What a developer's shell has set is no part of a test.
            "ENVIRONMENT": None,
            "OAUTH2_M2M_KEY_ENCRYPTION_KEY": None,
            "COLUMNS": "200",
            "MONGODB_URL": self.mongo_url,
            "MONGODB_DB": self.database_name,
            **self.environment,
        }

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
