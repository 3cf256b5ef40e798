"""Defects of pods, and those that a schema detects."""

from tests.deploy.world import Defects

DEFECTS: Defects = {
    # Schemas.
    "a field that does not exist": (lambda w: w.set(w.container("auth"), memory="1Gi"), "memory"),
    "a wrong type": (lambda w: w.set(w.one("Deployment", "auth")["spec"], replicas="two"), "replicas"),
    "a removed API version": (
        lambda w: w.set(w.one("PodDisruptionBudget", "auth"), apiVersion="policy/v1beta1"),
        "policy/v1beta1 PodDisruptionBudget has no schema",
    ),
    "a field that older clusters do not have": (
        lambda w: w.set(w.container("auth"), lifecycle={"preStop": {"sleep": {"seconds": 5}}}),
        "'sleep' was unexpected) (Kubernetes 1.27)",
    ),
    # Pods.
    "a name with capitals": (lambda w: w.set(w.one("Service", "auth")["metadata"], name="Auth"), "not a DNS name"),
    "a container's name with dots": (lambda w: w.set(w.container("auth"), name="a.b"), "not a DNS label"),
    "a selector that is not the template's labels": (
        lambda w: w.set(w.one("Deployment", "auth")["spec"]["selector"], matchLabels={"app": "auth"}),
        "Deployment/auth: the selector does not match the labels of its pods",
    ),
    "a selector that matches others' pods": (
        lambda w: w.set(
            w.one("Deployment", "auth")["spec"]["selector"], matchLabels={"app.kubernetes.io/part-of": "stack"}
        ),
        "Deployment/auth: the selector matches pods of another workload",
    ),
    "port 70000": (lambda w: w.set(w.container("auth")["ports"][0], containerPort=70000), "port 70000 cannot exist"),
    "port 70000 of a Service": (
        lambda w: w.set(w.one("Service", "gateway")["spec"]["ports"][0], port=70000),
        "Service/gateway: port 70000 cannot exist",
    ),
    "a port whose name is too long": (
        lambda w: w.set(w.container("auth")["ports"][1], name="plaintext-health"),
        "the name of port plaintext-health is too long",
    ),
    "two ports with one name": (
        lambda w: w.set(w.container("auth")["ports"][1], name="grpc"),
        "Deployment/auth: two containers declare the same port",
    ),
    "a port twice": (lambda w: w.set(w.container("auth")["ports"][0], containerPort=50151), "declare the same port"),
    "a probe with two handlers": (
        lambda w: w.set(w.container("auth")["livenessProbe"], tcpSocket={"port": 50151}),
        "livenessProbe has 2 handlers",
    ),
    "a probe of an undeclared port": (
        lambda w: w.set(w.container("auth")["readinessProbe"]["grpc"], port=50051 + 1),
        "readinessProbe probes port 50052",
    ),
    "a probe of a port by name": (
        lambda w: w.set(w.container("gateway")["readinessProbe"]["httpGet"], port="http"),
        "probes port http",
    ),
    "a draining pod that is killed for it": (
        lambda w: w.container("auth")["livenessProbe"]["grpc"].pop("service"),
        "Deployment/auth: livenessProbe probes '' and should probe 'liveness'",
    ),
    "a pod that is ready before its schema": (
        lambda w: w.set(w.container("auth")["readinessProbe"]["grpc"], service="liveness"),
        "readinessProbe probes 'liveness' and should probe ''",
    ),
    "a gateway that is ready before its services": (
        lambda w: w.set(w.container("gateway")["readinessProbe"]["httpGet"], path="/healthz"),
        "readinessProbe probes '/healthz' and should probe '/readyz'",
    ),
    "no readiness probe": (lambda w: w.container("quota").pop("readinessProbe"), "quota has no readinessProbe"),
    "an invalid quantity": (
        lambda w: w.set(w.container("auth")["resources"]["requests"], memory="128MB"),
        "cannot be read: 128MB",
    ),
    "a volume of an invalid size": (
        lambda w: w.set(w.pod("auth")["volumes"][0]["emptyDir"], sizeLimit="64MB"),
        "Deployment/auth: has a quantity that cannot be read: 64MB",
    ),
    "a claim of an invalid size": (
        lambda w: w.set(
            w.one("StatefulSet", "redis")["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"],
            storage="2 GB",
        ),
        "StatefulSet/redis: has a quantity that cannot be read: 2 GB",
    ),
    "a request above its limit": (
        lambda w: w.set(w.container("auth")["resources"]["requests"], memory="2Gi"),
        "requests more memory than its limit",
    ),
    "no memory limit": (lambda w: w.container("auth")["resources"].pop("limits"), "limit memory"),
    "an invalid enumeration value": (
        lambda w: w.set(w.container("auth"), imagePullPolicy="Sometimes"),
        "imagePullPolicy cannot be Sometimes",
    ),
    "an invalid enumeration value in a list": (
        lambda w: w.policy("auth")["policyTypes"].append("Outgress"),
        "policyTypes cannot be Outgress",
    ),
    "a mount without a volume": (lambda w: w.pod("auth")["volumes"].pop(0), "tmp is mounted but not a volume"),
    "a volume that is mounted nowhere": (
        lambda w: w.container("auth")["volumeMounts"].pop(0),
        "volume tmp is mounted nowhere",
    ),
    "two volumes at one path": (
        lambda w: w.set(w.container("auth")["volumeMounts"][1], mountPath="/tmp"),
        "mounts two volumes at one path",
    ),
    # The restricted Pod Security level.
    "a pod that may be root": (lambda w: w.pod("auth")["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "no seccomp profile": (lambda w: w.pod("redis", "StatefulSet")["securityContext"].pop("seccompProfile"), "seccomp"),
    "the node's network": (lambda w: w.set(w.pod("auth"), hostNetwork=True), "shares its node's network"),
    "a folder of the node": (
        lambda w: w.set(w.pod("auth")["volumes"][0], hostPath={"path": "/"}),
        "volumes of kind hostPath are forbidden",
    ),
    "a capability": (
        lambda w: w.set(w.container("auth")["securityContext"]["capabilities"], add=["NET_ADMIN"]),
        "keeps capabilities",
    ),
    "a root that can be written": (
        lambda w: w.set(w.container("auth")["securityContext"], readOnlyRootFilesystem=False),
        "can write to its root",
    ),
    "a container that may gain privileges": (
        lambda w: w.container("auth")["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    "a container that is root in a pod that is not": (
        lambda w: w.set(w.container("auth")["securityContext"], runAsUser=0),
        "auth may be root where its pod may not",
    ),
    "a container without its pod's seccomp profile": (
        lambda w: w.set(w.container("auth")["securityContext"], seccompProfile={"type": "Unconfined"}),
        "auth has another seccomp profile than its pod",
    ),
    "a certificate that its pod cannot read": (
        lambda w: w.pod("auth")["securityContext"].pop("fsGroup"),
        "Deployment/auth: cannot use its volumes",
    ),
    "a claim that its pod cannot write to": (
        lambda w: w.set(w.pod("redis", "StatefulSet")["securityContext"], fsGroup=10001),
        "StatefulSet/redis: cannot use its volumes",
    ),
    "a token for the API server": (
        lambda w: w.pod("auth").pop("automountServiceAccountToken"),
        "mounts a token for the API server",
    ),
    "a namespace that enforces nothing": (
        lambda w: w.one("Namespace", "stack")["metadata"].pop("labels"),
        "does not enforce the restricted",
    ),
}
