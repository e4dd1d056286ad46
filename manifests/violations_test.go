package manifests_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// violation is one change that one rule must find: a value set in, or with nil
// removed from, the object `of` of an overlay. Without a path the object is removed.
type violation struct {
	rule, of, path string
	value          any
}

const container = "spec.template.spec.containers.0"

// inNoOverlay has the combination in which a component is checked: the host of an
// Ingress is the user's, and so is the choice of Avro, of a collector and of trials.
var inNoOverlay = map[string]string{"components/ingress": "tls-sasl+ingress+httproute", "components/schema-registry": "strimzi+schema-registry", "components/traces": "kafka-dev+traces", "components/try-it": "tls-sasl+try-it"}

// violations by the overlay, or the component, they are planted in.
var violations = map[string][]violation{
	"overlays/kind": {
		{"restricted", "apps/v1/Deployment bridge", "spec.template.spec.securityContext.runAsNonRoot", nil},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.runAsNonRoot", false},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.allowPrivilegeEscalation", nil},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.privileged", true},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.capabilities.drop.0", "NET_RAW"},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.capabilities.add", []any{"SYS_ADMIN"}},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext.readOnlyRootFilesystem", false},
		{"restricted", "apps/v1/Deployment bridge", container + ".securityContext", nil},
		{"restricted", "apps/v1/Deployment bridge", "spec.template.spec.securityContext.seccompProfile.type", "Unconfined"},
		{"restricted", "apps/v1/Deployment bridge", "spec.template.spec.hostNetwork", true},
		{"restricted", "apps/v1/Deployment notifier", "spec.template.spec.volumes", []any{map[string]any{"name": "host", "hostPath": map[string]any{"path": "/"}}}},
		{"restricted", "apps/v1/StatefulSet task-events-kafka", container + ".securityContext.capabilities", nil},
		{"restricted", "apps/v1/StatefulSet task-events-kafka", container + ".securityContext.readOnlyRootFilesystem", nil},
		{"images", "apps/v1/StatefulSet task-events-kafka", container + ".image", "apache/kafka:4.3.1"},
		{"images", "apps/v1/StatefulSet task-events-kafka", container + ".image", "apache/kafka@sha256:77e3df9054047a88b520d0cc46e16696d3b22022e1d580aeccd2632df6532837"},
		{"alone", "apps/v1/Deployment bridge", "spec.template.spec.containers.1", map[string]any{"name": "shell", "image": "busybox"}},
		{"resources", "apps/v1/Deployment bridge", container + ".resources.requests.cpu", nil},
		{"resources", "apps/v1/Deployment bridge", container + ".resources.limits", nil},
		{"resources", "apps/v1/Deployment bridge", container + ".resources.limits.cpu", "1"},
		{"probes", "apps/v1/Deployment bridge", container + ".readinessProbe.httpGet.port", "http"},
		{"probes", "apps/v1/Deployment bridge", container + ".livenessProbe.httpGet.path", "/readyz"},
		{"probes", "apps/v1/Deployment bridge", container + ".livenessProbe", nil},
		{"probes", "apps/v1/Deployment auditor", container + ".startupProbe.httpGet.port", "http"},
		{"probes", "apps/v1/StatefulSet task-events-kafka", container + ".readinessProbe", nil},
		{"ports", "apps/v1/Deployment bridge", container + ".ports.0.containerPort", 8080},
		{"ports", "apps/v1/Deployment bridge", container + ".ports.1.name", nil},
		{"ports", "apps/v1/Deployment bridge", container + ".ports.2", map[string]any{"name": "debug", "containerPort": 6060.0}},
		{"ports", "apps/v1/StatefulSet task-events-kafka", container + ".ports.1.name", nil},
		{"ports", "v1/Service bridge", "spec.ports.0.port", 80},
		{"ports", "v1/Service bridge", "spec.ports.0.targetPort", "ops"},
		{"ports", "v1/Service bridge", "spec.ports.1", nil},
		{"links", "apps/v1/Deployment bridge", "spec.template.spec.enableServiceLinks", nil},
		{"tokens", "apps/v1/Deployment bridge", "spec.template.spec.automountServiceAccountToken", nil},
		{"tokens", "v1/ServiceAccount bridge", "automountServiceAccountToken", true},
		{"names", "apps/v1/Deployment bridge", container + ".image", "task-bridge"},
		{"names", "apps/v1/Deployment bridge", container + ".name", "main"},
		{"names", "apps/v1/Deployment bridge", "metadata.labels.app~kubernetes~io/part-of", "other"},
		{"names", "apps/v1/Deployment bridge", "spec.template.metadata.labels.app~kubernetes~io/version", nil},
		{"names", "apps/v1/Deployment bridge", "metadata.labels.app~kubernetes~io/component", nil},
		{"names", "v1/Service bridge", "spec.selector.app~kubernetes~io/name", "taskapi"},
		{"names", "apps/v1/Deployment notifier", "", nil},
		{"names", "v1/Service taskapi", "", nil},
		{"names", "v1/Namespace taskwire", "metadata.labels", nil},
		{"names", "v1/ConfigMap bridge-*", "metadata.namespace", "default"},
		{"shutdown", "apps/v1/Deployment bridge", "spec.template.spec.terminationGracePeriodSeconds", 28},
		{"shutdown", "apps/v1/Deployment bridge", "spec.template.spec.terminationGracePeriodSeconds", nil},
		{"shutdown", "apps/v1/Deployment bridge", container + ".lifecycle", nil},
		{"shutdown", "apps/v1/Deployment bridge", container + ".lifecycle.preStop.sleep.seconds", 10},
		{"shutdown", "apps/v1/Deployment auditor", container + ".env.SHUTDOWN_GRACE", "40s"},
		{"references", "v1/ServiceAccount bridge", "", nil},
		{"references", "v1/PersistentVolumeClaim auditor", "", nil},
		{"references", "v1/Namespace kafka", "", nil},
		{"references", "v1/ConfigMap bridge-*", "", nil},
		{"writers", "apps/v1/Deployment auditor", "spec.replicas", 2},
		{"writers", "apps/v1/Deployment taskapi", "spec.strategy.type", "RollingUpdate"},
		{"writers", "apps/v1/Deployment auditor", container + ".env.WAIT_FOR_LOCK", nil},
		{"budgets", "policy/v1/PodDisruptionBudget bridge", "", nil},
		{"budgets", "policy/v1/PodDisruptionBudget bridge", "spec.maxUnavailable", 0},
		{"budgets", "policy/v1/PodDisruptionBudget bridge", "spec.unhealthyPodEvictionPolicy", "IfHealthyBudget"},
		{"budgets", "policy/v1/PodDisruptionBudget bridge", "spec.selector.matchLabels.app~kubernetes~io/name", "auditor"},
		{"network", "networking.k8s.io/v1/NetworkPolicy default-deny", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy default-deny", "spec.policyTypes.1", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy dns", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy dns", "spec.egress.0.to", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-kafka", "spec.egress.0.ports", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-kafka", "spec.podSelector", map[string]any{}},
		{"network", "networking.k8s.io/v1/NetworkPolicy bridge-to-sinks", "spec.egress.1", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy sinks-from-bridge", "spec.ingress.0.from", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy sinks-from-bridge", "spec.ingress.0.ports.0.port", 9002},
		{"network", "networking.k8s.io/v1/NetworkPolicy api-from-anywhere", "spec.podSelector.matchLabels", map[string]any{"app.kubernetes.io/part-of": "taskwire"}},
		{"network", "networking.k8s.io/v1/NetworkPolicy api-from-anywhere", "spec.ingress.0.from", []any{map[string]any{"podSelector": map[string]any{}}}},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "spec.ingress.0.from", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "spec.ingress.0.from.0.podSelector", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "spec.ingress.0.ports", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "spec.ingress.1", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-services", "spec.podSelector.matchLabels", map[string]any{"app.kubernetes.io/name": "broker"}},
		{"secrets", "apps/v1/Deployment taskapi", container + ".env.API_TOKENS_FILE", "/etc/secrets/api-tokens"},
		{"secrets", "v1/ConfigMap bridge-*", "data.bridge~yaml", "subscriptions: [{name: audit, group: audit-service, sink: 'http://auditor:8003/', signing: {secret_file: /etc/secrets/auditor}}]"},
		{"settings", "apps/v1/Deployment bridge", container + ".env.BRIDGE_CONFG", "/etc/taskwire/bridge.yaml"},
		{"settings", "apps/v1/Deployment auditor", container + ".env.KAFKA_TOPIC", "task-events"},
		{"settings", "apps/v1/Deployment notifier", container + ".env.SHUTDOWN_GRACE", "25"},
		{"settings", "apps/v1/Deployment notifier", container + ".env.LISTEN_ADDR", ":8000"},
		{"settings", "apps/v1/Deployment notifier", container + ".env.WEBHOOK_SECRET_FILE", "/etc/webhook/secret"},
		{"settings", "apps/v1/Deployment taskapi", container + ".env.DATABASE_URL", "sqlite:/tmp/tasks.db"},
		{"settings", "apps/v1/Deployment taskapi", container + ".env.DATABASE_URL", "mysql://taskapi@db/tasks"},
		{"settings", "apps/v1/Deployment auditor", container + ".volumeMounts.0.mountPath", "/var/data"},
		{"settings", "apps/v1/Deployment bridge", container + ".volumeMounts.0.mountPath", "/etc/bridge"},
		{"settings", "v1/ConfigMap bridge-*", "data.bridge~yaml", "subscriptions: [{name: audit, group: audit-service, sink: 'http://auditor:8003/', retries: 3}]"},
		{"sinks", "v1/ConfigMap bridge-*", "data.bridge~yaml", "topic: task-events\nsubscriptions: [{name: audit, group: audit-service, sink: 'http://auditor:8002/'}]"},
		{"sinks", "v1/ConfigMap bridge-*", "data.bridge~yaml", "topic: task-events\nsubscriptions: [{name: audit, group: audit-service, sink: 'http://archive:8003/'}]"},
		{"console", "apps/v1/Deployment bridge", container + ".env.AUDITOR_URL", nil},
		{"console", "apps/v1/Deployment bridge", container + ".env.AUDITOR_URL", "http://notifier:8002/"},
		{"console", "apps/v1/Deployment bridge", container + ".env.AUDITOR_URL", "http://auditor.taskwire.svc.cluster.local/"},
		{"console", "apps/v1/Deployment bridge", container + ".env.TASKAPI_URL", "http://taskapi:8000/"},
		{"network", "apps/v1/Deployment bridge", container + ".env.TASKAPI_URL", "http://taskapi:8000/"},
		{"topics", "apps/v1/Deployment taskapi", container + ".env.KAFKA_CREATE_TOPICS", "false"},
		{"topics", "apps/v1/Deployment taskapi", container + ".env.KAFKA_TOPIC", "tasks"},
		{"bootstrap", "apps/v1/Deployment taskapi", container + ".env.KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"},
		{"bootstrap", "apps/v1/Deployment taskapi", container + ".env.KAFKA_BOOTSTRAP_SERVERS", "task-events-kafka-bootstrap.kafka:9094"},
		{"bootstrap", "apps/v1/Deployment taskapi", container + ".env.KAFKA_TLS", "true"},
		{"bootstrap", "v1/Service task-events-kafka-bootstrap", "", nil},
		{"exec", "apps/v1/StatefulSet task-events-kafka", "metadata.name", "kafka"},
		{"exec", "apps/v1/StatefulSet task-events-kafka", container + ".workingDir", nil},
	},
	"overlays/production": {
		{"secrets", "apps/v1/Deployment taskapi", container + ".env.API_TOKENS_FILE", nil},
		{"secrets", "apps/v1/Deployment bridge", container + ".env.ADMIN_TOKEN_FILE", nil},
		{"secrets", "apps/v1/Deployment bridge", container + ".env.BRIDGE_STATE_KEY_FILE", nil},
		{"secrets", "apps/v1/Deployment bridge", container + ".env.BRIDGE_STATE_KEY_FILE", "/etc/taskwire/state-key"},
		{"secrets", "apps/v1/Deployment notifier", container + ".env.WEBHOOK_SECRET_FILE", nil},
		{"secrets", "apps/v1/Deployment auditor", container + ".env.WEBHOOK_SECRET_FILE", nil},
		{"secrets", "apps/v1/Deployment auditor", container + ".volumeMounts", nil},
		{"secrets", "apps/v1/Deployment auditor", "spec.template.spec.volumes.0.projected.sources.0.secret.name", "webhook-notifier"},
		{"secrets", "apps/v1/Deployment auditor", "spec.template.spec.volumes.0.projected.sources.0.secret.optional", true},
		{"secrets", "apps/v1/Deployment auditor", "spec.template.spec.volumes.0.projected.defaultMode", 0o444},
		{"secrets", "apps/v1/Deployment auditor", "spec.template.spec.securityContext.fsGroup", nil},
		{"secrets", "apps/v1/Deployment auditor", "spec.template.spec.volumes.0", map[string]any{"name": "secrets", "secret": map[string]any{"secretName": "webhook-auditor"}}},
		{"secrets", "v1/ConfigMap bridge-*", "data.bridge~yaml", "subscriptions: [{name: audit, group: audit-service, sink: 'http://auditor:8003/'}]"},
		{"secrets", "v1/ConfigMap bridge-*", "data.bridge~yaml", "subscriptions: [{name: audit, group: audit-service, sink: 'http://auditor:8003/', signing: {secret_file: /etc/secrets/notifier}}]"},
		{"network", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.listeners.0.networkPolicyPeers", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-kafka", "spec.egress.0.ports.0.port", 9092},
		{"network", "networking.k8s.io/v1/NetworkPolicy ops-from-monitoring", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy ops-from-monitoring", "spec.ingress.0.ports", nil},
		{"settings", "apps/v1/Deployment bridge", container + ".env.KAFKA_SASL_PASSWORD_FILE", "/etc/kafka/secret"},
		{"settings", "apps/v1/Deployment bridge", container + ".env.KAFKA_SASL_USERNAME", "taskapi"},
		{"settings", "apps/v1/Deployment bridge", container + ".env.KAFKA_SASL_MECHANISM", nil},
		{"settings", "apps/v1/Deployment bridge", container + ".env.KAFKA_TLS", "false"},
		{"settings", "apps/v1/Deployment taskapi", "spec.template.spec.volumes.0.projected.sources.1.secret.name", "kafka-password"},
		{"bootstrap", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.listeners.0.authentication", nil},
		{"bootstrap", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.listeners.1", map[string]any{"name": "plain", "port": 9092.0, "type": "internal", "tls": false}},
		{"rights", "kafka.strimzi.io/v1/KafkaUser taskapi", "spec.authorization.acls.0.operations.2", "Read"},
		{"rights", "kafka.strimzi.io/v1/KafkaUser bridge", "spec.authorization.acls.1.resource.name", "notifications"},
		{"rights", "kafka.strimzi.io/v1/KafkaUser bridge", "spec.authorization.acls.3", nil},
		{"rights", "kafka.strimzi.io/v1/KafkaUser bridge", "spec.authorization.acls.0.resource.patternType", "prefix"},
		{"rights", "kafka.strimzi.io/v1/KafkaUser bridge", "spec.authentication.type", "tls"},
		{"rights", "kafka.strimzi.io/v1/KafkaUser bridge", "metadata.namespace", "kafka"},
		{"rights", "kafka.strimzi.io/v1/Kafka task-events", "spec.entityOperator.userOperator.watchedNamespace", nil},
		{"rights", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.authorization", nil},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic task-events", "spec.partitions", 12},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic task-events-dlq", "", nil},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic task-events-dlq", "spec.config.retention~ms", 604800000},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic taskwire-control", "", nil},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic taskwire-control", "spec.config.cleanup~policy", "delete"},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic taskwire-control", "spec.partitions", 3},
		{"topics", "apps/v1/Deployment bridge", container + ".env.KAFKA_CREATE_TOPICS", "true"},
		{"durability", "kafka.strimzi.io/v1/KafkaTopic task-events", "spec.replicas", 1},
		{"durability", "kafka.strimzi.io/v1/KafkaTopic task-events", "spec.config.min~insync~replicas", 1},
		{"durability", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.config.min~insync~replicas", 1},
		{"durability", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.config.offsets~topic~replication~factor", 1},
		{"durability", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.config.auto~create~topics~enable", nil},
		{"durability", "kafka.strimzi.io/v1/KafkaNodePool kafka", "spec.replicas", 2},
		{"exec", "kafka.strimzi.io/v1/KafkaNodePool kafka", "metadata.name", "brokers"},
		{"exec", "kafka.strimzi.io/v1/KafkaTopic task-events", "metadata.labels.strimzi~io/cluster", nil},
		{"scrape", "monitoring.coreos.com/v1/PodMonitor taskwire", "spec.podMetricsEndpoints.0.port", "http"},
		{"scrape", "monitoring.coreos.com/v1/PodMonitor taskwire", "spec.podTargetLabels", nil},
		{"scrape", "monitoring.coreos.com/v1/PodMonitor kafka", "spec.podMetricsEndpoints.0.port", "ops"},
		{"scrape", "monitoring.coreos.com/v1/PodMonitor taskwire", "spec.selector.matchLabels.app~kubernetes~io/name", "bridge"},
	},
	"overlays/scale": {
		{"shutdown", "apps/v1/Deployment taskapi", container + ".env.SHUTDOWN_QUIET", "1s"},
		{"shutdown", "apps/v1/Deployment taskapi", container + ".lifecycle.preStop.sleep.seconds", 10},
		{"writers", "apps/v1/Deployment auditor", "spec.strategy.type", "Recreate"},
		{"topics", "kafka.strimzi.io/v1/KafkaTopic task-events", "spec.partitions", 1},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.minReplicaCount", 1},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.maxReplicaCount", 20},
		{"databases", "apps/v1/Deployment taskapi", container + ".env.DATABASE_URL", "postgres://taskapi@postgres-rw.postgres:5432/tasks?sslmode=disable"},
		{"databases", "apps/v1/Deployment auditor", container + ".env.AUDIT_DATABASE_URL", "postgres://auditor@postgres-ro.postgres:5432/audit?sslmode=verify-full"},
		{"databases", "apps/v1/Deployment auditor", container + ".env.AUDIT_DATABASE_URL", "postgres://auditor@postgres-rw.postgres:5432/tasks?sslmode=verify-full&sslrootcert=/etc/postgres/ca.crt"},
		{"databases", "postgresql.cnpg.io/v1/Cluster postgres", "spec.postgresql.synchronous", nil},
		{"databases", "postgresql.cnpg.io/v1/Cluster postgres", "spec.postgresql.synchronous.dataDurability", "preferred"},
		{"databases", "postgresql.cnpg.io/v1/Cluster postgres", "spec.postgresql.synchronous.failoverQuorum", nil},
		{"databases", "postgresql.cnpg.io/v1/Cluster postgres", "spec.instances", 2},
		{"databases", "postgresql.cnpg.io/v1/Database audit", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy postgres-from-services", "spec.ingress.0.from.0.podSelector", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy postgres-from-operator", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-postgres", "spec.egress.0.ports", nil},
		{"settings", "apps/v1/Deployment auditor", container + ".env.AUDIT_SIGNING_KEY_FILE", nil},
		{"autoscale", "autoscaling/v2/HorizontalPodAutoscaler taskapi", "spec.minReplicas", 1},
		{"autoscale", "autoscaling/v2/HorizontalPodAutoscaler taskapi", "spec.scaleTargetRef.name", "task-api"},
		{"autoscale", "apps/v1/Deployment notifier", "spec.replicas", 2},
		{"autoscale", "autoscaling/v2/HorizontalPodAutoscaler auditor", "", nil},
		{"spread", "apps/v1/Deployment taskapi", "spec.template.spec.topologySpreadConstraints.0", nil},
		{"spread", "apps/v1/Deployment taskapi", "spec.template.spec.topologySpreadConstraints.1.matchLabelKeys", nil},
	},
	"components/ingress": {
		{"outside", "networking.k8s.io/v1/Ingress taskapi", "spec.tls", nil},
		{"outside", "networking.k8s.io/v1/Ingress taskapi", "spec.tls.0.hosts.0", "other.example.com"},
		{"outside", "networking.k8s.io/v1/Ingress taskapi", "spec.rules.0.http.paths.0.backend.service.name", "bridge"},
		{"outside", "gateway.networking.k8s.io/v1/Gateway taskwire", "spec.listeners.0.protocol", "HTTP"},
		{"outside", "gateway.networking.k8s.io/v1/Gateway taskwire", "spec.listeners.0.tls", nil},
		{"outside", "gateway.networking.k8s.io/v1/HTTPRoute taskapi", "spec.rules.0.backendRefs.0.port", 9000},
		{"outside", "gateway.networking.k8s.io/v1/HTTPRoute taskapi", "spec.parentRefs.0.sectionName", "http"},
		{"outside", "apps/v1/Deployment taskapi", container + ".env.API_TOKENS_FILE", nil},
	},
	"components/try-it": {
		{"console", "apps/v1/Deployment bridge", container + ".env.ADMIN_TOKEN_FILE", nil},
		{"console", "apps/v1/Deployment bridge", container + ".env.TASKAPI_URL", "http://taskapi:9000/"},
		{"console", "apps/v1/Deployment bridge", container + ".env.TASKAPI_URL", "http://auditor:8003/"},
		{"network", "networking.k8s.io/v1/NetworkPolicy bridge-to-taskapi", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy bridge-to-taskapi", "spec.podSelector", map[string]any{}},
		{"network", "networking.k8s.io/v1/NetworkPolicy bridge-to-taskapi", "spec.egress.0.to", nil},
	},
	"components/traces": {
		{"traces", "apps/v1/Deployment notifier", container + ".env.OTEL_EXPORTER_OTLP_ENDPOINT", nil},
		{"traces", "apps/v1/Deployment notifier", container + ".env.OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector.monitoring:4317"},
		{"traces", "apps/v1/Deployment notifier", container + ".env.OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector.observability:4318"},
		{"traces", "networking.k8s.io/v1/NetworkPolicy to-collector", "", nil},
		{"settings", "apps/v1/Deployment notifier", container + ".env.OTEL_EXPORTER_OTLP_ENDPOINT", "otel-collector:4318"},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-collector", "spec.podSelector", map[string]any{"matchLabels": map[string]any{"app.kubernetes.io/name": "bridge"}}},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-collector", "spec.egress.0.to", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-collector", "spec.egress.0.ports", nil},
	},
	"components/schema-registry": {
		{"registry", "apps/v1/Deployment taskapi", container + ".env.EVENT_ENCODING", nil},
		{"registry", "apps/v1/Deployment bridge", container + ".env.SCHEMA_REGISTRY_URL", "http://schema-registry.schema-registry:8081/apis/ccompat/v7"},
		{"registry", "apps/v1/Deployment taskapi", container + ".env.SCHEMA_REGISTRY_URL", "http://schema-registry.schema-registry:8080/"},
		{"registry", "v1/Service schema-registry", "spec.ports.0.port", 80},
		{"registry", "v1/Service schema-registry", "spec.selector.app~kubernetes~io/name", "registry"},
		{"registry", "apps/v1/Deployment schema-registry", container + ".env.APICURIO_STORAGE_KIND", "sql"},
		{"registry", "apps/v1/Deployment schema-registry", container + ".env.APICURIO_KAFKASQL_BOOTSTRAP_SERVERS", "task-events-kafka-bootstrap.kafka:9093"},
		{"registry", "apps/v1/Deployment schema-registry", "", nil},
		{"registry", "kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.listeners.0.port", 9093},
		{"probes", "apps/v1/Deployment schema-registry", container + ".readinessProbe", nil},
		{"images", "apps/v1/Deployment schema-registry", container + ".image", "quay.io/apicurio/apicurio-registry:3.3.3"},
		{"restricted", "apps/v1/Deployment schema-registry", container + ".securityContext.readOnlyRootFilesystem", nil},
		{"links", "apps/v1/Deployment schema-registry", "spec.template.spec.enableServiceLinks", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy to-schema-registry", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy schema-registry", "spec.ingress.0.from.0.podSelector", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy schema-registry", "spec.egress.0.ports", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy schema-registry", "spec.policyTypes.1", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-schema-registry", "", nil},
	},
	"overlays/serverless": {
		{"restricted", "serving.knative.dev/v1/Service auditor", container + ".securityContext.runAsNonRoot", nil},
		{"restricted", "serving.knative.dev/v1/Service auditor", container + ".securityContext.seccompProfile", nil},
		{"probes", "serving.knative.dev/v1/Service auditor", container + ".readinessProbe.httpGet.port", 9003},
		{"ports", "serving.knative.dev/v1/Service auditor", container + ".ports.0.containerPort", 8080},
		{"shutdown", "serving.knative.dev/v1/Service auditor", "spec.template.spec.timeoutSeconds", 20},
		{"writers", "serving.knative.dev/v1/Service auditor", "spec.template.metadata.annotations.autoscaling~knative~dev/max-scale", nil},
		{"sinks", "serving.knative.dev/v1/Service auditor", "", nil},
		{"console", "apps/v1/Deployment bridge", container + ".env.AUDITOR_URL", "http://auditor:8003/"},
		{"secrets", "serving.knative.dev/v1/Service auditor", container + ".env.WEBHOOK_SECRET_FILE", nil},
		{"secrets", "serving.knative.dev/v1/Service notifier", "spec.template.spec.securityContext", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy kafka-from-keda", "spec.ingress.0.from.0.podSelector", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy sinks-from-knative", "", nil},
		{"network", "networking.k8s.io/v1/NetworkPolicy sinks-from-knative", "spec.ingress.0.from.0.podSelector", nil},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.triggers.1", nil},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.triggers.0.metadata.tls", nil},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.triggers.1.metadata.excludePersistentLag", nil},
		{"probes", "serving.knative.dev/v1/Service auditor", "spec.template.metadata.annotations.serving~knative~dev/progress-deadline", nil},
		{"probes", "serving.knative.dev/v1/Service auditor", "spec.template.metadata.annotations.serving~knative~dev/progress-deadline", "600s"},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.triggers.0.metadata.bootstrapServers", "task-events-kafka-bootstrap.kafka:9092"},
		{"scaling", "keda.sh/v1alpha1/ScaledObject bridge", "spec.minReplicaCount", 0},
		{"scaling", "keda.sh/v1alpha1/TriggerAuthentication bridge", "", nil},
		{"scaling", "apps/v1/Deployment bridge", "spec.replicas", 1},
	},
}

// TestEachRuleFindsItsViolations plants each violation alone; its rule must find it.
func TestEachRuleFindsItsViolations(t *testing.T) {
	seen := map[string]bool{}
	for overlay, list := range violations {
		folder := overlay
		if c, ok := inNoOverlay[overlay]; ok {
			folder = compose(t, combinations()[c])
		}
		objects := render(t, folder)
		for _, v := range list {
			seen[v.rule] = true
			t.Run(strings.Join([]string{v.rule, v.of, v.path}, " "), func(t *testing.T) {
				w := inspect(t, plant(t, copied(t, objects), v))
				if f := rules[v.rule](w); len(f) == 0 {
					t.Errorf("%s: %s of %s = %v: rule %s found nothing, want a finding", overlay, v.path, v.of, v.value, v.rule)
				}
			})
		}
	}
	for name := range maps.Keys(rules) {
		if !seen[name] {
			t.Errorf("no violation for rule %s, want at least one", name)
		}
	}
}

func plant(t *testing.T, objects []object, v violation) []object {
	t.Helper()
	// A generated name ends in a hash.
	if kind, ok := strings.CutSuffix(v.of, "*"); ok {
		i := slices.IndexFunc(objects, func(o object) bool { return strings.HasPrefix(o.key()+" "+o.name(), kind) })
		v.of = objects[i].key() + " " + objects[i].name()
	}
	o := find(t, objects, v.of)
	if v.path == "" {
		return slices.DeleteFunc(objects, func(other object) bool { return other.String() == o.String() && other.key() == o.key() })
	}
	set(t, o, v.path, v.value)
	return objects
}
