"""Rendered objects, and the accessors of the checks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Object = dict[str, Any]

_WITH_PODS = ("Deployment", "StatefulSet", "Job")
NAME = "app.kubernetes.io/name"
"""The label by which pods are selected."""


@dataclass(frozen=True, slots=True)
class Workload:
    """An object that creates pods."""

    object: Object

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.object["kind"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.object["metadata"]["name"])

    @property
    def title(self) -> str:
        """Its name in findings."""
        return f"{self.kind}/{self.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its pods."""
        found: Mapping[str, str] = self.object["spec"]["template"]["metadata"].get("labels", {})
        return found

    @property
    def pod(self) -> Object:
        """The specification of its pods."""
        found: Object = self.object["spec"]["template"]["spec"]
        return found

    @property
    def containers(self) -> list[Object]:
        """All containers of a pod, including init containers."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Names and numbers of its containers' declared ports."""
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", ())}


class Objects:
    """All objects of one rendering."""

    def __init__(self, objects: list[Object]) -> None:
        """Wrap `objects`."""
        self.all = objects

    @classmethod
    def parse(cls, text: str) -> "Objects":
        """Parse rendered YAML."""
        return cls([one for one in yaml.safe_load_all(text) if one])

    def of(self, kind: str) -> Iterator[Object]:
        """Yield the objects of a kind."""
        return (one for one in self.all if one["kind"] == kind)

    def find(self, kind: str, name: str) -> Object | None:
        """Return one object, or None."""
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def workloads(self) -> Iterator[Workload]:
        """Yield the objects that create pods."""
        return (Workload(one) for one in self.all if one["kind"] in _WITH_PODS)

    def selected(self, labels: Mapping[str, str]) -> list[Workload]:
        """Return the workloads whose pods have all of `labels`; no labels select every one."""
        return [one for one in self.workloads() if labels.items() <= one.labels.items()]

    def environment(self, container: Object) -> dict[str, str]:
        """Return a container's environment; a value from a Secret is `secret:<name>/<key>`."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            config = self.find("ConfigMap", source.get("configMapRef", {}).get("name", ""))
            values |= (config or {}).get("data", {})
        for one in container.get("env", ()):
            reference = one.get("valueFrom", {}).get("secretKeyRef")
            values[one["name"]] = f"secret:{reference['name']}/{reference['key']}" if reference else str(one["value"])
        return values


def title(one: Object) -> str:
    """Return the name of an object in findings."""
    return f"{one['kind']}/{one['metadata']['name']}"
