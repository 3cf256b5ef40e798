"""A rendering in which tests plant defects."""

from collections.abc import Callable
from typing import Any


class World:
    """The objects of one rendering, accessible by kind and name."""

    def __init__(self, objects: list[dict[str, Any]]) -> None:
        self.objects = objects

    def one(self, kind: str, name: str) -> Any:
        """Return an object; ConfigMaps are found without their hash."""
        of_kind = [one for one in self.objects if one["kind"] == kind]
        return next(one for one in of_kind if one["metadata"]["name"].partition("-config-")[0] == name)

    def pod(self, name: str, kind: str = "Deployment") -> Any:
        """Return the specification of a workload's pods."""
        return self.one(kind, name)["spec"]["template"]["spec"]

    def container(self, name: str, kind: str = "Deployment") -> Any:
        """Return a workload's first container."""
        return self.pod(name, kind)["containers"][0]

    def policy(self, name: str) -> Any:
        """Return the specification of a NetworkPolicy."""
        return self.one("NetworkPolicy", name)["spec"]

    def scaler(self, name: str) -> Any:
        """Return an autoscaler's metrics, CPU use first."""
        return self.one("HorizontalPodAutoscaler", name)["spec"]["metrics"]

    def alert(self, name: str) -> Any:
        """Return an alert's rule."""
        groups = self.one("PrometheusRule", "stack")["spec"]["groups"]
        return next(rule for group in groups for rule in group["rules"] if rule["alert"] == name)

    def remove(self, kind: str, name: str) -> None:
        """Remove an object."""
        self.objects.remove(self.one(kind, name))

    def set(self, at: Any, **values: Any) -> None:
        """Set members of a part."""
        at.update(values)


Plant = Callable[[World], Any]
Defects = dict[str, tuple[Plant, str]]
"""A defect by description: how to plant it, and a part of the expected finding."""
