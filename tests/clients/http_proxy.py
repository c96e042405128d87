"""An application with http_proxy and https_proxy set: urllib and requests, as they come.

Arguments: the proxy (HOST:PORT), an HTTP origin, an HTTPS origin (HOST:PORT each), the CA of the latter, and an address
of the proxy's own that must be out of reach.
"""

import os
import sys
import urllib.error
import urllib.request

PROXY, PLAIN, SECURE, CA, OWN = sys.argv[1:6]
for name in ("http_proxy", "https_proxy"):
    os.environ[name] = f"http://{PROXY}"
for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
    os.environ.pop(name, None)
os.environ["SSL_CERT_FILE"] = CA

import requests  # noqa: E402  (it reads the environment)

import checks  # noqa: E402
from checks import equal  # noqa: E402


def check_urllib_http():
    with urllib.request.urlopen(f"http://{PLAIN}/x?y=1", timeout=10) as answer:
        equal((answer.status, answer.read()), (200, b"plain"))
        assert "weir" in answer.headers["via"], "it did not come through Weir"


def check_urllib_https():
    with urllib.request.urlopen(f"https://{SECURE}/", timeout=10) as answer:
        equal((answer.status, answer.read()), (200, b"secure"))
        assert answer.headers["via"] is None, "a tunnel adds nothing"


def check_urllib_own_port():
    try:
        urllib.request.urlopen(f"http://{OWN}/metrics", timeout=10)
        raise AssertionError("not refused")
    except urllib.error.HTTPError as error:
        equal(error.code, 403)


def check_requests_keeps_its_connection():
    with requests.Session() as session:
        for _ in range(5):
            answer = session.get(f"http://{PLAIN}/", timeout=10)
            equal((answer.status_code, answer.text), (200, "plain"))
            answer = session.get(f"https://{SECURE}/", timeout=10, verify=CA)
            equal((answer.status_code, answer.text), (200, "secure"))


def check_requests_own_port_by_connect():
    try:
        requests.get(f"https://{OWN}/", timeout=10, verify=CA)
        raise AssertionError("not refused")
    except requests.exceptions.ProxyError as error:
        assert "403" in str(error), error


checks.run(checks.of(sys.modules[__name__]))
