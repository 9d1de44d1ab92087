"""Renders the Helm chart with Helm's own engine and holds it against Kubernetes' schemas, against
xksd itself and against the plain manifests. For scripts/kubernetes.

    check.py XKSD MODULE [--write]

XKSD: the program; MODULE: a PKCS#11 library that is there. --write: the plain manifests are made of
the chart.
"""

import copy
import pathlib
import subprocess
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/xksd"
PLAIN = ROOT / "deploy/kubernetes/xksd.yaml"
HEADER = """\
# xksd for kubectl, rendered from deploy/helm/xksd by scripts/kubernetes --write. To change before
# use: the image, [[server.proxy_protocol]] with the NetworkPolicy, and the rest of xksd.toml.
# docs/containers.md says what to do in which order.
"""
VERSIONS = ["1.27", "1.30", "1.37"]
SUBNETS = {"service": {"nlb": {"subnets": ["10.0.1.0/24", "10.0.2.0/24"]}}}
# The first is that of the plain manifests.
CASES = {
    "a load balancer": SUBNETS,
    "within the cluster": {"service": {"type": "ClusterIP"}},
    "everything": {
        **SUBNETS,
        "image": {"repository": "r.example/xksd", "digest": "sha256:" + "0" * 64,
                  "pullSecrets": [{"name": "registry"}]},
        "replicas": 3,
        "instances": 6,
        "regions": ["us-east-1", "eu-west-3"],
        "serverConfig": "request_budget_ms = 150\n",
        "files": {"policies/all.cedar": "permit(principal, action, resource);\n"},
        "extraVolumes": [{"name": "hsm", "hostPath": {"path": "/opt/hsm", "type": "Directory"}}],
        "extraVolumeMounts": [{"name": "hsm", "mountPath": "/opt/hsm", "readOnly": True}],
        "initContainers": [{"name": "i", "image": "r.example/i"}],
        "extraContainers": [{"name": "hsmd", "image": "r.example/hsmd"}],
        "env": [{"name": "TZ", "value": "UTC"}],
        "state": {"storageClassName": "gp3", "size": "5Gi"},
        "stop": {"delaySeconds": 60, "drainSeconds": 20},
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
                          "egress": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "antiAffinity": "preferred",
        "zoneSpread": "DoNotSchedule",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "hsm", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
    },
}
# Values that the chart must refuse, and a word of the reason.
REFUSED = [
    ({}, "service.nlb.subnets"),
    ({**SUBNETS, "replica": 3}, "replica"),
    ({**SUBNETS, "replicas": 0}, "replicas"),
    ({**SUBNETS, "regions": []}, "regions"),
    ({**SUBNETS, "image": {"digest": "latest"}}, "digest"),
    ({**SUBNETS, "files": {"../escape": "x"}}, "escape"),
    ({**SUBNETS, "secrets": [{"name": "a", "items": [{"key": "a", "path": "/etc/x"}]}]}, "path"),
]


def render(values):
    chart = helm_python.Chart.load(str(CHART))
    chart.validate_schema(values)
    rendered = chart.render(values, name="xksd", namespace="xksd")
    return {path: text for path, text in sorted(rendered.items())
            if path.endswith(".yaml") and text.strip()}


def objects(rendered):
    found = [one for text in rendered.values() for one in yaml.safe_load_all(text) if one]
    assert len({(one["kind"], one["metadata"]["name"]) for one in found}) == len(found)
    return found


def one(kind, found):
    (only,) = [each for each in found if each["kind"] == kind]
    return only


def validate(found):
    for each in found:
        if each["kind"] == "ServiceMonitor":  # Its schema is Prometheus Operator's.
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(copy.deepcopy(each), version, strict=True)


def agree(found):
    """What stands in two objects and must be the same."""
    pods = one("StatefulSet", found)["spec"]
    pod = pods["template"]["spec"]
    labels = pods["template"]["metadata"]["labels"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    selectors = [pods["selector"]["matchLabels"],
                 one("PodDisruptionBudget", found)["spec"]["selector"]["matchLabels"],
                 one("NetworkPolicy", found)["spec"]["podSelector"]["matchLabels"]]
    services = [each for each in found if each["kind"] == "Service"]
    for service in services:
        selectors.append(service["spec"]["selector"])
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"]), service
    assert pods["serviceName"] in [each["metadata"]["name"] for each in services]
    for selector in selectors:
        assert selector and selector.items() <= labels.items(), selector
    for monitor in [each for each in found if each["kind"] == "ServiceMonitor"]:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert [s for s in services if wanted <= s["metadata"]["labels"].items()], monitor
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in pods["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    return pod, ports


def accepted_by_xksd(found, xksd, module):
    """The files of the pod in a folder, secrets with stand-ins, through `xksd check`."""
    pod, ports = agree(found)
    data = one("ConfigMap", found)["data"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "config"]
    with tempfile.TemporaryDirectory() as folder:
        etc = pathlib.Path(folder)
        made = etc / "made"
        subprocess.run([xksd, "demo", "--files-only", "--dir", made, "--listen", "127.0.0.1:1",
                        "--admin", "127.0.0.1:2"], check=True, capture_output=True)
        stand_ins = {"tls.crt": "tls/chain.pem", "tls.key": "tls/key.pem",
                     "key-store-1": "secrets/key-store-1"}
        for source in volume["projected"]["sources"]:
            for item in (source.get("configMap") or source["secret"])["items"]:
                file = etc / item["path"]
                file.parent.mkdir(exist_ok=True)
                if "configMap" in source:
                    text = data[item["key"]]
                elif item["key"] in stand_ins:
                    text = (made / stand_ins[item["key"]]).read_text()
                else:
                    text = "1234\n"
                file.write_text(text)
                file.chmod(0o600)
        config = etc / "xksd.toml"
        text = config.read_text()
        assert f':{ports["xks"]}"' in text and f':{ports["admin"]}"' in text
        state = '"/var/lib/xksd/state"'
        mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
        assert state in text and "/var/lib/xksd" in mounts and "/etc/xksd" in mounts
        config.write_text(text.replace("/opt/hsm/lib/libpkcs11.so", module)
                          .replace(state, f'"{folder}/state"'))
        ran = subprocess.run([xksd, "check", "--config", config], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr + text
        stop = [int(line.split("=")[1]) for line in text.splitlines() if line.startswith("shutdown_")]
        assert len(stop) == 2 and sum(stop) / 1000 < pod["terminationGracePeriodSeconds"], stop


def main():
    xksd, module = sys.argv[1:3]
    linted = helm_python.lint(str(CHART), SUBNETS, strict=True)
    assert not [each for each in linted["messages"] if each["severity"] > 1], linted
    for name, values in CASES.items():
        found = objects(render(values))
        validate(found)
        accepted_by_xksd(found, xksd, module)
        print(f"  {name}: {len(found)} objects")
    for values, word in REFUSED:
        try:
            render(values)
        except helm_python.HelmError as error:
            assert word in str(error), (word, str(error))
        else:
            raise AssertionError(f"not refused: {values}")
    texts = render(next(iter(CASES.values()))).values()
    lines = [line.rstrip() for text in texts for line in ["---", *text.strip().splitlines()]]
    plain = HEADER + "".join(f"{line}\n" for line in lines if "managed-by: Helm" not in line)
    if "--write" in sys.argv:
        PLAIN.write_text(plain)
    elif PLAIN.read_text() != plain:
        sys.exit(f"{PLAIN} is not what the chart gives: run scripts/kubernetes --write")


main()
