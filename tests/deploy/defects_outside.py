"""Defects of policies for traffic to and from outside the namespace."""

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
    # Traces.
    "traces to another namespace": (
        lambda w: w.policy("auth")["egress"][-1]["to"].__setitem__(0, _SOMEWHERE),
        "NetworkPolicy/auth: lets calls out to another namespace",
    ),
    "traces to whatever runs beside the collector": (
        lambda w: w.policy("auth")["egress"][-1]["to"][0].pop("podSelector"),
        "NetworkPolicy/auth: lets calls out to another namespace",
    ),
    "a way to the collector for a service that sends no traces": (
        lambda w: w.one("ConfigMap", "quota")["data"].pop("OTEL_EXPORTER_OTLP_ENDPOINT"),
        "NetworkPolicy/quota: lets calls out to another namespace",
    ),
    "a service whose part of each trace is missing": (
        lambda w: w.one("ConfigMap", "quota")["data"].pop("OTEL_EXPORTER_OTLP_ENDPOINT"),
        "Deployment/quota: sends its traces elsewhere than the gateway, or nowhere",
    ),
    "a service whose part of each trace goes elsewhere": (
        lambda w: w.set(w.one("ConfigMap", "inference")["data"], OTEL_EXPORTER_OTLP_ENDPOINT="http://jaeger:4317"),
        "Deployment/inference: sends its traces elsewhere than the gateway, or nowhere",
    ),
    "traces that are not let out": (
        lambda w: w.policy("inference")["egress"].pop(),
        "NetworkPolicy/inference: keeps traces back from the collector's port 4317",
    ),
    "traces that are let out to another port": (
        lambda w: w.set(w.policy("gateway")["egress"][-1]["ports"][0], port=4318),
        "NetworkPolicy/gateway: keeps traces back from the collector's port 4317",
    ),
}
