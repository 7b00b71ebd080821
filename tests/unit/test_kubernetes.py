"""The Kubernetes manifests: their references hold, their settings are settings, their schemas are Kubernetes' own."""

import re
from typing import Any

import pytest

from edge.settings import EdgeSettings, from_environment
from inference.__main__ import _CLOSE_S, _REPORT_DEATH_S
from inference.settings import read_settings
from tests.support.kubernetes import Manifest, containers, overlay

VERSIONS = ["1.31", "1.34"]
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@pytest.fixture(params=["cpu", "gpu"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    return overlay(request.param)


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in objects if one["kind"] in kinds]


def workloads(objects: list[Manifest]) -> list[Manifest]:
    return of_kind(objects, "Deployment", "StatefulSet")


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (one,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return one


def selected(objects: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    return [
        one for one in workloads(objects) if labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]


def environment(container: Manifest) -> dict[str, str]:
    return {variable["name"]: variable.get("value", KEY) for variable in container["env"]}


def test_selectors_find_one_workload_and_ports_are_open_there(objects: list[Manifest]) -> None:
    for workload in workloads(objects):
        assert selected(objects, workload["spec"]["selector"]["matchLabels"]) == [workload]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert len(selected(objects, budget["spec"]["selector"]["matchLabels"])) == 1
    services = of_kind(objects, "Service")
    assert {service["metadata"]["name"] for service in services} == {"edge", "inference", "redis"}
    for service in services:
        (workload,) = selected(objects, service["spec"]["selector"])
        ports = {port["name"]: port["containerPort"] for one in containers(workload) for port in one["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for workload in of_kind(objects, "Deployment"):
        for constraint in workload["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert selected(objects, constraint["labelSelector"]["matchLabels"]) == [workload]


def test_who_asks_for_no_key_can_be_reached_by_edges_alone(objects: list[Manifest]) -> None:
    closed = set()
    for policy in of_kind(objects, "NetworkPolicy"):
        (target,) = selected(objects, policy["spec"]["podSelector"]["matchLabels"])
        ((rule,), kinds) = policy["spec"]["ingress"], policy["spec"]["policyTypes"]
        ((source,), (port,)) = rule["from"], rule["ports"]
        assert kinds == ["Ingress"]
        assert selected(objects, source["podSelector"]["matchLabels"]) == [named(objects, "Deployment", "edge")]
        assert port["port"] in {one["name"] for container in containers(target) for one in container["ports"]}
        closed.add(target["metadata"]["name"])
    assert closed == {"inference", "redis"}


def test_edges_find_the_workers_and_the_store_by_their_services(objects: list[Manifest]) -> None:
    (edge,) = containers(named(objects, "Deployment", "edge"))
    workers = named(objects, "Service", "inference")["spec"]
    store = named(objects, "Service", "redis")["spec"]
    assert workers["clusterIP"] == "None"  # a look-up gives all addresses
    assert environment(edge)["EDGE_WORKERS"] == f"dns:///inference:{workers['ports'][0]['port']}"
    assert environment(edge)["EDGE_REDIS_URL"] == f"redis://redis:{store['ports'][0]['port']}/0"


def test_settings_are_settings(objects: list[Manifest]) -> None:
    (edge,) = containers(named(objects, "Deployment", "edge"))
    assert isinstance(from_environment(environment(edge) | {"EDGE_HTTP_LISTEN": "0.0.0.0:8080"}), EdgeSettings)
    (worker,) = containers(named(objects, "Deployment", "inference"))
    values = environment(worker)
    known = read_settings({"INFERENCE_ENGINE": "scripted"} | {n: v for n, v in values.items() if "ENGINE" not in n})
    assert known.listen.rpartition(":")[2] == str(worker["ports"][0]["containerPort"])


def test_images_are_pinned(objects: list[Manifest]) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+[\w.-]*", container["image"]), container["image"]


def test_every_pod_is_confined_and_asked_whether_it_serves(objects: list[Manifest]) -> None:
    for workload in workloads(objects):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert not pod["automountServiceAccountToken"]
        volumes = {volume["name"] for volume in [*pod.get("volumes", []), *claims(workload)]}
        for container in containers(workload):
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert {"readinessProbe", "livenessProbe"} <= container.keys()
            assert {"requests", "limits"} == container["resources"].keys()
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def claims(workload: Manifest) -> list[Any]:
    return [template["metadata"] for template in workload["spec"].get("volumeClaimTemplates", [])]


def test_pods_live_longer_than_what_they_have_to_end(objects: list[Manifest]) -> None:
    edge = named(objects, "Deployment", "edge")["spec"]["template"]["spec"]
    (container,) = edge["containers"]
    drain_s = float(container["command"][container["command"].index("--drain-timeout") + 1])
    pre_stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert edge["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + 10
    worker = named(objects, "Deployment", "inference")["spec"]["template"]["spec"]
    drain_s = float(environment(worker["containers"][0])["INFERENCE_DRAIN_TIMEOUT_S"])
    assert worker["terminationGracePeriodSeconds"] >= drain_s + _REPORT_DEATH_S + _CLOSE_S


def test_a_gpu_worker_has_gpus_and_a_cpu_worker_none() -> None:
    for name, expected in (("gpu", 1), ("cpu", None)):
        (worker,) = containers(named(overlay(name), "Deployment", "inference"))
        assert worker["resources"]["limits"].get("nvidia.com/gpu") == expected
        assert worker["resources"]["requests"].get("nvidia.com/gpu") == expected


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_follows_kubernetes_own_schema(objects: list[Manifest], version: str) -> None:
    import kubernetes_validate  # of the extra `judges`

    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)
