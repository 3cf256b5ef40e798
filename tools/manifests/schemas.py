"""Kubernetes' own schemas, strictly: a field that does not exist is a finding, and so is a kind without a schema."""

import json
import warnings
from collections.abc import Iterator
from functools import lru_cache

import kubernetes_validate

from tools.manifests.objects import Object, Objects, title

VERSIONS = ("1.27", "1.37")
"""The Kubernetes releases whose schemas are used: the oldest supported one, and the newest one available."""

WITHOUT_SCHEMA = {
    # Their own requirements are checked in checks/custom.py.
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}


def violations(objects: Objects) -> Iterator[str]:
    """Yield violations of the schemas."""
    for one in objects.all:
        if (one["apiVersion"], one["kind"]) not in WITHOUT_SCHEMA:
            # The same objects are in nearly every rendering; each is validated once.
            text = json.dumps(one, sort_keys=True)
            yield from (f"{title(one)}: {problem}" for version in VERSIONS for problem in _validate(text, version))


@lru_cache(maxsize=4096)
def _validate(text: str, version: str) -> tuple[str, ...]:
    one: Object = json.loads(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return (f"{one['apiVersion']} {one['kind']} has no schema in {version}; give it our own checks and list it",)
    except kubernetes_validate.ValidationError as exc:
        return (f"{'.'.join(map(str, exc.path))}: {exc.message} (Kubernetes {version})",)
    return ()
