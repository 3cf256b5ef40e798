"""Defects of policies for traffic to and from outside the namespace."""

from tests.deploy.world import Defects

_SOMEWHERE = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}

DEFECTS: Defects = {
    "no pod may use DNS": (
        lambda w: w.remove("NetworkPolicy", "allow-dns"),
        "Deployment/gateway: may not use DNS",
    ),
    "DNS over UDP only": (
        lambda w: w.policy("allow-dns")["egress"][0]["ports"].pop(1),
        "Job/migrate-0.1.0: may not use DNS",
    ),
    "more than DNS at the resolver": (
        lambda w: w.policy("allow-dns")["egress"][0]["ports"].append({"protocol": "TCP", "port": 9153}),
        "or may do more than that",
    ),
    "no route to Groq": (
        lambda w: w.policy("inference")["egress"].pop(1),
        "NetworkPolicy/inference: blocks calls to the outside on port 443",
    ),
    "a route to Groq through the cluster": (
        lambda w: w.policy("inference")["egress"][1]["to"][0]["ipBlock"].pop("except"),
        "NetworkPolicy/inference: allows HTTPS to addresses that are not public",
    ),
    "HTTPS to anywhere": (
        lambda w: w.policy("inference")["egress"][1].pop("to"),
        "NetworkPolicy/inference: allows HTTPS to addresses that are not public",
    ),
    "no route to a mail server": (
        lambda w: w.container("auth")["env"].append(
            {
                "name": "AUTH_SMTP_URL",
                "valueFrom": {"secretKeyRef": {"name": "stack-secrets", "key": "AUTH_SMTP_URL"}},
            }
        ),
        "NetworkPolicy/auth: blocks calls to the outside on port 465",
    ),
    "a route to other services' stores": (
        lambda w: w.policy("auth")["egress"].append({"ports": [{"protocol": "TCP", "port": 5432}]}),
        "NetworkPolicy/auth: allows calls to any address, port 5432",
    ),
    "a route to any address": (
        lambda w: w.policy("gateway")["egress"].append({}),
        "NetworkPolicy/gateway: allows calls to any address",
    ),
    "a route to another namespace": (
        lambda w: w.policy("quota")["egress"].append({"to": [_SOMEWHERE], "ports": [{"port": 443}]}),
        "NetworkPolicy/quota: allows calls to another namespace",
    ),
    "ingress from another namespace": (
        lambda w: w.policy("auth")["ingress"].append({"from": [_SOMEWHERE], "ports": [{"port": 50051}]}),
        "NetworkPolicy/auth: allows calls from another namespace to port 50051",
    ),
    "ingress from everywhere": (
        lambda w: w.policy("auth")["ingress"][0].pop("from"),
        "NetworkPolicy/auth: allows calls from everywhere",
    ),
    "ingress from every namespace": (
        lambda w: w.policy("auth")["ingress"][0]["from"].append({"namespaceSelector": {}}),
        "NetworkPolicy/auth: allows calls from everywhere",
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
        "NetworkPolicy/auth: allows calls to another namespace",
    ),
    "traces to any pod in the collector's namespace": (
        lambda w: w.policy("auth")["egress"][-1]["to"][0].pop("podSelector"),
        "NetworkPolicy/auth: allows calls to another namespace",
    ),
    "a route to the collector for a service without traces": (
        lambda w: w.one("ConfigMap", "quota")["data"].pop("OTEL_EXPORTER_OTLP_ENDPOINT"),
        "NetworkPolicy/quota: allows calls to another namespace",
    ),
    "a service without traces": (
        lambda w: w.one("ConfigMap", "quota")["data"].pop("OTEL_EXPORTER_OTLP_ENDPOINT"),
        "Deployment/quota: sends its traces elsewhere than the gateway, or nowhere",
    ),
    "a service with another trace collector": (
        lambda w: w.set(w.one("ConfigMap", "inference")["data"], OTEL_EXPORTER_OTLP_ENDPOINT="http://jaeger:4317"),
        "Deployment/inference: sends its traces elsewhere than the gateway, or nowhere",
    ),
    "traces that are blocked": (
        lambda w: w.policy("inference")["egress"].pop(-2),
        "NetworkPolicy/inference: blocks traces to the collector's port 4317",
    ),
    "traces that are allowed to another port": (
        lambda w: w.set(w.policy("gateway")["egress"][-1]["ports"][0], port=4318),
        "NetworkPolicy/gateway: blocks traces to the collector's port 4317",
    ),
}
