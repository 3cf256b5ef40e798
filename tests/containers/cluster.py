"""The pods of the rendered manifests as containers on a separate network, without a cluster.

Command, environment, user, capabilities, read-only root, memory limit and mounts come from the manifests; names are
resolved as in a cluster, by search domains. What a cluster would provide is created here: the Secret's values,
certificates, volumes.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import trustme
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.containers.engine import DOMAIN, LABEL, confined, names, owner, writable
from tests.containers.probes import answers, serves, until
from tests.e2e.stack import say
from tools.manifests.checks.references import SECRET_KEYS
from tools.manifests.objects import Object, Objects, Workload
from tools.manifests.render import ROOT

IMAGE = os.environ.get("STACK_IMAGE", "stack:0.1.0")
GROQ_URL = "http://groq:9090"
NOTHING: Mapping[str, str] = MappingProxyType({})


class Part:
    """One container."""

    def __init__(self, name: str, workload: str, container: DockerContainer) -> None:
        """Wrap a container that was started as a replica of `workload`."""
        self.name = name
        self.workload = workload
        self._container = container

    @property
    def docker(self) -> Any:
        """The container in the engine's own package, with its state refreshed."""
        container: Any = self._container.get_wrapped_container()
        container.reload()
        return container

    @property
    def address(self) -> str:
        """Its address on the network; empty while it is disconnected."""
        networks = self.docker.attrs["NetworkSettings"]["Networks"]
        return next((str(one["IPAddress"]) for one in networks.values()), "")

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Run a command in the container; return its exit code and its output."""
        assert self.docker.status == "running", f"{self.name} ended: {self.logs()[-2000:]}"
        code, output = self.docker.exec_run(list(command), environment=environment)
        return int(code), output.decode()

    def logs(self) -> str:
        """Return its output."""
        text: str = self.docker.logs().decode()
        return text

    def stop(self, *, within_seconds: int) -> int:
        """Stop it and return its exit code; after `within_seconds` it is killed."""
        self.docker.stop(timeout=within_seconds)
        return int(self.docker.attrs["State"]["ExitCode"])

    def remove(self) -> None:
        """Remove the container."""
        self._container.stop()


class Cluster:
    """The containers of one rendering, started one by one."""

    def __init__(self, objects: Objects, folder: Path, network: Network) -> None:
        """Prepare to start the workloads of `objects`; mounted files are stored in `folder`."""
        self.parts: dict[str, Part] = {}
        self._objects, self._folder, self._network = objects, folder, network
        self._secret = {key: secrets.token_hex(16) for key in SECRET_KEYS} | {"GROQ_API_KEY": "gsk_in_containers"}
        self._authority = trustme.CA()
        self._started: list[Part] = []

    # Starting.

    def start(self, name: str, environment: Mapping[str, str] = NOTHING, *, replica: int = 0) -> Part:
        """Start a replica of a Deployment or StatefulSet; numbered ones are parts such as `auth-1`."""
        workload = self._workload(name)
        title = f"{name}-{replica}" if replica else name
        return self._start(title, workload, workload.containers[0], environment)

    def _workload(self, name: str) -> Workload:
        return next(one for one in self._objects.workloads() if one.name == name)

    def remove(self, name: str) -> None:
        """Remove a part permanently."""
        part = self.parts.pop(name)
        self._started.remove(part)
        part.remove()

    def migrate(self) -> list[Part]:
        """Start the containers of the migration's Job."""
        job = next(one for one in self._objects.workloads() if one.kind == "Job")
        return [self._start(f"migrate-{one['name']}", job, one, NOTHING) for one in job.containers]

    def start_groq(self) -> Part:
        """Start the stand-in for Groq, which is not part of the image: the repository's folder is mounted."""
        container = DockerContainer(IMAGE).with_volume_mapping(str(ROOT / "tools"), "/src/tools", "ro")
        command = ["python", "-m", "tools.groq_standin", "--host", "0.0.0.0", "--port", "9090"]
        container.with_kwargs(entrypoint=command, labels=LABEL, **names()).with_env("PYTHONPATH", "/src")
        return self._add("groq", "groq", container)

    def start_idler(self, name: str) -> Part:
        """Start a container that only keeps an address in use."""
        container = DockerContainer(IMAGE).with_kwargs(entrypoint=["sleep", "infinity"], labels=LABEL)
        return self._add(name, name, container)

    def _start(self, name: str, workload: Workload, spec: Object, environment: Mapping[str, str]) -> Part:
        values = {**self._values(spec), **environment}
        container = DockerContainer(IMAGE if spec["image"].startswith("stack:") else spec["image"])
        for variable, value in values.items():
            container.with_env(variable, value)
        for where, source in self._mounts(workload, spec).items():
            container.with_volume_mapping(source, where, "ro")
        for where in writable(workload, spec):
            container.with_tmpfs_mount(where, owner(workload))
        entrypoint = {"entrypoint": spec["command"]} if "command" in spec else {}
        if "args" in spec:
            container.with_command([_expand(word, values) for word in spec["args"]])
        container.with_kwargs(**entrypoint, **confined(workload, spec), **names())
        return self._add(name, workload.name, container)

    def _add(self, name: str, workload: str, container: DockerContainer) -> Part:
        """Start it under the name of its workload, which resolves to all replicas like a headless Service."""
        container.with_network(self._network).with_network_aliases(f"{workload}.{DOMAIN}")
        part = Part(name, workload, container)
        self._started.append(part)
        container.start()
        self.parts[name] = part
        return part

    def _values(self, spec: Object) -> dict[str, str]:
        values: dict[str, str] = {}
        for name, value in self._objects.environment(spec).items():
            known = self._secret.get(value.rpartition("/")[2]) if value.startswith("secret:") else None
            values[name] = known or _expand(value, values)
        return values

    def _mounts(self, workload: Workload, spec: Object) -> dict[str, str]:
        """Return the read-only mounts: ConfigMaps and certificates; everything else is a tmpfs."""
        volumes = {one["name"]: one for one in workload.pod.get("volumes", ())}
        found = {}
        for mount in spec.get("volumeMounts", ()):
            volume = volumes.get(mount["name"], {})
            if "configMap" in volume:
                config = self._objects.find("ConfigMap", volume["configMap"]["name"])
                found[mount["mountPath"]] = self._files(volume["configMap"]["name"], (config or {})["data"])
            elif "secret" in volume:
                found[mount["mountPath"]] = self._certificate(volume["secret"]["secretName"])
        return found

    def _certificate(self, secret: str) -> str:
        spec = next(one["spec"] for one in self._objects.of("Certificate") if one["spec"]["secretName"] == secret)
        leaf = self._authority.issue_cert(*spec["dnsNames"])
        chain = "".join(pem.bytes().decode() for pem in leaf.cert_chain_pems)
        key, authority = leaf.private_key_pem.bytes().decode(), self._authority.cert_pem.bytes().decode()
        return self._files(secret, {"tls.crt": chain, "tls.key": key, "ca.crt": authority})

    def _files(self, name: str, content: Mapping[str, str]) -> str:
        folder = self._folder / name
        if folder.exists():
            return str(folder)  # Another replica has it mounted.
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
        return str(folder)

    # Watching.

    def probe(self, name: str, kind: str = "readinessProbe") -> bool:
        """Run the kubelet's probe."""
        part = self.parts[name]
        probe = self._workload(part.workload).containers[0][kind]
        if "exec" in probe:
            return part.run(*probe["exec"]["command"])[0] == 0
        if "httpGet" in probe:
            return answers(f"http://{part.address}:{probe['httpGet']['port']}{probe['httpGet']['path']}")
        return serves(f"{part.address}:{probe['grpc']['port']}", probe["grpc"].get("service", ""))

    def until_ready(self, *names: str) -> None:
        """Return when all are ready."""
        for name in names:
            until(partial(self.probe, name), f"{name} is not ready", self.parts[name].logs)

    def secret(self, key: str) -> str:
        """Return the value of a key in the operator's Secret."""
        return self._secret[key]

    def stackctl(self, *arguments: str) -> str:
        """Run a command as an operator, and return its output."""
        code, output = self.parts["stackctl"].run("stackctl", *arguments)
        assert code == 0, output
        return output

    # The network.

    def cut(self, name: str) -> None:
        """Disconnect a part from the network, as a broken node does."""
        self._network._unwrap_network.disconnect(self.parts[name].docker)

    def repair(self, name: str) -> None:
        """Reconnect it, perhaps with another address."""
        self._network._unwrap_network.connect(self.parts[name].docker, aliases=[f"{name}.{DOMAIN}"])

    def chat(self, key: str, **members: Any) -> httpx.Response:
        """Send one chat request as a client would."""
        url = f"http://{self.parts['gateway'].address}:8080/v1/chat/completions"
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(url, json=say("hello", **members), headers=headers, timeout=30, trust_env=False)

    async def journal(self) -> list[dict[str, Any]]:
        """Return the stand-in's journal."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            served: list[dict[str, Any]] = (
                await client.get(f"http://{self.parts['groq'].address}:9090/journal")
            ).json()
            return served

    def stop(self) -> None:
        """Remove everything that was started."""
        for part in reversed(self._started):
            part.remove()


@contextmanager
def running_network() -> Iterator[Network]:
    """Create a network without internet access for the block: all that the pods need is on it."""
    with Network(docker_network_kw={"internal": True, "labels": LABEL}) as network:
        yield network


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Expand variables in a text as the kubelet does."""
    for name, value in values.items():
        text = text.replace(f"$({name})", value)
    return text
