"""Reading Markdown and typing mongosh lines, as far as our own papers need it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bson import json_util
from pymongo.database import Database

ROOT = Path(__file__).parents[1]
#: How papers name a test below `tests/`: its file and its own name.
TEST = r"(\w+/test_\w+\.py)::(test_\w+)"


def paper(name: str) -> str:
    """The text of a paper of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"no section {title!r}"
    rest = text[found.end() :]
    # A line of a code block may look like a heading, such as a comment in a shell.
    bare = re.sub(r"^```.*?^```", lambda block: " " * len(block[0]), rest, flags=re.M | re.S)
    end = re.search(rf"^#{{1,{len(found[1])}}} ", bare, re.MULTILINE)
    return rest[: end.start()] if end else rest


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has this title, cell by cell."""
    lines = iter(text.splitlines())
    for line in lines:
        if _cells(line)[:1] == [first_column]:
            next(lines)
            return list(_rows(lines))
    raise AssertionError(f"no table that begins with {first_column!r}")


def codes(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def is_there(file: str, test: str) -> bool:
    """Whether a test that a paper names exists."""
    path = ROOT / "tests" / file
    source = path.read_text(encoding="utf-8") if path.exists() else ""
    return re.search(rf"^(async )?def {test}\(", source, re.MULTILINE) is not None


def anchors(text: str) -> set[str]:
    """What a link can point to: each heading, as its page spells it."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}


def mongosh(line: str, database: Database[Any]) -> Any:
    """Do what mongosh does with a line such as `db.clients.find({...}).limit(5)`."""
    calls = list(_calls(line.strip().removeprefix("db.")))
    collection, _, name = calls[0][0].partition(".")
    arguments = calls[0][1]
    target = database[collection]
    match name:
        case "find":
            cursor = target.find(*arguments)
            for step, (value, *_) in calls[1:]:
                cursor = cursor.sort(list(value.items())) if step == "sort" else cursor.limit(value)
            return list(cursor)
        case "aggregate":
            return list(target.aggregate(*arguments))
        case "countDocuments":
            return target.count_documents(*arguments)
        case "insertOne":
            return target.insert_one(*arguments)
        case "updateOne":
            query, update, *options = arguments
            return target.update_one(query, update, **(options[0] if options else {}))
    raise AssertionError(f"no such method here: {name}")


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield _cells(line)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")] if line.startswith("|") else []


def _calls(line: str) -> Iterator[tuple[str, list[Any]]]:
    """Each call of a chain, with its arguments."""
    while line:
        name, _, rest = line.partition("(")
        end = _closing(rest)
        yield name.removeprefix("."), _values(rest[:end])
        line = rest[end + 1 :].strip().removesuffix(";")


def _closing(text: str) -> int:
    """Where the parenthesis that was opened before this text is closed."""
    depth, quoted = 1, False
    for place, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "()":
            depth += 1 if character == "(" else -1
            if depth == 0:
                return place
    raise AssertionError("a parenthesis is not closed")


def _values(text: str) -> list[Any]:
    """JavaScript literals, of the few kinds that the papers use."""
    text = re.sub(r"new Date\((?:Date\.now\(\) - (\d+))?\)", lambda m: _ago(int(m[1] or 0)), text)
    text = re.sub(r"([{,]\s*)([A-Za-z_$][\w$]*)\s*:", r'\1"\2":', text)
    values: list[Any] = json_util.loads(
        f"[{text}]", json_options=json_util.JSONOptions(tz_aware=True)
    )
    return values


def _ago(milliseconds: int) -> str:
    return json.dumps({"$date": {"$numberLong": str(int(time.time() * 1000) - milliseconds)}})
