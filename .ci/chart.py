"""What .ci/chart asks of the chart, once its tools are there. Prints what is wrong, and exits 1."""
import argparse
import concurrent.futures
import copy
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib

import importlib_resources
import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils
from referencing import Registry, Resource

CHART = pathlib.Path("helm/llavero")
# Custom resources, which Kubernetes' own schemas don't have.
CUSTOM = ("gateway.networking.k8s.io/", "monitoring.coreos.com/", "external-secrets.io/")


class Wrong(Exception):
    """Something about the chart, in words."""


def run(*command, **more):
    return subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False, **more)


class Strict(yaml.SafeLoader):
    """Takes no key twice, which YAML's readers otherwise pass over."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise Wrong(f"rendered twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep)


class Helm:
    def __init__(self, binary):
        self.binary = binary
        self.version = run(binary, "version", "--short").stdout.strip().split("+")[0]

    def lint(self, values):
        done = run(self.binary, "lint", "--strict", CHART, "-f", values)
        if done.returncode:
            raise Wrong(f"lint: {done.stdout}{done.stderr}")

    def template(self, values, *more, release="llavero"):
        done = run(self.binary, "template", release, CHART, "--namespace", "llavero", "-f", values, *more)
        if done.returncode:
            raise Wrong(f"template: {done.stderr}")
        objects = [it for it in yaml.load_all(done.stdout, Strict) if it]
        if not objects:
            raise Wrong("template: nothing was rendered")
        return objects

    def notes(self, values, work, *more):
        """What it prints after an installation, which itself would ask a cluster."""
        chart = work / f"notes-{self.version}"
        shutil.copytree(CHART, chart, dirs_exist_ok=True)
        shutil.copy(CHART / "templates/NOTES.txt", chart / "notes.txt")
        (chart / "templates/notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes.txt") . | quote }}\n')
        done = run(self.binary, "template", "llavero", chart, "--namespace", "llavero", "-f", values, *more, "--show-only", "templates/notes.yaml")
        if done.returncode:
            raise Wrong(f"notes: {done.stderr}")
        return yaml.safe_load(done.stdout)["notes"]

    def refusal(self, values, *more):
        """What it says where it refuses, or none where it doesn't."""
        done = run(self.binary, "template", "llavero", CHART, "-f", values, *more)
        return done.stderr if done.returncode else None


# Values, their documentation, the program and the versions say the same.


def consistent():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    if wrong := (schema["properties"].keys() - {"global"}) ^ values.keys():
        raise Wrong(f"values.yaml and values.schema.json differ in: {', '.join(sorted(wrong))}")
    for path, open_ in open_objects(schema):
        if open_ not in OPEN:
            raise Wrong(f"values.schema.json: {path} takes any key: set additionalProperties")
    program = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["package"]["version"]
    if (app := yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]) != program:
        raise Wrong(f"Chart.yaml's appVersion is {app}, the program's version {program}")
    described = set(settings_of(schema["properties"]["config"], schema))
    used = set(keys_of(yaml.safe_load((CHART / "ci/settings-values.yaml").read_text())["config"]))
    for setting in sorted(reference()):
        if setting not in described:
            raise Wrong(f"values.schema.json: config has no {setting}, but the program has")
        if setting not in used | ELSEWHERE:
            raise Wrong(f"ci/settings-values.yaml: {setting} is missing")
    if unknown := described - reference() - WHOLE:
        raise Wrong(f"values.schema.json: the program has no {', '.join(sorted(unknown))}")


# What an action that stands where YAML has a value may end in. What it includes has names for ports, or numbers.
SAFE = re.compile(
    r"\| (quote|int|int64|toJson)$|nindent \d+( \| trim)?$|^\$(name|part|resource|index)$"
    r'|^include "llavero\.(scheme|servicePort|otelPort|terminationGracePeriodSeconds)" [$.]$'
    r'|^include "llavero\.(selectorLabels|ownEnv|checks)" \.$|^int64 \.$|^tpl \. \$$|^toYaml \.$|\| toYaml$'
)


def is_quoted():
    """A text of the values stands in quotes wherever it is rendered: it can be no other YAML than a text."""
    templates = [it for it in sorted((CHART / "templates").rglob("*")) if it.suffix == ".yaml" or it.name in ("_pod.tpl", "_helpers.tpl")]
    for file in templates:
        # Definitions of names, which are quoted where they are included.
        text = re.sub(r'\{\{- define "llavero\.(name|fullname|serviceAccountName|image|scheme|servicePort|otelPort|seconds|bytes|memory|terminationGracePeriodSeconds)" -\}\}.*?\n\{\{- end \}\}\n(?=\n|$)', "", file.read_text(), flags=re.S)
        for action in re.findall(r"\{\{-? (.*?) -?\}\}", text, re.S):
            if not re.match(r"(if|else|end|with|range|define|fail|/\*)\b|/\*|\$\w* :?= ", action) and not SAFE.search(action):
                raise Wrong(f"{file.relative_to(CHART)}: {action} isn't quoted")


# Kubernetes' own objects, whose schemas hold what is rendered, or maps of what the operator names.
OPEN = {
    "global", "peer.podSelector", "peer.namespaceSelector", "peer.ipBlock", "metrics", "behavior.scaleUp", "behavior.scaleDown",
    "parentRefs", "matches", "filters", "egress.ports", "relabelings", "metricRelabelings", "rules", "claims", "preStop.exec",
    "preStop.httpGet", "options", "tolerations", "nodeAffinity", "podAffinity", "podAntiAffinity", "topologySpreadConstraints",
    "valueFrom.secretKeyRef", "valueFrom.configMapKeyRef", "valueFrom.fieldRef", "valueFrom.resourceFieldRef", "extraVolumes", "extraVolumeMounts", "extraObjects", "proxy.allow", "users.match",
}
# Settings of which ci/settings-values.yaml can have only one, or that the pod decides: other ci values have them.
ELSEWHERE = {
    "auth.issuers.jwks_file", "auth.issuers.public_key_file", "auth.issuers.secret", "auth.issuers.secret.file", "server.listen", "server.admin_listen",
    "server.tls", "server.tls.cert_file", "server.tls.key_file", "server.connections", "server.connections.max",
    "server.connections.per_address", "tenants_dir",
}
# The reference shows one form of a setting that has several.
WHOLE = {"audit.output.file", "auth.issuers.secret.env"}


def open_objects(schema, path=""):
    """(path, last names) of each described object that takes any key."""
    if isinstance(schema, list):
        for item in schema:
            yield from open_objects(item, path)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            names = path.split(".")
            yield path, next((known for known in (".".join(names[-2:]), names[-1]) if known in OPEN), path)
        for key, value in schema.items():
            if key in ("properties", "definitions"):
                for name, part in value.items():
                    yield from open_objects(part, f"{path}.{name}".lstrip("."))
            elif key in ("items", "additionalProperties", "anyOf"):
                yield from open_objects(value, path)


def settings_of(schema, root, prefix=""):
    """The dotted settings that a schema describes; a list's items count as the list."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    for name, part in schema.get("properties", {}).items():
        yield prefix + name
        yield from settings_of(part, root, f"{prefix}{name}.")
    yield from settings_of(schema.get("items"), root, prefix)


def keys_of(value, prefix=""):
    for item in value if isinstance(value, list) else []:
        yield from keys_of(item, prefix)
    for name, part in value.items() if isinstance(value, dict) else []:
        yield prefix + name
        yield from keys_of(part, f"{prefix}{name}.")


def reference():
    """Every setting of src/config/reference.yaml, those that are off (`#` in the first column) too."""
    text = pathlib.Path("src/config/reference.yaml").read_text()
    shown = "\n".join(line[1:] if re.match(r"# {2,}\S", line) else line for line in text.splitlines())
    # A part that a schema treats as one value is one setting.
    return set(keys_of(yaml.safe_load(shown)))


# Kubernetes' schemas.


def kubernetes_versions():
    versions = sorted({tuple(map(int, it.split(".")[:2])) for it in kubernetes_validate.utils.all_versions()})
    return [".".join(map(str, it)) for it in versions[-3:]]


@functools.cache
def validator(version, kind, api_version):
    """As kubernetes_validate makes one for each object, which takes most of its time."""
    schemas = importlib_resources.files("kubernetes_validate") / "kubernetes-json-schema"
    full = next(it for it in utils.all_versions() if utils.major_minor(it) == version)
    directory = schemas / f"v{full}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    file = directory / f"{kind.lower()}-{group}.json"
    if not file.is_file():
        raise Wrong(f"Kubernetes {version} has no {kind} of {api_version}")
    schema = json.loads(file.read_text())
    definitions = Resource.from_contents(json.loads((directory / "_definitions.json").read_text()))
    registry = definitions @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.validators.Draft202012Validator(schema, registry=registry)


def schemas_hold(objects):
    for it in objects:
        if it["apiVersion"].startswith(CUSTOM):
            continue
        for version in kubernetes_versions():
            for error in validator(version, it["kind"], it["apiVersion"]).iter_errors(it):
                where = "/".join(map(str, error.absolute_path))
                raise Wrong(f"Kubernetes {version}: {it['kind']} {it['metadata']['name']}: {where}: {error.message}")


# The restricted Pod Security Standard, and what the chart promises besides.
# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def broken_rules(pod, is_server):
    """The rules that a pod breaks, by name."""
    security = pod.get("securityContext", {})
    rules = {
        "hostNetwork, hostPID, hostIPC": not any(pod.get(it) for it in ("hostNetwork", "hostPID", "hostIPC")),
        "volumes": all(set(it) - {"name"} <= VOLUMES for it in pod["volumes"]),
        "sysctls": not security.get("sysctls"),
        "no token": pod.get("automountServiceAccountToken") is False
        and not any("serviceAccountToken" in s for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [])),
        "service links": pod.get("enableServiceLinks") is False,
        "pod's seccomp": security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "pod's runAsNonRoot": security.get("runAsNonRoot") is True,
        "pod's runAsUser": security.get("runAsUser") != 0,
        "init containers": not pod.get("initContainers") and not pod.get("ephemeralContainers"),
    }
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        rules |= {
            "privileged": own.get("privileged") is not True,
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccomp": own.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "procMount": own.get("procMount", "Default") == "Default",
            "seLinux, windows": not {"seLinuxOptions", "windowsOptions", "appArmorProfile"} & own.keys() | security.keys() & {"seLinuxOptions", "windowsOptions"},
            "host ports": not any("hostPort" in it for it in container.get("ports", [])),
            "memory is bounded": "memory" in container["resources"].get("limits", {}),
            "memory and cpu are asked for": {"cpu", "memory"} <= container["resources"].get("requests", {}).keys(),
            "mounts are read-only": all(it.get("readOnly") for it in container["volumeMounts"] if it["mountPath"].startswith(("/etc", "/run"))),
        }
        if is_server:
            rules["probes"] = all(container[it]["httpGet"]["port"] == "admin" for it in ("startupProbe", "livenessProbe", "readinessProbe"))
    return [name for name, holds in rules.items() if not holds]


def pods(objects):
    for it in objects:
        if it["kind"] == "Deployment":
            yield it["spec"]["template"]["spec"], True
        elif it["kind"] == "Pod":
            yield it["spec"], False


def is_restricted(objects):
    for pod, is_server in pods(objects):
        if broken := broken_rules(pod, is_server):
            raise Wrong(f"{'Deployment' if is_server else 'test pod'}: breaks {', '.join(broken)}")


def rules_can_fail(objects):
    """Breaks each rule by hand."""
    deployment = next(pod for pod, is_server in pods(objects) if is_server)
    breaks = {
        "hostNetwork, hostPID, hostIPC": lambda pod, c: pod.update(hostPID=True),
        "volumes": lambda pod, c: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "sysctls": lambda pod, c: pod["securityContext"].update(sysctls=[{"name": "x", "value": "1"}]),
        "no token": lambda pod, c: pod.update(automountServiceAccountToken=True),
        "service links": lambda pod, c: pod.pop("enableServiceLinks"),
        "pod's seccomp": lambda pod, c: pod["securityContext"].pop("seccompProfile"),
        "pod's runAsNonRoot": lambda pod, c: pod["securityContext"].pop("runAsNonRoot"),
        "pod's runAsUser": lambda pod, c: pod["securityContext"].update(runAsUser=0),
        "init containers": lambda pod, c: pod.update(initContainers=[c]),
        "privileged": lambda pod, c: c["securityContext"].update(privileged=True),
        "allowPrivilegeEscalation": lambda pod, c: c["securityContext"].pop("allowPrivilegeEscalation"),
        "capabilities": lambda pod, c: c["securityContext"]["capabilities"].update(add=["NET_BIND_SERVICE"]),
        "runAsNonRoot": lambda pod, c: c["securityContext"].update(runAsNonRoot=False),
        "runAsUser": lambda pod, c: c["securityContext"].update(runAsUser=0),
        "seccomp": lambda pod, c: c["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        "readOnlyRootFilesystem": lambda pod, c: c["securityContext"].pop("readOnlyRootFilesystem"),
        "procMount": lambda pod, c: c["securityContext"].update(procMount="Unmasked"),
        "seLinux, windows": lambda pod, c: c["securityContext"].update(seLinuxOptions={"type": "spc_t"}),
        "host ports": lambda pod, c: c["ports"][0].update(hostPort=8080),
        "memory is bounded": lambda pod, c: c["resources"].pop("limits"),
        "memory and cpu are asked for": lambda pod, c: c["resources"]["requests"].pop("cpu"),
        "mounts are read-only": lambda pod, c: c["volumeMounts"][0].pop("readOnly"),
        "probes": lambda pod, c: c["livenessProbe"]["httpGet"].update(port="http"),
    }
    for name, break_it in breaks.items():
        pod = copy.deepcopy(deployment)
        break_it(pod, pod["containers"][0])
        if broken_rules(pod, True) != [name]:
            raise Wrong(f"the rule {name} is broken, and found is: {broken_rules(pod, True)}")


# What belongs together in what is rendered.


def belongs_together(objects):
    """Selectors, ports and references lead where they should."""
    by = {(it["kind"], it["metadata"]["name"]): it for it in objects}
    if len(by) != len(objects):
        raise Wrong("two objects have one name")
    if any(it["kind"] in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding") for it in objects):
        raise Wrong("rights in Kubernetes are given, and none are needed")
    deployment = next(it for it in objects if it["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    if any(name.startswith("helm.sh/") or name.endswith("/version") for name in labels):
        raise Wrong("pods have a label that changes with the chart: they would be replaced for nothing")
    ports = {it["name"]: it["containerPort"] for it in template["spec"]["containers"][0]["ports"]}
    test = next((it for it in objects if it["kind"] == "Pod"), None)
    for it in objects:
        name, spec = f"{it['kind']} {it['metadata']['name']}", it.get("spec", {})
        if it["kind"] == "Service":
            if not spec["selector"].items() <= labels.items():
                raise Wrong(f"{name} doesn't select the pods")
            if test and spec["selector"].items() <= test["metadata"]["labels"].items():
                raise Wrong(f"{name} would send requests to the pod of helm test")
            if unknown := {port["targetPort"] for port in spec["ports"]} - ports.keys():
                raise Wrong(f"{name}: the pods have no port {unknown}")
        elif it["kind"] in ("PodDisruptionBudget", "Deployment"):
            if not spec["selector"]["matchLabels"].items() <= labels.items():
                raise Wrong(f"{name} doesn't select the pods")
        elif it["kind"] == "NetworkPolicy":
            if unknown := {port["port"] for rule in spec["ingress"] for port in rule["ports"]} - ports.keys():
                raise Wrong(f"{name}: the pods have no port {unknown}")
            for which in filter(None, (labels, test and test["metadata"]["labels"])):
                selects = spec["podSelector"]["matchLabels"].items() <= which.items() and all(
                    which[one["key"]] in one["values"] for one in spec["podSelector"]["matchExpressions"])
                if not selects:
                    raise Wrong(f"{name} doesn't select the pods of {which}")
        elif it["kind"] == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            found = [o for o in objects if o["kind"] == "Service" and wanted <= o["metadata"]["labels"].items()]
            if [o["spec"]["ports"][0]["name"] for o in found] != [spec["endpoints"][0]["port"]]:
                raise Wrong(f"{name} finds not the one admin Service, but {len(found)}")
            if spec["endpoints"][0]["relabelings"][0] != {"action": "replace", "targetLabel": "job", "replacement": deployment["metadata"]["name"]}:
                raise Wrong(f"{name}: the job isn't the Deployment's name")
        elif it["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) not in by or "replicas" in deployment["spec"]:
                raise Wrong(f"{name}: its Deployment isn't there, or has a number of its own")
        elif it["kind"] in ("Ingress", "HTTPRoute"):
            for backend in backends(it):
                service = by.get(("Service", backend["name"]))
                offered = [] if service is None else [p[k] for p in service["spec"]["ports"] for k in ("name", "port")]
                port = backend["port"]["name"] if isinstance(backend["port"], dict) else backend["port"]
                if port not in offered:
                    raise Wrong(f"{name} leads to no port of a Service: {backend}")
        elif it["kind"] == "PrometheusRule":
            if any("{{" not in text and "$labels" in text for text in strings(spec)):
                raise Wrong(f"{name}: an alert's template has lost its braces")


def backends(it):
    if it["kind"] == "HTTPRoute":
        return [backend for rule in it["spec"]["rules"] for backend in rule["backendRefs"]]
    return [path["backend"]["service"] for rule in it["spec"]["rules"] for path in rule["http"]["paths"]]


def strings(value):
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from strings(part)


# The program reads what a pod would see.


def accepted(llavero, objects, root):
    """Lays out under `root` what the pod has mounted, with Secrets that are made up, and lets the program check it."""
    maps = {it["metadata"]["name"]: it["data"] for it in objects if it["kind"] == "ConfigMap"}
    pod = next(pod for pod, is_server in pods(objects) if is_server)
    container = pod["containers"][0]
    mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}

    def put(path, text):
        path = root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def files_of(source):
        if "configMap" in source:
            return maps[source["configMap"]["name"]]
        secret = source["secret"]
        name, items = secret.get("name") or secret.get("secretName"), secret.get("items")
        if items is None:
            # As the chart's README says that one is applied.
            tenant = name.rsplit("-", 1)[-1] if secret.get("optional") else "t"
            return {f"t{tenant}.yaml": f"clave: t{tenant}\ncredentials: {{default: {{api_key: {{file: t{tenant}.api-key}}}}}}\n",
                    f"t{tenant}.api-key": "made-up"}
        # Of all settings that a tenant's Secret may have, it has the fewest.
        keys = [it for it in items if it["key"] in ("clave", "api-key")] if len(items) > 4 else items
        return {it["path"]: it["path"].split("/")[0].replace("_", "") if it["key"] == "clave" else "made-up" for it in keys}

    written = ""
    for volume in pod["volumes"]:
        sources = volume["projected"]["sources"] if "projected" in volume else [volume] if "configMap" in volume else []
        for source in sources:
            for name, text in files_of(source).items():
                written += text
                put(f"{mounts[volume['name']]}/{name}", re.sub(r"(/etc/llavero|/run/secrets)/", rf"{root}\1/", text))
        if volume.get("secret", {}).get("secretName") and mounts[volume["name"]] == "/etc/llavero/tls":
            for name, text in certificate(root).items():
                put(f"{mounts[volume['name']]}/{name}", text)
    for path in re.findall(r"/(?:run/secrets|etc/llavero/tls)/[^\s\"'{},]+", written):
        if not any(path.startswith(f"{mount}/") for mount in mounts.values()):
            raise Wrong(f"nothing is mounted where {path} should be")
        if not (root / path.lstrip("/")).exists():
            put(path, f"made-up-and-longer-than-32-bytes-in-all-{pathlib.Path(path).name}")
    config = yaml.safe_load((root / "etc/llavero/config/llavero.yaml").read_text())
    environment = {it["name"]: it.get("value", "made=up") for it in container.get("env", [])}
    done = run(llavero, "check", "--config", root / "etc/llavero/config/llavero.yaml", env=environment)
    if done.returncode:
        raise Wrong(f"llavero check: {done.stdout}{done.stderr}")


@functools.cache
def certificate(root):
    made = run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=llavero.example.com", "-addext", "subjectAltName=DNS:llavero.example.com", "-keyout", "-")
    if made.returncode:
        raise Wrong(f"openssl: {made.stderr}")
    key, certificate_ = re.findall(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----\n", made.stdout, re.S)
    return {"tls.crt": certificate_, "tls.key": key}


def issuer(times=1, **more):
    one = {"issuer": "https://id.example.com/", "audience": ["llavero"], "algorithms": ["RS256"]} | more
    return f"config.auth.issuers={json.dumps([one] * times)}"


def credential(**given):
    return f"tenants.carper.credentials.default={json.dumps(given)}"


def key(**given):
    return f"jwks={json.dumps({'k.json': json.dumps({'keys': [given]})})}"


def jwks(text):
    return f"jwks={json.dumps({'k.json': text})}"


def private_pem(label, *form):
    """A new private key, in PEM under another header, and as it is without one."""
    made = run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", *form).stdout
    body = "".join(made.splitlines()[1:-1])
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n" if label else body


def variable(name, **given):
    return f"extraEnv={json.dumps([{'name': name} | given])}"


def volume(**given):
    return f"extraVolumes={json.dumps([{'name': 'a'} | given])}"


# Values that must be refused, each with what the refusal must say.

REFUSED = [
    ("replicas", "--set", "replicas=2"),
    ("replicaCount", "--set-string", "replicaCount=2"),
    ("digest", "--set", "image.digest=sha256:0123"),
    ("port", "--set", "service.port=70000"),
    ("config.server.listen is the chart's", "--set", "config.server.listen=0.0.0.0:80"),
    ("config.server.admin_listen is the chart's", "--set", "config.server.admin_listen=0.0.0.0:90"),
    ("config.tenants_dir is the chart's", "--set", "config.tenants_dir=/tmp"),
    ("lisen", "--set", "config.server.lisen=0.0.0.0:80"),
    ("max_bites", "--set", "config.cache.max_bites=1MiB"),
    ("max_bytes", "--set", "config.cache.max_bytes=1 MB"),
    ("metadata", "--set", "config.images.metadata=remove"),
    ("algorithms", "--set", "config.auth.issuers[0].algorithms[0]=none"),
    ("drain_delay", "--set-string", "config.server.drain_delay=3 seconds"),
    ("config.auth.issuers", "--set-json", "config.auth.issuers=[]"),
    ("existingTenantsSecret", "--set", "tenants=null,tenantSlots=0"),
    ("tenantSecrets", "--set", "tenantSecrets.carper.name=carper"),
    ("tenantSecrets", "--set-string", "tenantSecrets.norte=norte"),
    ("tenantSlots", "--set", "tenantSlots=-1"),
    ("tenantSlots", "--set", "tenantSlots=1000"),
    ("trusted_proxies[0] is everybody", "--set", "config.server.trusted_proxies={0.0.0.0/0}"),
    ("trusted_proxies[1] is everybody", "--set", "config.server.trusted_proxies={10.0.0.0/8,::/0}"),
    ("trusted_proxies[0] is no network", "--set", "config.server.trusted_proxies={10.0.0.1/99}"),
    ("trusted_proxies[0] is no network", "--set", "config.server.trusted_proxies={10.0.0.1}"),
    ("trusted_proxies[0] is no network", "--set", "config.server.trusted_proxies={10.0.256.0/24}"),
    ("trusted_proxies[0] is no network", "--set", "config.server.trusted_proxies={fd00::/129}"),
    ("timeout", "--set", "config.upstream.timeout=0s"),
    ("max_concurrency", "--set", "config.upstream.max_concurrency=1001"),
    ("descripcion_field", "--set", "config.upstream.descripcion_field="),
    ("max_dimension", "--set", "config.images.max_dimension=200"),
    ("per", "--set", "config.limits.user.per=0s"),
    ("allowed_origins", "--set", "config.server.cors.allowed_origins={https://app.example.com/}"),
    ("allowed_origins", "--set", "config.server.cors.allowed_origins={*}"),
    ("audience", "--set-json", issuer(audience="", discovery=True)),
    ("claims", "--set-json", issuer(claims={"tenant": ""}, discovery=True)),
    ("config.images.formats has heic", "--set", "config.images.formats={heic},config.images.metadata=strip-all"),
    ("config.images.formats has heic", "--set", "config.images.formats={heic},config.images.max_dimension=256,resources.limits.memory=2Gi"),
    ("in_flight_bytes is below max_bytes", "--set", "config.images.in_flight_bytes=8MiB"),
    ("proxy.allow isn't available", "--set-json", 'config.proxy.allow=[{"methods": ["GET"], "path": "productos/**"}]'),
    ("issuers[0] has keys from discovery and jwks_file", "--set", "config.auth.issuers[0].discovery=true"),
    ("issuers[0] has no keys", "--set-json", issuer()),
    ("HS256, which needs secret", "--set", "config.auth.issuers[0].algorithms={RS256,HS256}"),
    ("RS256, but with secret", "--set-json", issuer(algorithms=["HS256", "RS256"], secret={"file": "/run/secrets/llavero/carper/k"})),
    ("discovery needs an issuer that is an https address", "--set-json", issuer(issuer="http://x", discovery=True)),
    ("discovery needs an issuer that is an https address", "--set-json", issuer(issuer="https://x/?a", discovery=True)),
    ("jwks_url must be https", "--set-json", issuer(jwks_url="http://x/keys")),
    ("names the variable X", "--set-json", issuer(algorithms=["HS256"], secret={"env": "X"})),
    ("is that of another entry", "--set-json", issuer(times=2, discovery=True)),
    ("default_scopes", "--set", "config.auth.issuers[0].default_scopes={ordenes}"),
    ("names the variable X", "--set-json", credential(api_key={"env": "X"})),
    ("names the variable X", "--set-json", credential(api_key=[{"file": "/run/secrets/llavero/carper/k"}, {"env": "X"}])),
    ("names the variable X", "--set-json", credential(login={"username": "u", "password": {"env": "X"}})),
    ("credential is other", "--set-json", 'tenants.carper.users=[{"match": {"env": "X"}, "credential": "other"}]'),
    ("output", "--set", "config.audit.output=stderr"),
    ("limits", "--set", "config.limits.user.requests=0"),
    ("existingTenantsSecret", "--set", "existingTenantsSecret=tenants"),
    ("existingSecrets", "--set-json", "existingSecrets=[]"),
    ("jwks", "--set", "config.auth.issuers[0].jwks_file=/etc/llavero/keys/other.json"),
    ("jwks: private.pem holds a private key", "--set-string", "jwks.private\\.pem=-----BEGIN PRIVATE KEY-----hunter2"),
    ("jwks: k.json holds a private key or a shared secret", "--set-json", 'jwks={"k.json": "{\\"keys\\": [{\\"kty\\": \\"oct\\", \\"k\\": \\"hunter2\\"}]}"}'),
    ("api_key", "--set", "tenants.carper.credentials.default.api_key=hunter2"),
    ("secret", "--set", "config.auth.issuers[0].secret=hunter2"),
    ("clave", "--set", "tenants.carper.clave=123"),
    ("terminationGracePeriodSeconds", "--set", "terminationGracePeriodSeconds=60"),
    # 10 + 30 + 10 + 120 + 5 is enough without the sleep.
    ("terminationGracePeriodSeconds", "--set", "terminationGracePeriodSeconds=200,preStop.sleep.seconds=1"),
    ("resources.limits.memory", "--set", "resources.limits.memory=1023Mi"),
    ("resources.limits.memory", "--set", "config.images.in_flight_bytes=1GiB"),
    ("resources.limits.memory", "--set", "config.images.max_dimension=2048"),
    ("memory", "--set", "resources.limits.memory=1 GB"),
    ("tls", "--set", "tls.existingSecret=a,config.server.tls.cert_file=/b,config.server.tls.key_file=/c"),
    ("key_file", "--set", "config.server.tls.cert_file=/b"),
    ("per_address", "--set", "config.server.connections.per_address=0"),
    ("autoscaling", "--set", "autoscaling.enabled=true,autoscaling.minReplicas=9"),
    ("autoscaling", "--set", "autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=null"),
    ("requests.cpu", "--set", "autoscaling.enabled=true,resources.requests.cpu=null"),
    ("podDisruptionBudget", "--set", "podDisruptionBudget.maxUnavailable=null"),
    ("maxUnavailable", "--set", "podDisruptionBudget.maxUnavailable=half"),
    ("ingress.hosts", "--set", "ingress.enabled=true"),
    ("pathType", "--set", "ingress.hosts[0].host=a,ingress.hosts[0].paths[0].path=/,ingress.hosts[0].paths[0].pathType=Regex"),
    ("httpRoute.parentRefs", "--set", "httpRoute.enabled=true"),
    ("adminFrom", "--set", "serviceMonitor.enabled=true,networkPolicy.enabled=true"),
    ("otel", "--set", "networkPolicy.otelTo[0].podSelector.matchLabels.a=b"),
    ("otel.endpoint", "--set-json", "otel.sampleRatio=0.5"),
    ("endpoint", "--set", "otel.endpoint=http://user:hunter2@collector:4318"),
    ("resourceAttributes", "--set", "otel.endpoint=http://c:4318,otel.resourceAttributes.team=a\\,b"),
    ("headersSecret", "--set", "otel.headersSecret.name=collector"),
    ("sampleRatio", "--set-json", "otel.sampleRatio=2"),
    ("sampleRatio", "--set", "otel.sampleRatio=1.5"),
    ("interval", "--set", "serviceMonitor.interval=15"),
    ("LlaveroDwon", "--set", "prometheusRule.enabled=true,prometheusRule.disabled[0]=LlaveroDwon"),
    ("LlaveroDwon", "--set", "prometheusRule.enabled=true,prometheusRule.overrides.LlaveroDwon.for=5m"),
    ("overrides", "--set", "prometheusRule.overrides.LlaveroDown.after=5m"),
    ("runAsUser", "--set", "podSecurityContext.runAsUser=0"),
    ("runAsNonRoot", "--set", "podSecurityContext.runAsNonRoot=false"),
    ("a is a hostPath", "--set", "extraVolumes[0].name=a,extraVolumes[0].hostPath.path=/"),
    ("write it in config, as config.upstream.upload_timeout", "--set-string", "extraEnv[0].name=LLAVERO__UPSTREAM__UPLOAD_TIMEOUT,extraEnv[0].value=10m"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "--set", "otel.endpoint=http://c:4318,extraEnv[0].name=OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("RUST_LOG", "--set", "extraEnv[0].name=RUST_LOG,extraEnv[1].name=RUST_LOG"),
    ("extraEnv", "--set", "extraEnv.RUST_LOG=debug"),
    ("preStop", "--set", "preStop.sleep.seconds=5,preStop.exec.command[0]=true"),
    ("type", "--set", "service.type=ExternalName"),
    ("service.nodePort is set, but service.type is ClusterIP", "--set", "service.nodePort=30080"),
    ("service.externalTrafficPolicy is set, but service.type is ClusterIP", "--set", "service.externalTrafficPolicy=Local"),
    ("service.loadBalancerSourceRanges is set, but service.type is NodePort", "--set", "service.type=NodePort,service.loadBalancerSourceRanges={192.0.2.0/24}"),
    ("service.loadBalancerClass is set, but service.type is ClusterIP", "--set", "service.loadBalancerClass=a"),
    # Names that are other YAML, or no names.
    *((path.rsplit(".", 1)[-1], "--set-json", f"{path}={json.dumps(text)}")
      for path in ("priorityClassName", "ingress.className", "serviceAccount.name", "tls.existingSecret", "existingTenantsSecret",
                   "tenantSecrets.norte.name", "service.loadBalancerClass")
      for text in ("x\n      hostNetwork: true\n      hostPID: true", "x: y", "A b")),
    ("host", "--set-json", 'ingress.hosts=[{"host": "a\\nb"}]'),
    ("hostnames", "--set", "httpRoute.hostnames={A_b}"),
    ("the release's objects would be called", "--set", "fullnameOverride=Foo_Bar baz"),
    ("the release's objects would be called", "--set-json", 'fullnameOverride="a\\nb: c"'),
    ("the release's objects would be called", "--set", "fullnameOverride=1st"),
    ("nameOverride is", "--set", "nameOverride=Foo Bar,fullnameOverride=a"),
    ("the release's objects would be called", "--set", "nameOverride=a.b"),
    ("commonLabels has app.kubernetes.io/name", "--set", "commonLabels.app\\.kubernetes\\.io/name=evil"),
    ("commonLabels has app.kubernetes.io/component", "--set", "commonLabels.app\\.kubernetes\\.io/component=evil"),
    ("podLabels has app.kubernetes.io/instance", "--set", "podLabels.app\\.kubernetes\\.io/instance=evil"),
    ("podLabels has pod-template-hash", "--set", "podLabels.pod-template-hash=evil"),
    ("serviceMonitor.labels has helm.sh/chart", "--set", "serviceMonitor.labels.helm\\.sh/chart=evil"),
    ("dashboard.labels has app.kubernetes.io/managed-by", "--set", "dashboard.labels.app\\.kubernetes\\.io/managed-by=evil"),
    ("prometheusRule.labels has app.kubernetes.io/version", "--set", "prometheusRule.labels.app\\.kubernetes\\.io/version=evil"),
    ("podAnnotations has checksum/config", "--set", "podAnnotations.checksum/config=evil"),
    ("a b", "--set-json", 'podLabels={"a b": "c"}'),
    ("podLabels", "--set", "podLabels.a=b c"),
    # Secrets where many can read them.
    ("CARPER_KEY_1 is a secret", "--set-json", variable("CARPER_KEY_1", value="hunter2"), "--set-json", credential(api_key={"env": "CARPER_KEY_1"})),
    ("CARPER_KEY_1 is a secret", "--set-json", variable("CARPER_KEY_1", value="hunter2"), "--set-json", credential(api_key=[{"file": "/run/secrets/llavero/carper/k"}, {"env": "CARPER_KEY_1"}])),
    ("CARPER_1 is a secret", "--set-json", variable("CARPER_1", value="hunter2"), "--set-json", credential(login={"username": "u", "password": {"env": "CARPER_1"}})),
    ("CARPER_1 is a secret", "--set-json", variable("CARPER_1", valueFrom={"configMapKeyRef": {"name": "a", "key": "b"}}), "--set-json", credential(api_key={"env": "CARPER_1"})),
    ("HS is a secret", "--set-json", variable("HS", value="hunter2"), "--set-json", issuer(algorithms=["HS256"], secret={"env": "HS"})),
    ("NORTE_API_KEY is a secret", "--set-json", variable("NORTE_API_KEY", value="hunter2")),
    ("norte_password is a secret", "--set-json", variable("norte_password", value="hunter2")),
    ("OTEL_EXPORTER_OTLP_HEADERS is a secret", "--set-json", variable("OTEL_EXPORTER_OTLP_HEADERS", value="authorization=hunter2")),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS is a secret", "--set-json", variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS", value="a=hunter2")),
    ("OTEL_EXPORTER_OTLP_ENDPOINT has a login", "--set-json", variable("OTEL_EXPORTER_OTLP_ENDPOINT", value="http://user:hunter2@c:4318")),
    ("HTTPS_PROXY has a login", "--set-json", variable("HTTPS_PROXY", value="http://user:hunter2@proxy:3128")),
    ("has a value and a valueFrom", "--set-json", variable("A", value="hunter2", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}})),
    ("valueFrom", "--set-json", variable("A", valueFrom={"secret": "hunter2"})),
    ("write it in config", "--set-json", variable("llavero__upstream__timeout", value="1m")),
    ("jwks: k.json holds a private key", "--set-json", jwks('{"keys": [{"kty": "EC", "\\u0064": "hunter2"}]}')),
    ("jwks: k.json holds a private key", "--set-json", jwks('{"keys": [{"kty": "oct", "\\u006b": "hunter2"}]}')),
    ("jwks: k.json holds a private key", "--set-json", jwks('{"keys": [{"kty": "\\u006fct"}]}')),
    ("jwks: k.json holds a private key", "--set-json", jwks('{"keys": [{"kty": "RSA", "kid": "-----BEGIN PRIV\\u0041TE KEY-----hunter2"}]}')),
    *(("jwks: k.json holds a private key", "--set-json", key(kty="RSA", n="AQAB", e="AQAB", **{member: "hunter2"}))
      for member in ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")),
    ("jwks: k.json is no JWK Set", "--set-json", jwks('{"kty": "EC", "d": "hunter2"}')),
    ("jwks: k.json is no JWK Set", "--set-json", jwks('{"keys": [{"kty": "EC", "d": "hunter2"}]} {}')),
    ("jwks: k.json has a key that is no object", "--set-json", jwks('{"keys": ["hunter2"]}')),
    ("jwks: k.json is neither", "--set-json", jwks("hunter2")),
    ("jwks: k.json is neither", "--set-json", jwks(private_pem(None))),
    ("jwks: k.json is neither", "--set-json", jwks(f"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n{private_pem(None)}")),
    ("jwks: k.json is neither", "--set-json", jwks("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
    ("jwks: k.json holds a private key", "--set-json", jwks(private_pem("PUBLIC KEY"))),
    ("jwks: k.json holds a private key", "--set-json", jwks(private_pem("RSA PUBLIC KEY"))),
    # What Kubernetes would read otherwise, or not take.
    ("resources.limits.memory is 2000m", "--set", "resources.limits.memory=2000m,resources.requests.memory=1"),
    ("resources.requests.memory is 384m", "--set", "resources.requests.memory=384m"),
    ("resources.requests.memory is 8Gi, above resources.limits.memory", "--set", "resources.requests.memory=8Gi"),
    ("resources.requests.cpu is 2, above resources.limits.cpu", "--set", "resources.requests.cpu=2,resources.limits.cpu=1999m"),
    ("resources.requests.ephemeral-storage is 1G, above", "--set", "resources.requests.ephemeral-storage=1G,resources.limits.ephemeral-storage=1M"),
    ("resources.limits.memory", "--set", "config.cache.max_bytes=99999999999999GiB"),
    ("resources.limits.memory", "--set-json", 'config.images={"max_dimension": 2048, "max_pixels": 1000000000}'),
    *(("more than a day together", "--set-string", f"config.{setting}={time}")
      for setting in ("server.drain_delay", "server.shutdown_grace", "upstream.queue_timeout", "upstream.upload_timeout", "upstream.timeout")
      for time in ("99999999999999999999s", "99999999999999d", "86400s")),
    ("preStop", "--set-json", "preStop.sleep.seconds=9999999999"),
    ("terminationGracePeriodSeconds", "--set-json", "terminationGracePeriodSeconds=9999999999999"),
    ("lets no pod come and none go", "--set", "strategy.rollingUpdate.maxSurge=0"),
    ("lets no pod come and none go", "--set", "strategy.rollingUpdate.maxSurge=0%,strategy.rollingUpdate.maxUnavailable=0%"),
    *((f"a is a {kind}, which", "--set-json", volume(**{kind: {"server": "a", "path": "/"}})) for kind in ("hostPath", "nfs", "iscsi", "gitRepo")),
    ("a must be of one kind, and is of 2", "--set-json", volume(emptyDir={}, nfs={"server": "a", "path": "/"})),
    ("a must be of one kind, and is of 0", "--set-json", volume()),
    ("a serviceAccountToken would let", "--set-json", volume(projected={"sources": [{"secret": {"name": "b"}}, {"serviceAccountToken": {"path": "t"}}]})),
    ("config is the name of another volume", "--set-json", volume(name="config", emptyDir={})),
    ("there is no volume b", "--set-json", volume(emptyDir={}), "--set", "extraVolumeMounts[0].name=b,extraVolumeMounts[0].mountPath=/b"),
    ("mounted at /etc/llavero/config", "--set-json", volume(emptyDir={}), "--set", "extraVolumeMounts[0].name=a,extraVolumeMounts[0].mountPath=/etc/llavero/config/"),
    ("trusted_proxies[1] is 128.0.0.0/1", "--set", "config.server.trusted_proxies={10.0.0.0/8,128.0.0.0/1}"),
    ("trusted_proxies[0] is 8.0.0.0/7", "--set", "config.server.trusted_proxies={8.0.0.0/7}"),
    ("trusted_proxies[0] is 2000::/15", "--set", "config.server.trusted_proxies={2000::/15}"),
    ("trusted_proxies[0] is f000::/7", "--set", "config.server.trusted_proxies={f000::/7}"),
    ("trusted_proxies[0] is fc00::/6", "--set", "config.server.trusted_proxies={fc00::/6}"),
    ("trusted_proxies[0] is ::ffff:0.0.0.0/97", "--set", "config.server.trusted_proxies={::ffff:0.0.0.0/97}"),
    ("trusted_proxies[0] is 0:0::ffff:0:0/97", "--set", "config.server.trusted_proxies={0:0::ffff:0:0/97}"),
]

# Values like those, which are right.
ACCEPTED = [
    ("--set", "config.server.trusted_proxies={10.0.0.1/8,192.0.2.7/32,fd00::/8,::ffff:10.0.0.1/128}"),
    ("--set", "otel.endpoint=http://c:4318,otel.sampleRatio=0.1"),
    ("--set", "config.images.formats={jpeg,heic},config.images.max_dimension=off"),
    ("--set", "config.server.cors.allowed_origins={http://localhost:3000,https://[fd00::1]:8443}"),
    ("--set", "config.auth.jwks.allow_loopback_http=true", "--set-json", issuer(issuer="http://127.0.0.1:8000/realms/a", discovery=True)),
    ("--set-json", variable("X", valueFrom={"secretKeyRef": {"name": "carper", "key": "x"}}), "--set-json", credential(api_key={"env": "X"})),
    ("--set", "config.server.trusted_proxies={10.0.0.0/8,fc00::/7,fd00::/8,2001:db8::/32,2001::/16,::ffff:10.0.0.0/104}"),
    ("--set-json", variable("RUST_LOG", value="llavero=debug"), "--set-json", 'extraVolumes=[{"name": "a", "projected": {"sources": [{"secret": {"name": "b"}}]}}]', "--set", "extraVolumeMounts[0].name=a,extraVolumeMounts[0].mountPath=/a"),
    ("--set", "resources.requests.memory=1024Mi,resources.requests.cpu=1500m,resources.limits.cpu=1.5"),
    ("--set", "config.upstream.upload_timeout=23h"),
    ("--set-json", 'tenants.carper.users=[{"match": {"env": "X"}, "credential": "default"}]'),
    ("--set", "service.type=NodePort,service.nodePort=30080,service.externalTrafficPolicy=Local"),
]

def is_refused(helm, word, *arguments):
    said = helm.refusal(CHART / "ci/minimal-values.yaml", *arguments)
    given = " ".join(arguments)
    if said is None:
        raise Wrong(f"accepted, and must not be: {given}")
    if word not in said:
        raise Wrong(f"refused without naming {word}: {given}\n{said}")
    if "hunter2" in said:
        raise Wrong(f"a refusal repeats a secret: {given}")


def is_accepted(helm, llavero, root, *arguments):
    objects = helm.template(CHART / "ci/minimal-values.yaml", *arguments)
    if llavero:
        accepted(llavero, objects, root)


# New pods come for a new llavero.yaml, image or pod, and for nothing else.

SAME_PODS = [
    ("tenants.norte.clave=norte", "tenants.norte.credentials.default.api_key.file=/run/secrets/llavero/carper/norte"),
    ("service.type=NodePort", "adminService.port=9191"),
    ("commonLabels.team=field",),
    ("serviceMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true"),
    ("replicaCount=3", "strategy.rollingUpdate.maxSurge=2", "podDisruptionBudget.enabled=false"),
    ("networkPolicy.enabled=true",),
    ("ingress.enabled=true", "ingress.hosts[0].host=llavero.example.com"),
    ("jwks.other\\.pem=-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",),
]
NEW_PODS = [
    ("config.server.drain_delay=9s", "terminationGracePeriodSeconds=200"),
    ("config.auth.issuers[0].issuer=https://other.example.com/",),
    ("image.tag=0.1.1",),
    ("tenantSlots=17",),
    ("podLabels.team=field",),
]


def template_of(helm, *sets):
    objects = helm.template(CHART / "ci/minimal-values.yaml", *(it for one in sets for it in ("--set", one)))
    return next(it for it in objects if it["kind"] == "Deployment")["spec"]["template"]


def rolls_out(helm):
    # The same grace in all, so that only llavero.yaml differs where it should.
    before = template_of(helm, "terminationGracePeriodSeconds=200")
    for sets in SAME_PODS:
        if template_of(helm, "terminationGracePeriodSeconds=200", *sets) != before:
            raise Wrong(f"new pods for nothing: {' '.join(sets)}")
    for sets in NEW_PODS:
        if template_of(helm, "terminationGracePeriodSeconds=200", *sets) == before:
            raise Wrong(f"no new pods, and they are needed: {' '.join(sets)}")


# Single promises.

LISTING = "kubectl -n llavero get secrets -L llavero/tenant | grep -E '^(NAME|llavero-tenant-[0-9]+) '"
LABELS = {"app.kubernetes.io/part-of": "llavero", "llavero/tenant": "norte"}
NOTES = [
    ("minimal-values.yaml", "create secret generic llavero-tenant-1 ", "label secret llavero-tenant-1 app.kubernetes.io/part-of=llavero llavero/tenant=norte", LISTING, "reaches its admin port"),
    ("minimal-values.yaml", "exist: carper.", "helm -n llavero test llavero --logs", "llavero-tenant-1 to -16", "http://llavero.llavero:80. It speaks plain HTTP"),
    ("tls-values.yaml", "exist: llavero-tls.", "No tenant is named", "https://THE-CERTIFICATES-NAME", "https://llavero.llavero:443."),
    ("autoscaling-values.yaml", "Its 4 pods share nothing: together they ask the ERP 4 times at once"),
    ("tenant-secrets-values.yaml", "The tenant norte is served as soon as the Secret llavero-norte exists."),
    ("openshift-values.yaml", "exist: tenants.", "exec deployment/llavero-gateway -- "),
]

def keeps_promises(helm, work):
    values = CHART / "ci/minimal-values.yaml"
    deployment = next(it for it in helm.template(values) if it["kind"] == "Deployment")["spec"]["template"]["spec"]
    if deployment["terminationGracePeriodSeconds"] != 200:
        raise Wrong(f"the grace is {deployment['terminationGracePeriodSeconds']} s, not 10 + 30 + 10 + 120 + 10 + 15 + 5")
    slept = template_of(helm, "preStop.sleep.seconds=7")["spec"]
    if slept["terminationGracePeriodSeconds"] != 207 or slept["containers"][0]["lifecycle"] != {"preStop": {"sleep": {"seconds": 7}}}:
        raise Wrong("a sleep of preStop isn't part of the grace")
    volumes = {it["name"]: it for it in deployment["volumes"]}
    sources = volumes["tenants"]["projected"]["sources"]
    slots = [it["secret"] for it in sources if "secret" in it]
    if [it["name"] for it in slots] != [f"llavero-tenant-{n}" for n in range(1, 17)] or not all(it["optional"] for it in slots):
        raise Wrong("the slots aren't 16 optional Secrets")
    if "configMap" not in sources[-1]:
        raise Wrong("a slot could take the place of a tenant that the values name")
    monitoring = helm.template(CHART / "ci/monitoring-values.yaml")
    groups = next(it for it in monitoring if it["kind"] == "PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    down = alerts["LlaveroDown"]
    if (down["for"], down["labels"]["severity"], down["labels"]["tier"], down["labels"]["team"]) != ("5m", "page", "1", "field"):
        raise Wrong("an override of an alert is missing")
    if down["annotations"]["runbook_url"] != "https://wiki.example.com/llavero/runbook#llaverodown":
        raise Wrong(f"the runbook is at {down['annotations']['runbook_url']}")
    if "LlaveroTenantConfigErrors" in alerts or groups[-1]["name"] != "ours":
        raise Wrong("an alert that isn't wanted is there, or a group that is wanted isn't")
    all_ = helm.template(values, "--set", "prometheusRule.enabled=true", "--show-only", "templates/prometheusrule.yaml")
    written = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    for rule in (rule for group in written["groups"] for rule in group["rules"]):
        # A path of the repository isn't a link.
        rule.get("annotations", {}).pop("runbook_url", None)
    if all_[0]["spec"] != written:
        raise Wrong("the rules aren't those of files/alerts.yaml")
    dashboard = next(it for it in monitoring if it["metadata"]["name"] == "llavero-dashboard")
    about = dashboard["metadata"]
    if about["annotations"] != {"grafana_folder": "Gateways"} or about["labels"]["grafana_dashboard"] != "1":
        raise Wrong(f"the dashboard's labels and annotations aren't those of the values: {about}")
    if json.loads(dashboard["data"]["llavero.json"]) != json.loads((CHART / "files/dashboard.json").read_text()):
        raise Wrong("the dashboard isn't that of files/dashboard.json")
    for file, *lines in NOTES:
        notes = helm.notes(CHART / "ci" / file, work)
        if missing := [line for line in lines if line not in notes]:
            raise Wrong(f"the notes of {file} don't say: {missing}\n{notes}")
    for line, sets in (("admin port", "networkPolicy.enabled=true"), ("no link to the runbook", "prometheusRule.enabled=false"),
                       ("trusted_proxies is empty", "config.server.trusted_proxies={10.0.0.0/8}")):
        given = ["--set", "prometheusRule.enabled=true,ingress.enabled=true,ingress.hosts[0].host=a"]
        if line not in helm.notes(values, work, *given) or line in helm.notes(values, work, *given, "--set", sets):
            raise Wrong(f"the notes don't say when {sets} isn't so, or say when it is: {line}")
    slots_are_seen(helm)
    odd_names_stay(helm, work)
    public_keys_only(helm)
    strategy = next(it for it in helm.template(values, "--set", "strategy.type=Recreate") if it["kind"] == "Deployment")["spec"]["strategy"]
    if strategy != {"type": "Recreate"}:
        raise Wrong(f"Kubernetes takes no {strategy}")
    readme_checks(helm, work)
    package = run(helm.binary, "package", CHART, "--destination", work)
    with tarfile.open(next(work.glob("llavero-*.tgz"))) as packed:
        names = {name.split("/", 1)[1] for name in packed.getnames()}
    needed = {"values.schema.json", "files/alerts.yaml", "files/dashboard.json", "templates/tests/check.yaml", "README.md"}
    if package.returncode or not needed <= names or any(name.startswith(("ci/", "tests/")) for name in names):
        raise Wrong(f"the package has not what it should: {package.stderr}{sorted(names)}")
    for endpoint, port in (("http://c.x:4318", 4318), ("https://c.example.com", 443), ("http://[fd00::1]/v1", 80), ("https://c.example.com:4317/x", 4317)):
        policy = helm.template(values, "--set", f"otel.endpoint={endpoint},networkPolicy.enabled=true", "--show-only", "templates/networkpolicy.yaml")
        if policy[0]["spec"]["egress"][1]["ports"][0]["port"] != port:
            raise Wrong(f"the way to {endpoint} isn't open on {port}")


# Names that YAML reads as something else than a text.
ODD = """
existingSecrets: ["1e3", "no"]
existingTenantsSecret: "0123"
tenants: null
tenantSecrets: {"on": {name: "off"}, "1": {name: "null"}}
tls: {existingSecret: "yes"}
priorityClassName: "true"
ingress: {enabled: true, className: "null", hosts: [{host: "1.5"}]}
serviceAccount: {name: "false"}
service: {type: LoadBalancer, loadBalancerClass: "1e3"}
otel: {endpoint: "http://c:4318", headersSecret: {name: "0x1f", key: "1"}}
imagePullSecrets: [{name: "1_0"}]
networkPolicy: {enabled: true, adminFrom: [{podSelector: {}}]}
autoscaling: {enabled: true, maxReplicas: 10000000}
revisionHistoryLimit: 10000000
commonLabels: {example.com/team: "1e3"}
podLabels: {example.com/team: "null"}
serviceMonitor: {enabled: true, labels: {example.com/team: "true"}}
image: {tag: "1.10"}
""".replace("1_0", "1e0")


def odd_names_stay(helm, work):
    values = work / f"odd-{helm.version}.yaml"
    values.write_text(ODD)
    for name, more in (("true-llavero", ()), ("true", ("--set-string", "fullnameOverride=true,nameOverride=null"))):
        # The release and its namespace too.
        done = run(helm.binary, "template", "true", CHART, "--namespace", "1e3", "-f", CHART / "ci/minimal-values.yaml", "-f", values, *more)
        if done.returncode:
            raise Wrong(f"odd names: {done.stderr}")
        objects = list(yaml.load_all(done.stdout, Strict))
        schemas_hold(objects)
        belongs_together(objects)
        deployment = next(it for it in objects if it["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        monitor = next(it for it in objects if it["kind"] == "ServiceMonitor")
        said = (
            {it["metadata"]["namespace"] for it in objects}, deployment["metadata"]["name"], pod["priorityClassName"], pod["serviceAccountName"],
            monitor["metadata"]["labels"]["example.com/team"], monitor["spec"]["namespaceSelector"]["matchNames"],
            [it["secret"]["secretName"] for it in pod["volumes"] if "secret" in it],
            [it["spec"]["ingressClassName"] for it in objects if it["kind"] == "Ingress"],
        )
        if said != ({"1e3"}, name, "true", "false", "true", ["1e3"], ["yes", "1e3", "no"], ["null"]):
            raise Wrong(f"odd names are read otherwise: {said}")


def public_keys_only(helm):
    """Whatever else stands in a JWK Set, or twice, the ConfigMap hasn't got it."""
    text = '{"keys": [{"kty": "RSA", "d": "hunter2"}], "more": "hunter2", "keys": [{"kty": "RSA", "kid": "a", "use": "sig", "n": "AQ", "e": "AQAB", "x5c": ["hunter2"], "x": "hunter2", "alg": {"a": "hunter2"}, "key_ops": ["verify", "hunter2"]}]}'
    objects = helm.template(CHART / "ci/minimal-values.yaml", "--set-json", f"jwks.k\\.json={json.dumps(text)}")
    kept = next(it for it in objects if it["metadata"]["name"] == "llavero-keys")["data"]["k.json"]
    if json.loads(kept) != {"keys": [{"kty": "RSA", "kid": "a", "use": "sig", "n": "AQ", "e": "AQAB", "key_ops": ["verify"]}]}:
        raise Wrong(f"the keys' ConfigMap has more than what is public: {kept}")
    pem = run("openssl", "pkey", "-pubout", input=run("openssl", "genpkey", "-algorithm", "ED25519").stdout).stdout
    objects = helm.template(CHART / "ci/minimal-values.yaml", "--set-json", f"jwks.k\\.pem={json.dumps(pem)}")
    if next(it for it in objects if it["metadata"]["name"] == "llavero-keys")["data"]["k.pem"] != pem:
        raise Wrong("a PEM isn't rendered as it was given")


def slots_are_seen(helm):
    """However a tenant comes into a slot, it has the labels, and is listed without them too."""
    readme = (CHART / "README.md").read_text()
    written = next(yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", readme, re.S) if block.startswith("# norte.yaml"))
    external = next(it for it in helm.template(CHART / "ci/external-secrets-values.yaml") if it["kind"] == "ExternalSecret")
    target = external["spec"]["target"]
    for name, labels in ((written["metadata"]["name"], written["metadata"]["labels"]), (target["name"], target["template"]["metadata"]["labels"])):
        if name != "llavero-tenant-1" or labels != LABELS:
            raise Wrong(f"the tenant in {name} has the labels {labels}")
    if LISTING not in readme or "apply -f norte.yaml" in readme:
        raise Wrong("README.md doesn't list slots by name, or writes over one that is taken")
    listed = run("grep", "-E", LISTING.split("'")[1], input="NAME TYPE\nllavero-tenant-12 Opaque\nllavero-tenants Opaque\nmy-llavero-tenant-1 Opaque\n").stdout
    if listed != "NAME TYPE\nllavero-tenant-12 Opaque\n":
        raise Wrong(f"slots aren't listed by their name: {listed}")


def readme_checks(helm, work):
    """README.md's way to check values gives the whole llavero.yaml, and nothing else."""
    command = re.search(r"^helm template .*? > llavero\.yaml", (CHART / "README.md").read_text(), re.M)[0]
    values = (CHART / "ci/tenants-values.yaml").resolve()
    at = work / f"readme-{helm.version}"
    at.mkdir()
    (at / "helm").symlink_to(CHART.parent.resolve())
    (at / "my-values.yaml").symlink_to(values)
    done = run("bash", "-c", f'helm() {{ "{pathlib.Path(helm.binary).resolve()}" "$@"; }}; {command}', cwd=at)
    made = (at / "llavero.yaml").read_text()
    rendered = next(it for it in helm.template(values) if it["kind"] == "ConfigMap" and "llavero.yaml" in it["data"])["data"]["llavero.yaml"]
    if done.returncode or made.strip() != rendered.strip():
        raise Wrong(f"README.md's command gives another llavero.yaml: {done.stderr}{made}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--llavero", type=pathlib.Path)
    parser.add_argument("helm", nargs="+")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    helms = [Helm(binary) for binary in arguments.helm]
    wrong, custom = [], []

    def tried(what, function, *given):
        try:
            return function(*given)
        except Wrong as error:
            wrong.append(f"{what}: {error}")
            return None

    def case(helm, values):
        helm.lint(values)
        objects = helm.template(values)
        # Names of another release, and where its name has the chart's in it already.
        helm.template(values, release="x")
        schemas_hold(objects)
        is_restricted(objects)
        belongs_together(objects)
        custom.extend({"of": f"{values.name}, {helm.version}", "object": it} for it in objects if it["apiVersion"].startswith(CUSTOM))
        if arguments.llavero:
            accepted(arguments.llavero, objects, arguments.work / helm.version / values.stem)
        return objects

    tried("the chart", consistent)
    tried("the chart", is_quoted)
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for helm in helms:
            cases = pool.map(lambda values: tried(f"{values.name}, {helm.version}", case, helm, values), files)
            rendered = dict(zip(files, cases, strict=True))
            list(pool.map(lambda it: tried(helm.version, is_refused, helm, *it), REFUSED))
            for number, arguments_ in enumerate(ACCEPTED):
                root = arguments.work / helm.version / f"accepted-{number}"
                tried(f"{helm.version}, {' '.join(arguments_)}", is_accepted, helm, arguments.llavero, root, *arguments_)
            tried(helm.version, rolls_out, helm)
            tried(helm.version, keeps_promises, helm, arguments.work)
            if objects := rendered[CHART / "ci/minimal-values.yaml"]:
                tried("rules of pods", rules_can_fail, objects)
            if not wrong:
                print(f"ok: {helm.version}: {len(files)} values, Kubernetes {', '.join(kubernetes_versions())}; {len(REFUSED)} wrong ones are refused")
    listed = arguments.work / "custom.json"
    listed.write_text(json.dumps(custom))
    checked = run("node", ".ci/chart-custom-resources.mjs", arguments.models, listed)
    if checked.returncode:
        wrong.append(f"custom resources: {checked.stderr}")
    elif not wrong:
        print(f"ok: {len(custom)} custom resources: {', '.join(sorted({it['object']['kind'] for it in custom}))}")
    if wrong:
        sys.exit("\n".join(wrong))


main()
