"""Defects of policies towards the world outside the namespace."""

from tests.deploy.world import Defects

_SOMEWHERE = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}

DEFECTS: Defects = {
    "nobody may ask for names": (
        lambda w: w.remove("NetworkPolicy", "allow-dns"),
        "Deployment/gateway: may not ask for names",
    ),
    "names over UDP only": (
        lambda w: w.policy("allow-dns")["egress"][0]["ports"].pop(1),
        "Job/migrate-0.1.0: may not ask for names",
    ),
    "more than names of the resolver": (
        lambda w: w.policy("allow-dns")["egress"][0]["ports"].append({"protocol": "TCP", "port": 9153}),
        "or may ask more than that",
    ),
    "no way to Groq": (
        lambda w: w.policy("inference")["egress"].pop(1),
        "NetworkPolicy/inference: keeps calls to the outside on port 443 back",
    ),
    "a way to Groq through the cluster": (
        lambda w: w.policy("inference")["egress"][1]["to"][0]["ipBlock"].pop("except"),
        "NetworkPolicy/inference: lets HTTPS out to addresses that are not public",
    ),
    "HTTPS to anywhere": (
        lambda w: w.policy("inference")["egress"][1].pop("to"),
        "NetworkPolicy/inference: lets HTTPS out to addresses that are not public",
    ),
    "no way to a mail server": (
        lambda w: w.container("auth")["env"].append(
            {
                "name": "AUTH_SMTP_URL",
                "valueFrom": {"secretKeyRef": {"name": "stack-secrets", "key": "AUTH_SMTP_URL"}},
            }
        ),
        "NetworkPolicy/auth: keeps calls to the outside on port 465 back",
    ),
    "a way to stores of others": (
        lambda w: w.policy("auth")["egress"].append({"ports": [{"protocol": "TCP", "port": 5432}]}),
        "NetworkPolicy/auth: lets calls out to anywhere, port 5432",
    ),
    "a way out to anywhere": (
        lambda w: w.policy("gateway")["egress"].append({}),
        "NetworkPolicy/gateway: lets calls out to anywhere",
    ),
    "a way to another namespace": (
        lambda w: w.policy("quota")["egress"].append({"to": [_SOMEWHERE], "ports": [{"port": 443}]}),
        "NetworkPolicy/quota: lets calls out to another namespace",
    ),
    "a door for another namespace": (
        lambda w: w.policy("auth")["ingress"].append({"from": [_SOMEWHERE], "ports": [{"port": 50051}]}),
        "NetworkPolicy/auth: lets another namespace in to port 50051",
    ),
    "a door that is open to everybody": (
        lambda w: w.policy("auth")["ingress"][0].pop("from"),
        "NetworkPolicy/auth: lets everybody in",
    ),
    "a door that is open to every namespace": (
        lambda w: w.policy("auth")["ingress"][0]["from"].append({"namespaceSelector": {}}),
        "NetworkPolicy/auth: lets everybody in",
    ),
    "a pod that the scraper cannot reach": (
        lambda w: w.policy("quota")["ingress"].pop(),
        "Deployment/quota: may not be scraped on port 50252",
    ),
    "metrics for another namespace": (
        lambda w: w.policy("quota")["ingress"][-1]["from"].__setitem__(0, _SOMEWHERE),
        "Deployment/quota: may not be scraped on port 50252",
    ),
}
