"""The table of metrics, the dashboard and the alerts: they speak of what is there, and it exists.

PromQL is not run here. What is read of an expression is its words: each must be a metric of ours
with labels that it has and values that these can take, a function, or a keyword.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.admission import REFUSALS
from _oauth2_m2m.errors import OAuth2Error
from _oauth2_m2m.grants import grant_word
from _oauth2_m2m.metrics import Children, Metrics, Queue
from tests.docs.test_readme import subclasses
from tests.machine import new_machine
from tests.papers import ROOT, blocks, codes, mongosh, paper, section, table
from tests.server import configure, running

#: What Prometheus itself adds to every series.
OF_PROMETHEUS = {"job", "instance"}
FUNCTIONS = {
    "absent", "histogram_quantile", "increase", "max", "min", "min_over_time", "rate", "sum",
    "time",
}  # fmt: skip
KEYWORDS = {"by"}
OUTCOMES = {kind.error for kind in subclasses(OAuth2Error)} | {"success", "failed", "disconnected"}
#: The values that stand in expressions, by the metric without its prefix and the label.
VALUES = {
    "event": set(map(str, REFUSALS)),
    "queue": set(map(str, Queue)),
    "outcome": OUTCOMES,
    "result": {"success", "refused", "unavailable"},
    "state": {"open", "in_use", "awaited"},
    "endpoint": {
        "token", "refresh", "revoke", "introspect", "revocations", "metadata", "jwks",
        "protected_resource", "live", "ready", "metrics",
    },
    "grant": {"none", "unknown", "password", "client_credentials", "refresh_token"},
}  # fmt: skip
#: How a series is called in addition, by the kind of its metric.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@dataclass(frozen=True)
class Family:
    """A metric as it is made."""

    name: str
    kind: str
    labels: frozenset[str]

    @property
    def shown_as(self) -> str:
        """Its name in the table."""
        return self.name + ("_total" if self.kind == "counter" else "")


def families() -> list[Family]:
    made = [c._family for c in vars(Metrics()).values() if isinstance(c, Children)]
    return [Family(each._name, each._type, frozenset(each._labelnames)) for each in made]


FAMILIES = families()
#: The labels of each series.
SERIES = {
    family.name + suffix: family.labels | ({"le"} if suffix == "_bucket" else set())
    for family in FAMILIES
    for suffix in SUFFIXES[family.kind]
}

ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load(paper("docs/operations/alerts.yml"))["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads(paper("docs/operations/grafana-dashboard.json"))
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def faults(expression: str) -> Iterator[str]:
    """What is wrong with an expression."""
    rest = expression.replace("$__rate_interval", "5m").replace("$__range", "5m")
    if rest.count("(") != rest.count(")") or rest.count("{") != rest.count("}"):
        yield "brackets"
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", rest):
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label not in SERIES.get(name, set()) | OF_PROMETHEUS:
                yield f"{name} has no label {label}"
            elif label in VALUES and not set(value.split("|")) <= VALUES[label]:
                yield f"{label} is never {value}"
    metrics = [name for name in re.findall(r"[a-z_]\w*", rest) if name in SERIES]
    known = set().union(OF_PROMETHEUS, *(SERIES[name] for name in metrics))
    if not metrics:
        yield "no metric"
    for labels in re.findall(r"\bby \(([^)]*)\)", rest):
        yield from (f"nothing has {each}" for each in labels.split(", ") if each not in known)
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r'\{[^}]*\}|by \([^)]*\)|\[\w+\]|"[^"]*"', "", rest))
    yield from (f"{w} is unknown" for w in words if w not in {*SERIES, *FUNCTIONS, *KEYWORDS})
    for name in re.findall(r"\b(?:rate|increase)\((\w+)", rest):
        if not name.endswith(("_total", "_bucket", "_sum", "_count")):
            yield f"{name} goes down too"
    for quantile in re.findall(r"histogram_quantile\([^)]*", rest):
        if not re.search(r"\ble\b", quantile) or "_bucket" not in rest:
            yield "a quantile needs buckets, and their label le"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_speaks_of_metrics_that_are_there(rule: dict[str, Any]) -> None:
    """Its names, labels and values exist, and people are told what to do."""
    assert list(faults(rule["expr"])) == []
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert re.fullmatch(r"OAuth2M2M\w+", rule["alert"])
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=lambda part: str(part)[:40])
def test_a_panel_speaks_of_metrics_that_are_there(title: str, target: dict[str, Any]) -> None:
    """Its names and labels exist, those of its legend too; and it goes by the chosen job."""
    expression = target["expr"]
    assert list(faults(expression)) == []
    assert expression.count('job=~"$job"') == len(re.findall(r"oauth2_m2m_\w+", expression))
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert re.search(rf"\bby \([^)]*\b{label}\b", expression), label


def test_the_dashboard_can_be_imported() -> None:
    """Panels have ids of their own, stand beside each other, and ask the chosen Prometheus."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job"}
    for _, target in TARGETS:
        assert target["datasource"]["uid"] == "${datasource}"


def test_every_metric_is_looked_at() -> None:
    """None is counted that no panel shows."""
    shown = " ".join(target["expr"] for _, target in TARGETS)
    assert [f.name for f in FAMILIES if not re.search(rf"\b{f.name}(_\w+)?\b", shown)] == []


@pytest.mark.parametrize(
    "expression",
    [
        "rate(oauth2_m2m_request_total[5m])",
        "rate(oauth2_m2m_requests_total[5m]))",
        'rate(oauth2_m2m_requests_total{client_id="x"}[5m])',
        'rate(oauth2_m2m_requests_total{outcome="ok"}[5m])',
        "sum by (queue) (rate(oauth2_m2m_requests_total[5m]))",
        "rate(oauth2_m2m_keys[5m])",
        "summ(oauth2_m2m_keys)",
        "sum(up)",
        "histogram_quantile(0.9, sum by (queue) (rate(oauth2_m2m_batch_size_bucket[5m])))",
    ],
)
def test_a_mistake_in_an_expression_is_found(expression: str) -> None:
    """What these tests go by does see what it is for."""
    assert list(faults(expression)) != []


def test_the_table_is_that_of_the_metrics() -> None:
    """Each metric with its labels is a row, and nothing else is."""
    rows = table(section(paper("docs/operations.md"), "Metrics"), "metric")
    shown = {codes(row[0])[0]: frozenset(codes(row[1])) for row in rows}
    assert shown == {family.shown_as: family.labels for family in FAMILIES}


def test_every_metric_has_labels() -> None:
    """One without begins at once, also where it will never count: at nought, or in 1970."""
    assert [family for family in FAMILIES if not family.labels] == []


def test_the_values_of_these_tests_are_those_of_the_code() -> None:
    """What `VALUES` says of grants and endpoints is what can be counted."""
    words = {grant_word(name) for name in VALUES["grant"] - {"none"}}
    assert words == VALUES["grant"] - {"none"}
    assert grant_word("made up") == "unknown"
    endpoints = (ROOT / "_oauth2_m2m/endpoints").glob("*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in endpoints)
    named = re.findall(r"^    async def (\w+)\(request: Request\) -> Response:", source, re.M)
    assert set(named) == VALUES["endpoint"]
    rows = table(section(paper("docs/operations.md"), "Metrics"), "metric")
    assert set(codes(rows[0][2])) >= VALUES["endpoint"]
    states = (ROOT / "_oauth2_m2m/storage.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(open|in_use|awaited)=-?1", states)) == VALUES["state"]


async def test_it_is_switched_on_and_scraped_as_shown(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """The line for mongosh, the client, and what Prometheus does by its configuration."""
    text = section(paper("docs/operations.md"), "Metrics")
    (line,), (scrapes,) = blocks(text, "js"), blocks(text, "yaml")
    configure(database)
    mongosh(line, database)
    asked = yaml.safe_load(scrapes)["scrape_configs"][0]["oauth2"]
    assert f'register("{asked["client_id"]}", scopes={json.dumps(asked["scopes"])})' in text
    async with running(async_database) as server:
        machine = await new_machine(
            server, client_id=asked["client_id"], scopes=asked["scopes"], method="post"
        )
        token = await machine.get_token(" ".join(asked["scopes"]))
        assert (await machine.call(token, "/metrics")).status_code == 200


def test_lines_are_json_by_the_configuration_that_is_shown() -> None:
    """The file does what the page says, also for the lines of others."""
    (block,) = blocks(section(paper("docs/operations.md"), "The log"), "json")
    program = (
        "import logging.config, json\n"
        f"logging.config.dictConfig(json.loads({block!r}))\n"
        "logging.getLogger('yourapp').warning('two of %d', 3)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stderr
    members = json.loads(printed)
    assert members.keys() == {"time", "level", "logger", "message"}
    assert members["message"] == "two of 3"


def test_the_pages_name_both_files() -> None:
    """Whoever reads how to scrape finds them."""
    metrics = section(paper("docs/operations.md"), "Metrics")
    for name in ("operations/grafana-dashboard.json", "operations/alerts.yml"):
        assert f"]({name})" in metrics
        assert (ROOT / "docs" / name).exists()
