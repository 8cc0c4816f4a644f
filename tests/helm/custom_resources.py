"""The published shapes of the custom resources that the chart writes, with nothing let in that it does not write.

Written from the API references of the Prometheus operator (monitoring.coreos.com/v1), KEDA (keda.sh/v1alpha1), the
Gateway API (gateway.networking.k8s.io/v1) and KServe (serving.kserve.io/v1beta1).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FREE: Schema = {"type": "object"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DNS = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
PROMETHEUS_DURATION: Schema = {"type": "string", "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?"
                               r"(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$", "minLength": 1}  # fmt: skip
GATEWAY_DURATION: Schema = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def shape(required: str = "", **properties: Schema) -> Schema:
    """An object with these properties and no others; `required` are names, separated by spaces."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


def many(item: Schema, least: int = 1) -> Schema:
    return {"type": "array", "minItems": least, "items": item}


METADATA = shape("name", name={"type": "string", "pattern": DNS}, namespace=TEXT, labels=LABELS, annotations=LABELS)


def resource(version: str, kind: str, spec: Schema) -> Schema:
    return shape(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )


SERVICE_MONITOR = shape(
    "selector endpoints",
    selector=shape("matchLabels", matchLabels=LABELS),
    endpoints=many(shape("port", port=TEXT, path={"type": "string", "pattern": "^/"}, interval=PROMETHEUS_DURATION)),
)
PROMETHEUS_RULE = shape(
    "groups",
    groups=many(
        shape(
            "name",
            name=TEXT,
            interval=PROMETHEUS_DURATION,
            rules=many(
                shape(
                    "expr",
                    record={"type": "string", "pattern": "^[A-Za-z_:][A-Za-z0-9_:]*$"},
                    alert={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                    expr=TEXT,
                    **{"for": PROMETHEUS_DURATION},
                    labels=LABELS,
                    annotations=LABELS,
                )
            ),
        )
    ),
)
POLICIES = many(
    shape("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value={"type": "integer", "minimum": 1},
          periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800})
)  # fmt: skip
SCALING = shape(
    "policies",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies=POLICIES,
)
SCALED_OBJECT = shape(
    "scaleTargetRef triggers",
    scaleTargetRef=shape("name", apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT),
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    fallback=shape("failureThreshold replicas", failureThreshold=COUNT, replicas=COUNT),
    advanced=shape(
        horizontalPodAutoscalerConfig=shape(name=TEXT, behavior=shape(scaleUp=SCALING, scaleDown=SCALING)),
        restoreToOriginalReplicaCount={"type": "boolean"},
    ),
    triggers=many(
        shape(
            "type metadata",
            type={"const": "prometheus"},
            name=TEXT,
            metricType={"enum": ["AverageValue", "Value"]},
            # Every entry of a trigger's metadata is text.
            metadata=shape(
                "serverAddress query threshold",
                serverAddress=TEXT,
                query=TEXT,
                threshold={"type": "string", "pattern": r"^[0-9.]+$"},
                activationThreshold={"type": "string"},
                ignoreNullValues={"enum": ["true", "false"]},
            ),
            authenticationRef=shape("name", name=TEXT, kind=TEXT),
        )
    ),
)
PARENT = shape("name", group=TEXT, kind=TEXT, namespace=TEXT, name=TEXT, sectionName=TEXT, port=COUNT)
HTTP_ROUTE = shape(
    "parentRefs rules",
    parentRefs=many(PARENT),
    hostnames=many({"type": "string", "pattern": DNS}),
    rules=many(
        shape(
            "backendRefs",
            matches=many(
                shape(path=shape("type value", type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=TEXT))
            ),
            backendRefs=many(
                shape("name port", name=TEXT, port={"type": "integer", "minimum": 1, "maximum": 65535}, weight=COUNT)
            ),
            timeouts=shape(request=GATEWAY_DURATION, backendRequest=GATEWAY_DURATION),
        )
    ),
)
BACKEND_TLS = shape(
    "targetRefs validation",
    targetRefs=many(shape("group kind name", group={"type": "string"}, kind=TEXT, name=TEXT, sectionName=TEXT)),
    validation={
        **shape(
            "hostname",
            hostname={"type": "string", "pattern": DNS},
            caCertificateRefs=many(shape("group kind name", group={"type": "string"}, kind=TEXT, name=TEXT)),
            wellKnownCACertificates={"const": "System"},
        ),
        # One of the two, never both.
        "oneOf": [{"required": ["caCertificateRefs"]}, {"required": ["wellKnownCACertificates"]}],
    },
)
# A predictor is a pod specification with scaling beside it: the pod's part is checked against the Kubernetes schema.
KSERVE_SCALING = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric")
INFERENCE_SERVICE = shape(
    "predictor",
    predictor={
        "type": "object",
        # A container of one's own, or a model for a ServingRuntime.
        "oneOf": [{"required": ["containers"]}, {"required": ["model"]}],
        "properties": {
            "model": shape(
                "modelFormat storageUri",
                modelFormat=shape("name", name=TEXT, version=TEXT),
                runtime=TEXT,
                protocolVersion={"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                storageUri={"type": "string", "pattern": "^[a-z0-9]+://"},
                resources=FREE,
                env=many(FREE),
            ),
            "minReplicas": COUNT,
            "maxReplicas": COUNT,
            "scaleTarget": COUNT,
            "scaleMetric": {"enum": ["concurrency", "rps", "cpu", "memory"]},
            "containers": many(FREE),
        },
    },
)
# A ServingRuntime has containers and volumes of a pod, and no place for the pod's security.
SERVING_RUNTIME = shape(
    "containers supportedModelFormats",
    annotations=LABELS,
    labels=LABELS,
    supportedModelFormats=many(
        shape(
            "name",
            name=TEXT,
            version={"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)*$"},
            autoSelect={"type": "boolean"},
            priority={"type": "integer", "minimum": 1},
        )
    ),
    protocolVersions=many({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
    multiModel={"type": "boolean"},
    containers=many(FREE),
    volumes=many(FREE),
    nodeSelector=LABELS,
    tolerations=many(FREE),
    imagePullSecrets=many(shape("name", name=TEXT)),
)

SCHEMAS = {
    kind: resource(version, kind, spec)
    for version, kind, spec in (
        ("monitoring.coreos.com/v1", "ServiceMonitor", SERVICE_MONITOR),
        ("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
        ("keda.sh/v1alpha1", "ScaledObject", SCALED_OBJECT),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", HTTP_ROUTE),
        ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", BACKEND_TLS),
        ("serving.kserve.io/v1beta1", "InferenceService", INFERENCE_SERVICE),
        ("serving.kserve.io/v1alpha1", "ServingRuntime", SERVING_RUNTIME),
    )
}
