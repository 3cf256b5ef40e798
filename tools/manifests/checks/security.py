"""What the `restricted` Pod Security level demands, which a cluster enforces and no schema knows, and a little more."""

from collections.abc import Iterator

from tools.manifests.objects import Object, Objects

_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret", "csi", "ephemeral"}


def namespaces(objects: Objects) -> Iterator[str]:
    """The namespace enforces the level that the pods keep to."""
    for one in objects.of("Namespace"):
        if one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace/{one['metadata']['name']}: does not enforce the restricted Pod Security level"


def pods(objects: Objects) -> Iterator[str]:
    """No pod is root, shares anything of its node, or holds a token for the API server."""
    for workload in objects.workloads():
        pod, context = workload.pod, workload.pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{workload.title}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{workload.title}: has no seccomp profile"
        if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{workload.title}: shares its node's network or processes"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{workload.title}: mounts a token for the API server"
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        yield from (f"{workload.title}: volumes of kind {kind} are forbidden" for kind in sorted(kinds - _VOLUMES))


def containers(objects: Objects) -> Iterator[str]:
    """No container can gain rights or write to its image."""
    for workload in objects.workloads():
        for container in workload.containers:
            yield from (f"{workload.title}: {container['name']} {problem}" for problem in _of_container(container))


def _of_container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield "keeps capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "can write to its root"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "takes a port of its node"


CHECKS = (namespaces, pods, containers)
