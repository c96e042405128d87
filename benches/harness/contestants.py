"""Who takes part: for each, its configuration from benches/conf and the command that starts it."""

import glob
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .scenarios import Scenario

CONF = Path(__file__).parent.parent / "conf"
ROOT = Path(__file__).parent.parent.parent
FLOORS = ("l4", "bare")
OTHERS = ("nginx", "haproxy", "envoy")


@dataclass(frozen=True)
class Setup:
    """What a contestant has to serve, and where its files go."""

    scenario: Scenario
    folder: Path
    listen: int
    # Ports by kind of origin: http1, http2, tls, grpc.
    origins: dict
    idle_timeout: int = 60
    # One process that stays in the foreground: what valgrind can follow.
    single_process: bool = False
    # Of Weir and Envoy: how endpoints are chosen, by default as each does by itself, and their ports where there are several.
    balancer: str = ""
    endpoints: tuple = ()

    @property
    def ports(self):
        return self.endpoints or (self.origins[self.scenario.origin],)


class Field:
    """The contestants of one run, by name."""

    def __init__(self, tools, weirs, only):
        self.tools = tools
        self.weirs = weirs
        everybody = ["direct", *FLOORS, *OTHERS, *weirs]
        unknown = set(only or ()) - set(everybody)
        if unknown:
            raise SystemExit(f"bench: no contestant {', '.join(sorted(unknown))}; there are {', '.join(everybody)}")
        self.names = [name for name in everybody if name in only] if only else [
            name for name in everybody if name != "envoy" or envoy_program()]

    def command(self, name, setup):
        """How to start a contestant; None for `direct`, which is nobody."""
        if name == "direct":
            return None
        if name in self.weirs:
            return weir(self.weirs[name], setup)
        if name in FLOORS:
            return FLOOR_COMMANDS[name](self.tools, setup)
        return OTHER_COMMANDS[name](setup)

    def port(self, name, setup):
        """Where the load goes."""
        return setup.origins[setup.scenario.same_protocol_origin] if name == "direct" else setup.listen


def fill_in(template, setup, **values):
    """Writes a configuration with its @NAMES@ replaced, and gives its path."""
    text = (CONF / template).read_text(encoding="utf-8")
    common = {
        "FOLDER": setup.folder, "LISTEN": setup.listen, "WORKERS": setup.scenario.workers,
        "ORIGIN": setup.origins[setup.scenario.origin], "IDLE": setup.idle_timeout,
    }
    for name, value in {**common, **values}.items():
        text = text.replace(f"@{name}@", str(value))
    path = setup.folder / template
    path.write_text(text, encoding="utf-8")
    return str(path)


def user():
    """The workers of an nginx that root starts would otherwise not be allowed to read the bench's files."""
    return "root" if os.getuid() == 0 else "nobody"


def l4(tools, setup):
    origin = setup.origins[setup.scenario.same_protocol_origin]
    return [tools, "l4", "--listen", f"127.0.0.1:{setup.listen}", "--to", f"127.0.0.1:{origin}",
            "--workers", str(setup.scenario.workers)]


def bare(tools, setup):
    scenario = setup.scenario
    command = [tools, "bare", "--listen", f"127.0.0.1:{setup.listen}",
               "--to", f"127.0.0.1:{setup.origins[scenario.origin]}",
               "--workers", str(scenario.workers), "--idle", str(setup.idle_timeout)]
    if scenario.http2:
        command.append("--http2")
    if scenario.grpc:
        command.append("--http2-origin")
    if scenario.tls:
        command += ["--tls", str(setup.folder)]
    return command


def nginx(setup):
    scenario = setup.scenario
    options, certificate = "", ""
    if scenario.http2:
        options = "http2"
    if scenario.tls:
        options = "ssl"
        certificate = (f"ssl_certificate {setup.folder}/cert.pem; ssl_certificate_key {setup.folder}/key.pem; "
                       "ssl_protocols TLSv1.3;")
    if scenario.grpc:
        forward = "grpc_pass grpc://origin;"
    else:
        forward = ("proxy_pass http://origin; proxy_http_version 1.1; "
                   'proxy_set_header Connection ""; proxy_set_header Host $http_host;')
    path = fill_in("nginx.conf", setup, USER=user(), OPTIONS=options, CERTIFICATE=certificate, PASS=forward)
    command = ["nginx", "-p", str(setup.folder), "-c", path]
    return [*command, "-g", "master_process off;"] if setup.single_process else command


def haproxy(setup):
    scenario = setup.scenario
    bind = "proto h2" if scenario.http2 else f"ssl crt {setup.folder}/both.pem" if scenario.tls else ""
    path = fill_in("haproxy.cfg", setup, BIND=bind, SERVER="proto h2" if scenario.grpc else "")
    return ["haproxy", "-db", "-f", path]


def envoy(setup):
    scenario = setup.scenario
    transport = ""
    if scenario.tls:
        files = (f"certificate_chain: {{ filename: {setup.folder}/cert.pem }}, "
                 f"private_key: {{ filename: {setup.folder}/key.pem }}")
        transport = (
            "transport_socket: { name: envoy.transport_sockets.tls, typed_config: { "
            '"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, '
            "common_tls_context: { tls_params: { tls_minimum_protocol_version: TLSv1_3, "
            f"tls_maximum_protocol_version: TLSv1_3 }}, tls_certificates: [{{ {files} }}] }} }} }}"
        )
    protocol = "http2_protocol_options" if scenario.grpc else "http_protocol_options"
    endpoints = ", ".join(
        f"{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
        for port in setup.ports)
    path = fill_in("envoy.yaml", setup, TRANSPORT=transport, PROTOCOL=protocol, ENDPOINTS=endpoints,
                   BALANCER=setup.balancer or "ROUND_ROBIN")
    return [envoy_program(), "-c", path, "--concurrency", str(scenario.workers), "--disable-hot-restart",
            "--log-level", "warning"]


def envoy_program():
    """The program itself in the Python package, so that its pid is that of what is started; else the system's."""
    found = glob.glob(str(ROOT / "target/venv/lib/python3*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else shutil.which("envoy")


def weir(program, setup):
    tls = f"tls: {{ cert: {setup.folder}/cert.pem, key: {setup.folder}/key.pem }}" if setup.scenario.tls else ""
    endpoints = ", ".join(f"127.0.0.1:{port}" for port in setup.ports)
    path = fill_in("weir.yaml", setup, TLS=tls, ADMIN=machine.free_port(), TELEMETRY=machine.free_port(),
                   ENDPOINTS=endpoints, BALANCER=setup.balancer or "peak_ewma")
    return [program, "run", "-c", path]


def origin(setup_folder, ports):
    """The origin that most scenarios have."""
    text = (CONF / "origin.conf").read_text(encoding="utf-8")
    values = {"USER": user(), "FOLDER": setup_folder, "HTTP1": ports["http1"], "HTTP2": ports["http2"],
              "TLS": ports["tls"]}
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path = setup_folder / "origin.conf"
    path.write_text(text, encoding="utf-8")
    return ["nginx", "-p", str(setup_folder), "-c", str(path)]


FLOOR_COMMANDS = {"l4": l4, "bare": bare}
OTHER_COMMANDS = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy}
