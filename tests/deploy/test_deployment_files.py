"""The container, compose and Kubernetes files: they lint, and they agree with the code."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from starlette.testclient import TestClient

from wye.gateway.app import ROUTES, create_app
from wye.gateway.config import Config
from wye.gateway.config_file import parse_config
from wye.gateway.server import GRACE_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SECRETS = ("WYE_ACCESS_KEY", "WYE_STORE_PASSWORD", "OPENAI_API_KEY")
# CustomResourceDefinitions and kustomize's own file have no schema in Kubernetes.
FOREIGN = ("Kustomization", "ServiceMonitor")


def manifests() -> dict[str, dict]:
    return {
        path.name: part
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for part in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    }


MANIFESTS = manifests()
POD = MANIFESTS["deployment.yaml"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
TOML = {
    "kubernetes": MANIFESTS["config.yaml"]["data"]["wye.toml"],
    "compose": (DEPLOY / "compose" / "wye.toml").read_text(encoding="utf-8"),
}


@pytest.fixture(params=sorted(TOML))
def where(request) -> str:
    return request.param


@pytest.fixture
def config(where, monkeypatch) -> Config:
    for name in SECRETS:
        monkeypatch.setenv(name, f"the value of {name}")
    return parse_config(TOML[where])


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions, each with the rest of its line."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.split(None, 1) for line in lines if line and not line.startswith("#")]


def only(name: str) -> str:
    *_, (_, rest) = [found for found in instructions() if found[0] == name]
    return rest


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def read_compose(text: str) -> None:
    """As compose reads it, once the anchors are resolved."""
    PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).validate()


# They lint


def test_hadolint_has_nothing_to_say_of_the_dockerfile():
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "name", [name for name, one in MANIFESTS.items() if one["kind"] not in FOREIGN]
)
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_every_manifest_is_valid_to_the_letter(name, version):
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_a_manifest_with_a_wrong_key_would_be_found():
    wrong = copy.deepcopy(MANIFESTS["deployment.yaml"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_the_kustomization_names_every_manifest_that_is_there():
    listed = set(MANIFESTS["kustomization.yaml"]["resources"])
    optional = {"kustomization.yaml", "secret.example.yaml", "service-monitor.yaml"}
    assert listed == set(MANIFESTS) - optional


def test_the_compose_file_is_what_compose_reads():
    read_compose((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    ports:\n", "    prots:\n"),
        ("condition: service_healthy", "condition: service_helthy"),
        ("period: 35s", "period: 35 secs"),
    ],
)
def test_a_slip_in_the_compose_file_would_be_found(right, wrong):
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert right in text
    with pytest.raises(ValueError, match=r"services\.gateway-1"):
        read_compose(text.replace(right, wrong, 1))


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_what_compose_mounts_is_there(service):
    for volume in COMPOSE["services"][service].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
    assert (DEPLOY / "grafana" / "wye.json").is_file()
    for path in (DEPLOY / "compose").rglob("*.y*ml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


# They agree with the code


def test_the_configuration_is_good_and_needs_no_other_secret_than_is_given(config, where):
    needed = {config.server.access_key_env, config.store.password_env}
    needed |= {target.api_key_env for target in config.targets if target.api_key_env}
    assert needed == set(SECRETS)
    given = {
        "kubernetes": {entry["name"] for entry in CONTAINER["env"]},
        "compose": set(COMPOSE["services"]["gateway-1"]["environment"]),
    }
    assert given[where] == needed


def test_the_keys_of_the_secret_are_those_that_the_pod_takes():
    wanted = {entry["valueFrom"]["secretKeyRef"]["key"] for entry in CONTAINER["env"]}
    assert wanted == set(MANIFESTS["secret.example.yaml"]["stringData"])
    key = MANIFESTS["service-monitor.yaml"]["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert key["key"] in wanted


def test_one_port_everywhere(config):
    port = config.server.port
    assert only("EXPOSE") == str(port)
    (exposed,) = CONTAINER["ports"]
    assert exposed["containerPort"] == port
    (service,) = MANIFESTS["service.yaml"]["spec"]["ports"]
    assert service["targetPort"] == exposed["name"]
    assert MANIFESTS["service-monitor.yaml"]["spec"]["endpoints"][0]["port"] == service["name"]
    ingress = MANIFESTS["network-policy.yaml"]["spec"]["ingress"][0]["ports"]
    assert [entry["port"] for entry in ingress] == [port]
    for name in ("gateway-1", "gateway-2"):
        assert COMPOSE["services"][name]["ports"][0].endswith(f":{port}")
    scraped = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == [f"gateway-{n}:{port}" for n in (1, 2)]


def test_what_is_stopped_has_time_to_drain(config):
    least = config.server.drain_seconds + GRACE_SECONDS
    before = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] >= before + least
    for name in ("gateway-1", "gateway-2"):
        assert seconds(COMPOSE["services"][name]["stop_grace_period"]) > least


def test_all_pods_together_leave_the_database_connections_for_others(config):
    most = MANIFESTS["autoscaler.yaml"]["spec"]["maxReplicas"]
    surge = MANIFESTS["deployment.yaml"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    # PostgreSQL's default, less what it keeps for its administrators.
    assert (most + surge) * (config.store.connections + 1) <= 100 - 3


def test_probes_and_scrapes_ask_for_paths_that_there_are():
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    paths = {CONTAINER[probe]["httpGet"]["path"] for probe in probes}
    paths.add(MANIFESTS["service-monitor.yaml"]["spec"]["endpoints"][0]["path"])
    config = Config.model_validate(
        {
            "store": {"path": os.devnull},
            "policies": {"q": {"kind": "quality"}},
            "targets": [{"name": "a", "base_url": "http://127.0.0.1:1/v1"}],
        }
    )
    assert config.server.port == 8484
    assert paths == {"/livez", "/healthz", "/metrics"}
    assert not paths & {route.path for route in ROUTES}


def test_the_gateway_runs_on_the_configuration_and_answers_its_probes_without_a_key(
    config, postgresql, tmp_path
):
    database = postgresql.url(postgresql.database())
    store = config.store.model_copy(update={"url": database})
    app = create_app(config.model_copy(update={"store": store}))
    with TestClient(app) as client:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert client.get(CONTAINER[probe]["httpGet"]["path"]).status_code == 200, probe
        assert client.get("/metrics").status_code == 401
        app.state.gateway.places.drain()
        assert client.get(CONTAINER["readinessProbe"]["httpGet"]["path"]).status_code == 503
        assert client.get(CONTAINER["livenessProbe"]["httpGet"]["path"]).status_code == 200


def test_the_image_runs_as_nobody_else_than_the_pod():
    user = str(POD["securityContext"]["runAsUser"])
    assert only("USER") == f"{user}:{POD['securityContext']['runAsGroup']}"
    assert user != "0"
    assert f"--uid {user} " in DOCKERFILE.read_text()
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert only("WORKDIR") in mounted
    config = shlex.split(" ".join(json.loads(only("CMD"))))[-1]
    assert str(Path(config).parent) in mounted
    assert CONTAINER["args"] == json.loads(only("CMD"))


def test_the_images_extras_are_extras_of_wye_and_hold_the_stores_driver():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = only("ARG").removeprefix("EXTRAS=").split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert "postgresql" in extras
    copied = {name for kind, rest in instructions() if kind == "COPY" for name in rest.split()[:-1]}
    needed = {"pyproject.toml", project["readme"], *project["license-files"], "src"}
    assert needed <= copied
    kept = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in needed} <= set(kept)


def test_the_containers_health_check_tells_a_gateway_from_none(tmp_path):
    check = only("HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    command[0] = sys.executable
    answer = (
        "import http.server as h, sys\n"
        "class A(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/livez' else 404)\n"
        "        self.end_headers()\n"
        "s = h.HTTPServer(('127.0.0.1', 0), A)\n"
        "print(s.server_port, flush=True)\n"
        "s.serve_forever()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", answer], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = server.stdout.readline().strip()
        environment = {**os.environ, "WYE_PORT": port}
        assert subprocess.run(command, env=environment, check=False).returncode == 0
    finally:
        server.kill()
        server.communicate()
    gone = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert gone.returncode == 1
