"""Defects of references between objects, and of replicas."""

from tests.deploy.world import Defects

DEFECTS: Defects = {
    # References.
    "a ConfigMap that does not exist": (
        lambda w: w.remove("ConfigMap", "quota"),
        "there is no ConfigMap quota-config-",
    ),
    "a ConfigMap that nobody reads": (
        lambda w: w.container("gateway")["envFrom"].pop(0),
        "ConfigMap/gateway-config-",
    ),
    "a Secret that nobody makes": (
        lambda w: w.set(w.container("auth")["env"][0]["valueFrom"]["secretKeyRef"], name="auth-secrets"),
        "nobody makes key STACK_ADMIN_TOKEN of Secret auth-secrets",
    ),
    "a key that is in no Secret": (
        lambda w: w.set(w.container("auth")["env"][0]["valueFrom"]["secretKeyRef"], key="ADMIN"),
        "nobody makes key ADMIN of Secret stack-secrets",
    ),
    "a certificate that nobody issues": (lambda w: w.remove("Certificate", "auth"), "nobody makes Secret auth-tls"),
    "no ServiceAccount": (lambda w: w.remove("ServiceAccount", "auth"), "its ServiceAccount does not exist"),
    "a ServiceAccount with a token": (
        lambda w: w.one("ServiceAccount", "auth").pop("automountServiceAccountToken"),
        "its ServiceAccount mounts a token",
    ),
    "a variable before it is given": (
        lambda w: w.container("auth")["env"].insert(
            0, {"name": "AUTH_DATABASE_URL", "value": "postgresql://auth:$(AUTH_DATABASE_PASSWORD)@postgres:5432/auth"}
        ),
        "AUTH_DATABASE_URL uses AUTH_DATABASE_PASSWORD before it is given",
    ),
    "a variable in a command that is not given": (
        lambda w: w.container("redis", "StatefulSet")["env"].clear(),
        "the command uses REDIS_PASSWORD",
    ),
    # Services.
    "a Service that selects nothing": (
        lambda w: w.set(w.one("Service", "auth")["spec"], selector={"app": "auth"}),
        "Service/auth: selects 0 workloads",
    ),
    "a target port that does not exist": (
        lambda w: w.set(w.one("Service", "auth")["spec"]["ports"][0], targetPort="http"),
        "Service/auth: no pod listens on http",
    ),
    "a headless Service with another port": (
        lambda w: w.set(w.one("Service", "auth")["spec"]["ports"][0], port=80),
        "is headless, so its port must be the pods' own",
    ),
    "an Ingress to no port": (
        lambda w: w.set(w.one("Service", "gateway")["spec"]["ports"][0], name="web"),
        "Ingress/gateway: there is no Service gateway with this port",
    ),
    "an Ingress that refuses in its own words": (
        lambda w: w.one("Ingress", "gateway")["metadata"]["annotations"].update(
            {"nginx.ingress.kubernetes.io/proxy-body-size": "4m"}
        ),
        "refuses bodies that the gateway would take or answer itself",
    ),
    "an Ingress that is not patient": (
        lambda w: w.one("Ingress", "gateway")["metadata"]["annotations"].pop(
            "nginx.ingress.kubernetes.io/proxy-read-timeout"
        ),
        "gives up before the gateway does",
    ),
    "an Ingress that buffers": (
        lambda w: w.one("Ingress", "gateway")["metadata"].pop("annotations"),
        "keeps streams back",
    ),
    "a target that is no Service": (
        lambda w: w.set(w.one("ConfigMap", "gateway")["data"], AUTH_TARGET="dns:///auht:50051"),
        "AUTH_TARGET names no Service",
    ),
    "a target that is not balanced": (
        lambda w: w.one("Service", "auth")["spec"].pop("clusterIP"),
        "AUTH_TARGET names a Service that is not headless",
    ),
    "a target without a resolver": (
        lambda w: w.set(w.one("ConfigMap", "gateway")["data"], AUTH_TARGET="auth:50051"),
        "AUTH_TARGET is not dns:///",
    ),
    "a StatefulSet without its Service": (lambda w: w.remove("Service", "redis"), "there is no headless Service redis"),
    # Replicas.
    "an autoscaler with its bounds the wrong way round": (
        lambda w: w.set(w.one("HorizontalPodAutoscaler", "auth")["spec"], minReplicas=7),
        "its least replicas are more than its most",
    ),
    "an autoscaler of nothing": (
        lambda w: w.set(w.one("HorizontalPodAutoscaler", "auth")["spec"]["scaleTargetRef"], name="none"),
        "HorizontalPodAutoscaler/auth: its target does not exist",
    ),
    "an autoscaler that is undone": (
        lambda w: w.set(w.one("Deployment", "auth")["spec"], replicas=2),
        "sets replicas too",
    ),
    "a budget with two bounds": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"], minAvailable=1),
        "must have one of minAvailable and maxUnavailable",
    ),
    "a budget that lets no pod go": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"], maxUnavailable=0),
        "lets no pod go",
    ),
    "a budget that lets none of two go": (
        lambda w: w.one("PodDisruptionBudget", "auth").update(
            spec={"minAvailable": 2, "selector": {"matchLabels": {"app.kubernetes.io/name": "auth"}}}
        ),
        "lets no pod go",
    ),
    "a budget of nothing": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"]["selector"], matchLabels={"app": "auth"}),
        "PodDisruptionBudget/auth: selects 0 workloads",
    ),
    "no budget": (lambda w: w.remove("PodDisruptionBudget", "auth"), "Deployment/auth: has no PodDisruptionBudget"),
    "a roll-out that leaves nobody": (
        lambda w: w.one("Deployment", "auth")["spec"].pop("strategy"),
        "takes replicas away before others are ready",
    ),
    "replicas on one node": (lambda w: w.pod("auth").pop("topologySpreadConstraints"), "may all be on one node"),
    "a spread of others' pods": (
        lambda w: w.set(w.pod("auth")["topologySpreadConstraints"][0]["labelSelector"], matchLabels={"app": "x"}),
        "spreads other pods than its own",
    ),
    "a pod that is killed while it drains": (
        lambda w: w.set(w.pod("auth"), terminationGracePeriodSeconds=60),
        "Deployment/auth: is killed before it has drained (315 s)",
    ),
    "a drain that was made longer": (
        lambda w: w.set(w.one("ConfigMap", "quota")["data"], GRACE_SECONDS="600"),
        "Deployment/quota: is killed before it has drained",
    ),
    "an autoscaler that forgets about CPU use": (
        lambda w: w.scaler("gateway").pop(0),
        "HorizontalPodAutoscaler/gateway: does not follow CPU use",
    ),
    "an autoscaler after a metric that nobody tells": (
        lambda w: w.set(w.scaler("gateway")[1]["pods"]["metric"], name="stack_http_in_flight"),
        "HorizontalPodAutoscaler/gateway: Deployment/gateway tells no gauge stack_http_in_flight",
    ),
    "an autoscaler after another service's metric": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["metric"], name="stack_http_requests_in_flight"),
        "HorizontalPodAutoscaler/inference: Deployment/inference tells no gauge stack_http_requests_in_flight",
    ),
    "an autoscaler after what only grows": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["metric"], name="stack_chats"),
        "HorizontalPodAutoscaler/inference: Deployment/inference tells no gauge stack_chats",
    ),
    "an autoscaler after what nobody gathers": (
        lambda w: w.remove("PodMonitor", "stack"),
        "HorizontalPodAutoscaler/gateway: no PodMonitor gathers what Deployment/gateway tells",
    ),
    "an autoscaler after what is gathered of others": (
        lambda w: w.set(
            w.one("PodMonitor", "stack")["spec"]["selector"], matchLabels={"app.kubernetes.io/name": "gateway"}
        ),
        "HorizontalPodAutoscaler/inference: no PodMonitor gathers what Deployment/inference tells",
    ),
    "an autoscaler that comes when all places are taken": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["target"], averageValue="1k"),
        "HorizontalPodAutoscaler/inference: gets another replica only when its replicas are full",
    ),
    "an autoscaler that does not know of fewer places": (
        lambda w: w.set(w.one("ConfigMap", "inference")["data"], INFERENCE_CONCURRENCY_MAX="200"),
        "HorizontalPodAutoscaler/inference: gets another replica only when its replicas are full",
    ),
}
