"""The real Prometheus, with the files of deploy/, and what of PromQL can be said without it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import promql_parser
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from chat_service.embedded.process import die_with_parent, free_port, stop
from tests.wait import wait_until

PROGRAM = shutil.which("prometheus")

VARIABLES = {"$__rate_interval": "1m", "$job": ".*"}
"""What Grafana puts in their place, of a scrape each quarter of a minute and for all jobs."""

COMPARISON = re.compile(r" [<>] [0-9.]+$")
"""At the end of a rule: without it a query returns what is compared, also when all is well."""

TARGET_LABELS = {"job", "instance"}
"""Those that Prometheus adds to each series, beside its own `up`."""


class Query(NamedTuple):
    """One of a dashboard or a rule."""

    where: str
    text: str


def queries(project: Path) -> list[Query]:
    """Return every query of deploy/."""
    dashboard = json.loads((project / "deploy/grafana/chat-service.json").read_text())
    found = [
        Query(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    for rule in rules(project):
        text, compared = COMPARISON.subn("", rule["expr"])
        assert compared == 1, rule["expr"]
        found.append(Query(rule["alert"], text))
    for name, value in VARIABLES.items():
        found = [Query(where, text.replace(name, value)) for where, text in found]
    return found


def rules(project: Path) -> list[dict[str, Any]]:
    return [rule for group in _yaml(project / "deploy/prometheus/rules.yml")["groups"] for rule in group["rules"]]


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


class Series(NamedTuple):
    """One line of /metrics."""

    name: str
    labels: dict[str, str]


def series_of(metrics: str) -> list[Series]:
    families = text_string_to_metric_families(metrics)
    return [Series(sample.name, sample.labels) for family in families for sample in family.samples]


def unserved(query: str, served: Sequence[Series]) -> list[str]:
    """Return what of a query is not served: selectors that no series meets, and labels that none has."""
    wrong = []
    for node in _nodes(promql_parser.parse(query)):
        if isinstance(node, promql_parser.VectorSelector) and node.name != "up":
            if not any(_meets(series, node) for series in served):
                wrong.append(node.prettify())
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            names = {one.name for one in _nodes(node) if isinstance(one, promql_parser.VectorSelector)}
            known = {label for series in served if series.name in names for label in series.labels}
            wrong += set(node.modifier.labels) - known - TARGET_LABELS
    return wrong


def _nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, pre_visit=found.append)
    return found


def _meets(series: Series, selector: promql_parser.VectorSelector) -> bool:
    matchers = [one for one in selector.matchers.matchers if one.name not in TARGET_LABELS]
    return series.name == selector.name and all(_matches(series.labels.get(one.name, ""), one) for one in matchers)


def _matches(value: str, matcher: promql_parser.Matcher) -> bool:
    if matcher.op == promql_parser.MatchOp.Re:
        return re.fullmatch(matcher.value, value) is not None
    assert matcher.op == promql_parser.MatchOp.Equal, "the others are not used"
    return bool(value == matcher.value)


class Prometheus:
    """Scrapes a service as deploy/ says, but more often, while the block runs."""

    def __init__(self, project: Path, folder: Path, target: str) -> None:
        self._url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        told = _yaml(project / "deploy/prometheus/scrape.yml")
        (job,) = told["scrape_configs"]
        job.update(scrape_interval="1s", scrape_timeout="1s", static_configs=[{"targets": [target]}])
        told["rule_files"] = [str(project / "deploy/prometheus/rules.yml")]
        told["global"] = {"evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(told))

    def __enter__(self) -> Self:
        assert PROGRAM
        address = self._url.removeprefix("http://")
        options = {"config.file": self._folder / "prometheus.yml", "storage.tsdb.path": self._folder / "data"}
        with (self._folder / "prometheus.log").open("wb") as said:
            self._process = subprocess.Popen(
                [PROGRAM, f"--web.listen-address={address}", *(f"--{name}={value}" for name, value in options.items())],
                stdout=said,
                stderr=said,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
            )
        self.wait_for_scrapes(1)
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process, 10)

    def _get(self, path: str, **query: str) -> Any:
        answer = requests.get(f"{self._url}/api/v1/{path}", query, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, query: str) -> list[float]:
        """Return the values that a query has now."""
        return [float(one["value"][1]) for one in self._get("query", query=query)["result"]]

    def wait_for_scrapes(self, number: int) -> None:
        """Return after so many more have been taken in."""
        before = self._scrapes()
        wait_until(lambda: self._scrapes() >= before + number)

    def _scrapes(self) -> int:
        """How many have brought something; none while it starts, and answers something else."""
        with suppress(requests.RequestException):
            return int(sum(self.ask("count_over_time(chat_service_connections[10m])")))
        return 0

    def health_of_rules(self) -> Iterator[tuple[str, str]]:
        """Give each rule with what Prometheus has made of it: `ok`, `err`, or `unknown` before it was looked at."""
        for group in self._get("rules")["groups"]:
            for rule in group["rules"]:
                yield rule["name"], rule["health"]
