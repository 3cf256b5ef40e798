"""Kubernetes' own schemas, strictly: a field that does not exist is a finding, and so is a kind that has no schema."""

import json
import warnings
from collections.abc import Iterator
from functools import lru_cache

import kubernetes_validate

from tools.manifests.objects import Object, Objects, title

VERSION = "1.34"
"""The Kubernetes release whose schemas are used; older ones that still get fixes have all that the manifests use."""

WITHOUT_SCHEMA = {
    # What these must have for what they are used for is checked in checks/custom.py.
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
}


def violations(objects: Objects) -> Iterator[str]:
    """Yield what the schemas do not allow."""
    for one in objects.all:
        if (one["apiVersion"], one["kind"]) not in WITHOUT_SCHEMA:
            # The same objects are in nearly every rendering; each is validated once.
            yield from (f"{title(one)}: {problem}" for problem in _validate(json.dumps(one, sort_keys=True)))


@lru_cache(maxsize=4096)
def _validate(text: str) -> tuple[str, ...]:
    one: Object = json.loads(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(one, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return (f"{one['apiVersion']} {one['kind']} has no schema; give it checks of our own and list it",)
    except kubernetes_validate.ValidationError as exc:
        return (f"{'.'.join(map(str, exc.path))}: {exc.message}",)
    return ()
