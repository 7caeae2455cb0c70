"""The operator's own app, named as uvicorn has it named: `module:name`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from uvicorn.importer import ImportFromStringError, import_from_string

from _oauth2_m2m.cli.running import Exit, ending


def app_at(name: str, folder: Path = Path(), *, factory: bool = False) -> Any:
    """Import an app.

    Args:
        name: where it is, such as `yourapp:app`.
        folder: where to import it from.
        factory: whether that is a function that makes the app.

    Raises:
        typer.Exit: there is none, or its module cannot be imported.
    """
    sys.path.insert(0, str(folder.absolute()))  # as uvicorn does
    try:
        with redirect_stdout(sys.stderr):  # whatever the app has to say is no result of ours
            app = import_from_string(name)
            return app() if factory else app
    except ImportFromStringError as mistake:
        raise ending(Exit.USAGE, f"{name}: {mistake}") from None
    except (Exception, SystemExit) as error:  # an app that gives up must not look like one in order
        why = f"{type(error).__name__}: {error}"
        raise ending(Exit.USAGE, f"{name} cannot be imported: {why}") from error
