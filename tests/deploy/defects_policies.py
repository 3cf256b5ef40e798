"""Defects of policies, settings, versions and certificates."""

from tests.deploy.world import Defects

DEFECTS: Defects = {
    # NetworkPolicies.
    "no policy that denies everything": (lambda w: w.remove("NetworkPolicy", "deny-all"), "none denies everything"),
    "a pod without a policy": (lambda w: w.remove("NetworkPolicy", "stackctl"), "stackctl: has no NetworkPolicy"),
    "a peer that matches no pod": (
        lambda w: w.set(
            w.policy("redis")["ingress"][0]["from"][0]["podSelector"], matchLabels={"app.kubernetes.io/name": "quoat"}
        ),
        "NetworkPolicy/redis: no pod has the labels",
    ),
    "an egress port without a listener": (
        lambda w: w.set(w.policy("quota")["egress"][0]["ports"][0], port=6380),
        "NetworkPolicy/quota: no pod listens on port 6380",
    ),
    "an ingress port without a listener": (
        lambda w: w.set(w.policy("redis")["ingress"][0]["ports"][0], port=6380),
        "its pods do not listen on port 6380",
    ),
    "a policy that selects no pod": (
        lambda w: w.set(w.policy("auth")["podSelector"], matchLabels={"app.kubernetes.io/name": "auht"}),
        "NetworkPolicy/auth: selects no pod",
    ),
    "a missing connection": (
        lambda w: w.policy("quota")["egress"].pop(0),
        "the call quota -> redis:6379 may not leave its caller",
    ),
    "a missing connection to the Redis of stored responses": (
        lambda w: w.policy("inference")["egress"].pop(),
        "the call inference -> responses-redis:6379 may not leave its caller",
    ),
    "a connection that is blocked at its callee": (
        lambda w: w.policy("inference")["ingress"][0]["from"].pop(1),
        "the call quota -> inference:50053 may not reach its callee",
    ),
    "a connection that is not configured": (
        lambda w: w.policy("postgres")["ingress"][0]["from"].append(
            {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}
        ),
        "the call gateway -> postgres:5432 may reach its callee, but is not configured",
    ),
    # Settings.
    "a setting that is misspelt": (
        lambda w: w.set(w.one("ConfigMap", "auth")["data"], AUTH_SIGNUP="closed"),
        "AUTH_SIGNUP is not a setting of this service",
    ),
    "a value that would stop the start": (
        lambda w: w.set(w.one("ConfigMap", "auth")["data"], AUTH_SIGN_UP="nobody"),
        "sign_up: Input should be",
    ),
    "a service that only its own pod reaches": (
        lambda w: w.set(w.one("ConfigMap", "auth")["data"], AUTH_LISTEN="127.0.0.1:50051"),
        "AUTH_LISTEN cannot be reached from outside the pod",
    ),
    "a service on a port that is not declared": (
        lambda w: w.set(w.one("ConfigMap", "auth")["data"], HEALTH_LISTEN="[::]:50199"),
        "HEALTH_LISTEN is a port that the pod does not declare",
    ),
    "a gateway on a port that is not declared": (
        lambda w: w.set(w.one("ConfigMap", "gateway")["data"], GATEWAY_PORT="8081"),
        "GATEWAY_PORT is a port that the pod does not declare",
    ),
    "a gateway that only its own pod reaches": (
        lambda w: w.one("ConfigMap", "gateway")["data"].pop("GATEWAY_HOST"),
        "GATEWAY_PORT cannot be reached from outside the pod",
    ),
    "metrics that are not served": (
        lambda w: w.one("ConfigMap", "quota")["data"].pop("QUOTA_METRICS_LISTEN"),
        "Deployment/quota: QUOTA_METRICS_LISTEN is not its port named metrics",
    ),
    "metrics on an undeclared port": (
        lambda w: w.set(w.container("quota")["ports"][2], name="prometheus"),
        "Deployment/quota: QUOTA_METRICS_LISTEN is not its port named metrics",
    ),
    "mail from a placeholder address": (
        lambda w: w.container("auth")["env"].append({"name": "AUTH_SMTP_URL", "value": "smtp://mail.example.com"}),
        "sends mail, but AUTH_MAIL_FROM is not a real address",
    ),
    "plaintext in addition to certificates": (
        lambda w: w.set(w.one("ConfigMap", "tls")["data"], PLAINTEXT_ALLOWED="true"),
        "would still serve without them",
    ),
    "neither certificates nor plaintext": (
        lambda w: (w.container("auth")["envFrom"].pop(1), w.one("ConfigMap", "auth")["data"].pop("PLAINTEXT_ALLOWED")),
        "Deployment/auth: would refuse to start",
    ),
    # Versions.
    "a service of another version": (lambda w: w.set(w.container("auth"), image="stack:0.0.9"), "several versions"),
    "a label of another version": (
        lambda w: [one["metadata"]["labels"].update({"app.kubernetes.io/version": "9"}) for one in w.objects],
        "the image is stack:",
    ),
    "an image with a moving tag": (
        lambda w: w.set(w.container("redis", "StatefulSet"), image="registry:5000/redis"),
        "has no fixed tag",
    ),
    "a migration without a version": (
        lambda w: next(one for one in w.objects if one["kind"] == "Job")["metadata"].update(name="migrate"),
        "Job/migrate: is not named after the version",
    ),
    "a migration that reads a generated ConfigMap": (
        lambda w: next(one for one in w.objects if one["kind"] == "Job")["spec"]["template"]["spec"]["containers"][
            0
        ].update(envFrom=[{"configMapRef": {"name": w.one("ConfigMap", "auth")["metadata"]["name"]}}]),
        "reads a generated ConfigMap",
    ),
    "a pod with the version label": (
        lambda w: w.one("StatefulSet", "redis")["spec"]["template"]["metadata"]["labels"].update(
            {"app.kubernetes.io/version": "0.1.0"}
        ),
        "StatefulSet/redis: its pods have the version label",
    ),
    # Certificates and monitors.
    "an issuer that does not exist": (
        lambda w: w.set(w.one("Certificate", "auth")["spec"]["issuerRef"], name="none"),
        "Certificate/auth: its issuer does not exist",
    ),
    "two certificates in one Secret": (
        lambda w: w.set(w.one("Certificate", "quota")["spec"], secretName="auth-tls"),
        "its Secret is another certificate's",
    ),
    "a certificate that is renewed too late": (
        lambda w: w.set(w.one("Certificate", "auth")["spec"], renewBefore="0h"),
        "is renewed too early or too late",
    ),
    "an authority that changes its key": (
        lambda w: w.one("Certificate", "authority")["spec"]["privateKey"].pop("rotationPolicy"),
        "Certificate/authority: gets a new key on renewal",
    ),
    "an issuer without its authority": (
        lambda w: w.one("Certificate", "authority")["spec"].pop("isCA"),
        "no authority's certificate fills its Secret",
    ),
    "a pod with another's certificate": (
        lambda w: w.set(w.pod("gateway")["volumes"][-1]["secret"], secretName="stackctl-tls"),
        "Deployment/gateway: shows ['stackctl.stack.internal'], not gateway.stack.internal",
    ),
    "a certificate that no client can use": (
        lambda w: w.one("Certificate", "auth")["spec"]["usages"].remove("client auth"),
        "cannot be used by a client and a server",
    ),
    "a monitor of a port that does not exist": (
        lambda w: w.set(w.one("PodMonitor", "stack")["spec"]["podMetricsEndpoints"][0], port="prometheus"),
        "no selected pod has a port named prometheus",
    ),
    "a service whose metrics are not scraped": (
        lambda w: w.set(w.container("auth")["ports"][-1], name="telemetry"),
        "Deployment/auth: serves metrics and has no port named metrics",
    ),
    "a service that may not be scraped": (
        lambda w: w.policy("inference")["ingress"].pop(),
        "Deployment/inference: its NetworkPolicy does not allow the namespace monitoring to scrape it",
    ),
    "an alert without a severity": (
        lambda w: w.alert("StackRowsAfterClose").pop("labels"),
        "StackRowsAfterClose has no severity",
    ),
    "an alert without a summary": (
        lambda w: w.alert("StackRowsAfterClose")["annotations"].pop("summary"),
        "StackRowsAfterClose has no summary",
    ),
    "an alert with another alert's runbook": (
        lambda w: w.set(
            w.alert("StackRowsAfterClose")["annotations"], runbook="Look: docs/operations.md#stackholdsleft"
        ),
        "StackRowsAfterClose has no runbook of one line",
    ),
    "a dashboard that Grafana does not find": (
        lambda w: next(one for one in w.objects if "dashboard" in one["metadata"]["name"])["metadata"].pop("labels"),
        "is not referenced",
    ),
}
