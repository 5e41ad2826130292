"""deploy/kubernetes: the manifests agree with the service, and with each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask

from chat_service.server.shared_files import MEMORY
from tests.deploy.containerfile import Containerfile
from tests.deploy.settings import SHUTDOWN_SECONDS, known_settings

LOCKED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}

BODY_FOLDER = "/tmp"  # noqa: S108 - the container's own


@pytest.fixture(scope="module")
def manifests(project: Path) -> dict[tuple[str, str], Any]:
    """All manifests, by kind and name."""
    files = sorted((project / "deploy/kubernetes").glob("*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@pytest.fixture(scope="module")
def pods(manifests: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """The specifications of the pods, by the process's name in the Procfile."""
    kinds = {"Deployment", "Job"}
    return {
        name.removeprefix("chat-service-"): document["spec"]["template"]["spec"]
        for (kind, name), document in manifests.items()
        if kind in kinds
    }


def container(pod: Any) -> Any:
    (only,) = pod["containers"]
    return only


def test_each_process_runs_as_the_procfile_says(project: Path, pods: dict[str, Any]) -> None:
    """The web pods run the image's own command."""
    lines = dict(line.split(": ", 1) for line in (project / "Procfile").read_text().splitlines())
    image = Containerfile(project)
    assert pods.keys() == lines.keys()
    for name, pod in pods.items():
        assert container(pod).get("command", image.command) == lines[name].split()


def test_the_settings_exist(project: Path, pods: dict[str, Any]) -> None:
    names = {variable["name"] for pod in pods.values() for variable in container(pod).get("env", [])}
    assert names
    assert names <= known_settings(project)


def test_one_image_and_one_secret(pods: dict[str, Any]) -> None:
    assert len({container(pod)["image"] for pod in pods.values()}) == 1
    assert {str(container(pod)["envFrom"]) for pod in pods.values()} == {"[{'secretRef': {'name': 'chat-service'}}]"}


def test_nothing_can_be_written_or_become_root(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        assert container(pod)["securityContext"] == LOCKED
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False


def test_the_web_has_its_two_places_to_write(pods: dict[str, Any]) -> None:
    places = {mount["mountPath"]: mount["name"] for mount in container(pods["web"])["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in pods["web"]["volumes"]}
    assert places.keys() == {BODY_FOLDER, MEMORY}
    assert "medium" not in volumes[places[BODY_FOLDER]], "bodies that arrive would count as memory"
    assert volumes[places[MEMORY]]["medium"] == "Memory"


def test_probes_ask_what_there_is(project: Path, routes: Flask, pods: dict[str, Any]) -> None:
    """Liveness does not depend on the database: a restart would not bring it back."""
    web = container(pods["web"])
    probes = {kind: web[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["path"] for probe in probes.values()} <= {rule.rule for rule in routes.url_map.iter_rules()}
    (port,) = web["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert Containerfile(project).variables["BIND"] == f"0.0.0.0:{port['containerPort']}"


def test_a_pod_has_the_time_to_end(pods: dict[str, Any]) -> None:
    web = container(pods["web"])
    (name, seconds) = web["lifecycle"]["preStop"]["exec"]["command"]
    shutdown = next(int(variable["value"]) for variable in web["env"] if variable["name"] == "SHUTDOWN_SECONDS")
    assert name == "sleep"
    assert shutdown == SHUTDOWN_SECONDS
    assert pods["web"]["terminationGracePeriodSeconds"] >= int(seconds) + shutdown + 5


def test_what_selects_pods_finds_them(manifests: dict[tuple[str, str], Any]) -> None:
    labels = {
        name: document["spec"]["template"]["metadata"]["labels"]
        for (kind, name), document in manifests.items()
        if kind == "Deployment"
    }
    for expected, selector in selectors(manifests):
        assert [name for name, pod_labels in labels.items() if selector.items() <= pod_labels.items()] == [expected]


def selectors(manifests: dict[tuple[str, str], Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield, for each selector, the deployment that it should select, and the labels that it selects by."""
    web, worker = "chat-service-web", "chat-service-worker"
    yield web, manifests["Service", "chat-service"]["spec"]["selector"]
    yield web, manifests["PodDisruptionBudget", web]["spec"]["selector"]["matchLabels"]
    for name in (web, worker):
        yield name, manifests["Deployment", name]["spec"]["selector"]["matchLabels"]


def test_the_ledger_is_the_workers(manifests: dict[tuple[str, str], Any], pods: dict[str, Any]) -> None:
    """Only the worker has LEDGER_FILE: other processes cannot reach the worker's file."""
    names = {name for name, pod in pods.items() if "LEDGER_FILE" in str(pod)}
    assert names == {"worker"}
    (mount,), (volume,) = container(pods["worker"])["volumeMounts"], pods["worker"]["volumes"]
    (file,) = [variable["value"] for variable in container(pods["worker"])["env"] if variable["name"] == "LEDGER_FILE"]
    assert Path(file).parent == Path(mount["mountPath"])
    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in manifests
    assert manifests["Deployment", "chat-service-worker"]["spec"]["strategy"] == {"type": "Recreate"}
