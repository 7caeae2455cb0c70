"""uvicorn as a process of its own: what all of those who start one need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60
STOP_SECONDS = 30
JSON_LINES = {"()": "oauth2_m2m.JsonFormatter"}


@contextmanager
def uvicorn_process(
    output: Path,
    arguments: Sequence[str | Path],
    environment: Mapping[str, str],
    has_started: Callable[[str], bool],
) -> Iterator[None]:
    """Start uvicorn, wait until it has started, and stop it whatever happens.

    Args:
        output: the file for all that it prints.
        arguments: its command line.
        environment: variables beside those of this process.
        has_started: whether it has, by what it printed so far.
    """
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *arguments],
            cwd=ROOT,
            env={**clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not has_started(output.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(output.read_text())
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment() -> dict[str, str]:
    """This process's environment without what the example would go by."""
    ours = {"ENVIRONMENT", "CORS_ORIGINS", "FORWARDED_ALLOW_IPS", "OAUTH2_M2M_KEY_ENCRYPTION_KEY"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def logging_config(folder: Path, line: str | None, **levels: str) -> Path:
    """A file for `--log-config` that has all that is logged printed.

    Args:
        folder: where it goes.
        line: how a line looks, see `logging.Formatter`; `None` for JSON.
        levels: of some loggers, by name; that of all others is INFO.
    """
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": {"format": line} if line else JSON_LINES},
        "handlers": {
            "out": {
                "class": "logging.StreamHandler",
                "formatter": "chosen",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["out"], "level": "INFO"},
        "loggers": {name: {"level": level} for name, level in levels.items()},
    }
    path = folder / "logging.json"
    path.write_text(json.dumps(config))
    return path
