"""Versions: the same version of our image everywhere, and a migration named after it."""

from collections.abc import Iterator

from tools.manifests.objects import Objects, title

VERSION = "app.kubernetes.io/version"
_OURS = "stack"


def one_version(objects: Objects) -> Iterator[str]:
    """All our containers run one image, whose tag is the version in the objects' labels."""
    ours = {
        container["image"]
        for workload in objects.workloads()
        for container in workload.containers
        if "services." in " ".join(container.get("command", ())) or workload.name == "stackctl"
    }
    labelled = {one["metadata"].get("labels", {}).get(VERSION, "none") for one in objects.all}
    if len(ours) != 1 or len(labelled) != 1:
        yield f"there are several versions: images {sorted(ours)}, labels {sorted(labelled)}"
    elif not next(iter(ours)).endswith((f":{next(iter(labelled))}", f":v{next(iter(labelled))}")):
        yield f"the image is {next(iter(ours))}, and the version {next(iter(labelled))}"


def pinned(objects: Objects) -> Iterator[str]:
    """Every image has a tag, and no moving one."""
    for workload in objects.workloads():
        for container in workload.containers:
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            if not tag or tag == "latest":
                yield f"{workload.title}: the image {container['image']} has no fixed tag"


def jobs(objects: Objects) -> Iterator[str]:
    """A changed Job cannot be applied again: its name has the version, and it references nothing with a generated
    name.
    """
    for one in objects.of("Job"):
        version = one["metadata"].get("labels", {}).get(VERSION, "none")
        if not one["metadata"]["name"].endswith(f"-{version}"):
            yield f"{title(one)}: is not named after the version {version}"
        if any("envFrom" in container for container in one["spec"]["template"]["spec"]["containers"]):
            yield f"{title(one)}: reads a generated ConfigMap, whose name changes"


def labels(objects: Objects) -> Iterator[str]:
    """The version is not a label of pods: a new one would restart stores that did not change."""
    for workload in objects.workloads():
        if VERSION in workload.labels:
            yield f"{workload.title}: its pods have the version label"


CHECKS = (one_version, pinned, jobs, labels)
