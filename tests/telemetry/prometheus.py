"""The real Prometheus with the files of deploy/, and the checks of queries that need no Prometheus."""

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
"""The values that Grafana gives them for all jobs and a scrape every 15 s."""

COMPARISON = re.compile(r" [<>] [0-9.]+$")
"""The comparison at the end of a rule. Without it, the query returns the compared value even when all is well."""

TARGET_LABELS = {"job", "instance"}
"""The labels that Prometheus adds to each series; it also adds the series `up`."""


class Query(NamedTuple):
    """A query of a dashboard or a rule."""

    where: str
    text: str


def queries(project: Path) -> list[Query]:
    """Return every query of deploy/."""
    dashboard = json.loads((project / "deploy/grafana/chat-service.json").read_text())
    all_queries = [
        Query(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    for rule in rules(project):
        text, comparisons = COMPARISON.subn("", rule["expr"])
        assert comparisons == 1, rule["expr"]
        all_queries.append(Query(rule["alert"], text))
    for name, value in VARIABLES.items():
        all_queries = [Query(where, text.replace(name, value)) for where, text in all_queries]
    return all_queries


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
    """Return what of a query is not served: selectors that match no series, and labels that no series has."""
    missing = []
    for node in _nodes(promql_parser.parse(query)):
        if isinstance(node, promql_parser.VectorSelector) and node.name != "up":
            if not any(_is_selected(series, node) for series in served):
                missing.append(node.prettify())
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            names = {inner.name for inner in _nodes(node) if isinstance(inner, promql_parser.VectorSelector)}
            known_labels = {label for series in served if series.name in names for label in series.labels}
            missing += set(node.modifier.labels) - known_labels - TARGET_LABELS
    return missing


def _nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(expression, pre_visit=nodes.append)
    return nodes


def _is_selected(series: Series, selector: promql_parser.VectorSelector) -> bool:
    matchers = [matcher for matcher in selector.matchers.matchers if matcher.name not in TARGET_LABELS]
    return series.name == selector.name and all(
        _matches(series.labels.get(matcher.name, ""), matcher) for matcher in matchers
    )


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
        config = _yaml(project / "deploy/prometheus/scrape.yml")
        (job,) = config["scrape_configs"]
        job.update(scrape_interval="1s", scrape_timeout="1s", static_configs=[{"targets": [target]}])
        config["rule_files"] = [str(project / "deploy/prometheus/rules.yml")]
        config["global"] = {"evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        assert PROGRAM
        address = self._url.removeprefix("http://")
        options = {"config.file": self._folder / "prometheus.yml", "storage.tsdb.path": self._folder / "data"}
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [PROGRAM, f"--web.listen-address={address}", *(f"--{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
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
        return [float(sample["value"][1]) for sample in self._get("query", query=query)["result"]]

    def wait_for_scrapes(self, number: int) -> None:
        """Return after so many more scrapes."""
        before = self._scrapes()
        wait_until(lambda: self._scrapes() >= before + number)

    def _scrapes(self) -> int:
        """Return how many scrapes brought samples; 0 while Prometheus starts and answers something else."""
        with suppress(requests.RequestException):
            return int(sum(self.ask("count_over_time(chat_service_connections[10m])")))
        return 0

    def health_of_rules(self) -> Iterator[tuple[str, str]]:
        """Yield each rule's name and health: `ok`, `err`, or `unknown` before its first evaluation."""
        for group in self._get("rules")["groups"]:
            for rule in group["rules"]:
                yield rule["name"], rule["health"]
