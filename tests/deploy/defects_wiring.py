"""Defects of references between objects, and of replicas."""

from tests.deploy.world import Defects

DEFECTS: Defects = {
    # References.
    "a ConfigMap that does not exist": (
        lambda w: w.remove("ConfigMap", "quota"),
        "there is no ConfigMap quota-config-",
    ),
    "an unused ConfigMap": (
        lambda w: w.container("gateway")["envFrom"].pop(0),
        "ConfigMap/gateway-config-",
    ),
    "a Secret that does not exist": (
        lambda w: w.set(w.container("auth")["env"][0]["valueFrom"]["secretKeyRef"], name="auth-secrets"),
        "nothing creates key STACK_ADMIN_TOKEN of Secret auth-secrets",
    ),
    "a key that is in no Secret": (
        lambda w: w.set(w.container("auth")["env"][0]["valueFrom"]["secretKeyRef"], key="ADMIN"),
        "nothing creates key ADMIN of Secret stack-secrets",
    ),
    "a certificate that is not issued": (lambda w: w.remove("Certificate", "auth"), "nothing creates Secret auth-tls"),
    "no ServiceAccount": (lambda w: w.remove("ServiceAccount", "auth"), "its ServiceAccount does not exist"),
    "a ServiceAccount with a token": (
        lambda w: w.one("ServiceAccount", "auth").pop("automountServiceAccountToken"),
        "its ServiceAccount mounts a token",
    ),
    "a variable used before its definition": (
        lambda w: w.container("auth")["env"].insert(
            0, {"name": "AUTH_DATABASE_URL", "value": "postgresql://auth:$(AUTH_DATABASE_PASSWORD)@postgres:5432/auth"}
        ),
        "AUTH_DATABASE_URL uses AUTH_DATABASE_PASSWORD before it is defined",
    ),
    "an undefined variable in a command": (
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
    "an Ingress to a port that does not exist": (
        lambda w: w.set(w.one("Service", "gateway")["spec"]["ports"][0], name="web"),
        "Ingress/gateway: there is no Service gateway with this port",
    ),
    "an Ingress that refuses large bodies itself": (
        lambda w: w.one("Ingress", "gateway")["metadata"]["annotations"].update(
            {"nginx.ingress.kubernetes.io/proxy-body-size": "4m"}
        ),
        "refuses bodies that the gateway would accept or refuse itself",
    ),
    "an Ingress with a short time-out": (
        lambda w: w.one("Ingress", "gateway")["metadata"]["annotations"].pop(
            "nginx.ingress.kubernetes.io/proxy-read-timeout"
        ),
        "has a shorter time-out than the gateway",
    ),
    "an Ingress that buffers": (
        lambda w: w.one("Ingress", "gateway")["metadata"].pop("annotations"),
        "buffers streams",
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
    "an autoscaler with its bounds reversed": (
        lambda w: w.set(w.one("HorizontalPodAutoscaler", "auth")["spec"], minReplicas=7),
        "minReplicas is greater than maxReplicas",
    ),
    "an autoscaler without a target": (
        lambda w: w.set(w.one("HorizontalPodAutoscaler", "auth")["spec"]["scaleTargetRef"], name="none"),
        "HorizontalPodAutoscaler/auth: its target does not exist",
    ),
    "an autoscaler that every apply overrides": (
        lambda w: w.set(w.one("Deployment", "auth")["spec"], replicas=2),
        "sets replicas too",
    ),
    "a budget with two bounds": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"], minAvailable=1),
        "must have one of minAvailable and maxUnavailable",
    ),
    "a budget that allows no disruption": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"], maxUnavailable=0),
        "allows no disruption",
    ),
    "a budget that allows no disruption of two pods": (
        lambda w: w.one("PodDisruptionBudget", "auth").update(
            spec={"minAvailable": 2, "selector": {"matchLabels": {"app.kubernetes.io/name": "auth"}}}
        ),
        "allows no disruption",
    ),
    "a budget that selects no workload": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth")["spec"]["selector"], matchLabels={"app": "auth"}),
        "PodDisruptionBudget/auth: selects 0 workloads",
    ),
    "no budget": (lambda w: w.remove("PodDisruptionBudget", "auth"), "Deployment/auth: has no PodDisruptionBudget"),
    "a roll-out that leaves no replica": (
        lambda w: w.one("Deployment", "auth")["spec"].pop("strategy"),
        "removes replicas before others are ready",
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
    "a drain longer than the grace period": (
        lambda w: w.set(w.one("ConfigMap", "quota")["data"], GRACE_SECONDS="600"),
        "Deployment/quota: is killed before it has drained",
    ),
    "an autoscaler that ignores CPU use": (
        lambda w: w.scaler("gateway").pop(0),
        "HorizontalPodAutoscaler/gateway: does not follow CPU use",
    ),
    "an autoscaler with a metric that is not exported": (
        lambda w: w.set(w.scaler("gateway")[1]["pods"]["metric"], name="stack_http_in_flight"),
        "HorizontalPodAutoscaler/gateway: Deployment/gateway exports no gauge stack_http_in_flight",
    ),
    "an autoscaler with another service's metric": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["metric"], name="stack_http_requests_in_flight"),
        "HorizontalPodAutoscaler/inference: Deployment/inference exports no gauge stack_http_requests_in_flight",
    ),
    "an autoscaler with a counter": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["metric"], name="stack_chats"),
        "HorizontalPodAutoscaler/inference: Deployment/inference exports no gauge stack_chats",
    ),
    "an autoscaler with a metric that is not scraped": (
        lambda w: w.remove("PodMonitor", "stack"),
        "HorizontalPodAutoscaler/gateway: no PodMonitor scrapes Deployment/gateway",
    ),
    "an autoscaler with a metric scraped from other pods": (
        lambda w: w.set(
            w.one("PodMonitor", "stack")["spec"]["selector"], matchLabels={"app.kubernetes.io/name": "gateway"}
        ),
        "HorizontalPodAutoscaler/inference: no PodMonitor scrapes Deployment/inference",
    ),
    "an autoscaler that scales up only when all slots are taken": (
        lambda w: w.set(w.scaler("inference")[1]["pods"]["target"], averageValue="1k"),
        "HorizontalPodAutoscaler/inference: gets another replica only when its replicas are full",
    ),
    "an autoscaler that ignores a lower number of slots": (
        lambda w: w.set(w.one("ConfigMap", "inference")["data"], INFERENCE_CONCURRENCY_MAX="200"),
        "HorizontalPodAutoscaler/inference: gets another replica only when its replicas are full",
    ),
}
