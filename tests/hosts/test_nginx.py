"""nginx: the only door. HTTPS for our names alone, each header once, files served by itself."""

import http.client
import ipaddress
import json
import re
import socket
import ssl

import pytest

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("nginx.service", "*-web@*")


@pytest.mark.spec("D5.1.3")
def test_the_site_answers_over_https(site):
    assert site.request("/").status == 200


@pytest.mark.parametrize("path", ["/", "/orders/?a=b", "/flower/"])
def test_http_leads_to_https(site, path):
    connection = http.client.HTTPConnection(site.address, 80, timeout=10)
    connection.request("GET", path, headers={"Host": site.domain})
    answer = connection.getresponse()
    assert answer.status == 301
    assert answer.getheader("Location") == f"https://{site.host_header}{path}"


def test_http_for_another_name_gets_no_answer(site):
    connection = http.client.HTTPConnection(site.address, 80, timeout=10)
    connection.request("GET", "/", headers={"Host": "evil.example"})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()


def test_https_for_another_name_gets_no_certificate(site):
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((site.address, 443), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        careless.wrap_socket(plain, server_hostname="evil.example")


def test_a_foreign_host_header_over_https_gets_no_page(site):
    try:
        answer = site.request("/", headers={"Host": "evil.example"})
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return
    assert answer.status in (400, 421, 444)


HEADERS = {
    "Strict-Transport-Security": r"max-age=\d+",
    "Content-Security-Policy": r".*default-src 'self'.*",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin|strict-origin.*",
    "Permissions-Policy": ".*camera=.*",
}


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/there/is/no/such/page/"])
@pytest.mark.parametrize(("name", "value"), HEADERS.items())
def test_every_page_has_the_header_exactly_once(site, path, name, value):
    found = site.request(path).all(name)
    assert len(found) == 1
    assert re.fullmatch(value, found[0])


@pytest.mark.parametrize("path", ["/", "/flower/", "/static/nothing"])
def test_hsts_is_sent_everywhere(site, variables, path):
    sent = site.request(path).all("Strict-Transport-Security")
    assert sent == [f"max-age={variables['nginx_hsts_seconds']}"]


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/operations/", "/there/is/no/such/page/"])
def test_no_page_may_run_what_somebody_has_injected(site, path):
    (policy,) = site.request(path).all("Content-Security-Policy")
    assert "unsafe" not in policy
    assert {"default-src 'self'", "object-src 'none'", "base-uri 'self'"} <= set(policy.split("; "))


def test_flower_loads_nothing_from_elsewhere(site, variables):
    """It has scripts inside its pages, which would not work without."""
    (policy,) = site.request(variables["nginx_flower_path"]).all("Content-Security-Policy")
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy


@pytest.fixture(scope="module")
def from_here(host, variables):
    """Return a function that asks nginx on its own host, from a loopback address; the statuses.

    All through one connection at once, so that a slow machine is as fast as any visitor.
    """
    code = (
        "import json, re, socket, ssl\n"
        "context = ssl.create_default_context()\n"
        "context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n"
        "plain = socket.create_connection(('127.0.0.1', 443), 20, ({source!r}, 0))\n"
        "secure = context.wrap_socket(plain, server_hostname={domain!r})\n"
        "head = {method!r} + ' ' + {path!r} + ' HTTP/1.1\\r\\nHost: {domain}\\r\\n'\n"
        "head += 'Content-Length: 0\\r\\n'\n"
        "last = head + 'Connection: close\\r\\n\\r\\n'\n"
        "secure.sendall(((head + '\\r\\n') * ({times} - 1) + last).encode())\n"
        "said = b''\n"
        "while part := secure.recv(65536): said += part\n"
        "print(json.dumps([int(n) for n in re.findall(rb'HTTP/1.1 ([0-9]+) [A-Z]', said)]))"
    )

    def ask(source: str, method: str, path: str, times: int = 1) -> list[int]:
        asked = {"source": source, "method": method, "path": path, "times": times}
        filled = code.format(domain=variables["app_domain"], **asked)
        return json.loads(host.check_output("python3 -c %s", filled))

    return ask


@pytest.mark.spec("D7.2.3")
def test_the_pages_of_staff_are_for_their_networks_alone(from_here, variables):
    networks = variables["nginx_staff_networks"]
    inside = any(
        network == "all" or ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(network)
        for network in networks
    )
    paths = [*variables["nginx_staff_paths"], variables["nginx_flower_path"]]
    statuses = [status for path in paths for status in from_here("127.0.0.1", "GET", path)]
    if inside:
        assert 403 not in statuses
    else:
        assert set(statuses) == {403}
    assert from_here("127.0.0.1", "GET", "/") != [403]


def test_from_one_of_their_networks_they_ask_for_a_password(site, variables):
    for path in variables["nginx_staff_paths"]:
        assert site.request(path).status in (302, 404), path
    assert site.request(variables["nginx_flower_path"]).status == 401


def test_nobody_tries_passwords_as_fast_as_he_can(from_here, site, variables):
    """Whoever does is held up, by address; his other pages and everybody else's logins are not."""
    allowed = variables["nginx_login_per_minute"]
    (path,) = variables["nginx_login_paths"]
    statuses = from_here("127.0.0.77", "POST", path, allowed + 8)
    assert 429 not in statuses[: allowed + 1]
    assert statuses[-1] == 429
    assert from_here("127.0.0.77", "GET", "/") == [site.request("/").status]
    assert 429 not in from_here("127.0.0.78", "POST", path)


def test_nor_flowers_password(from_here, variables):
    at_once = 5 * variables["nginx_flower_per_second"]
    statuses = from_here("127.0.0.79", "GET", variables["nginx_flower_path"], 3 * at_once)
    assert statuses[-1] == 429
    assert 429 not in statuses[:at_once]


def test_no_header_tells_versions(site):
    assert site.request("/").header("Server") == "nginx"


@pytest.fixture
def static_file(site):
    """A static file that the front page links to."""
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', site.request("/").text)
    if not links:
        pytest.skip("the front page links to no static file")
    return links[0]


def test_static_files_are_served_with_a_long_life(site, static_file):
    answer = site.request(static_file)
    assert answer.status == 200
    assert "max-age=31536000" in ",".join(answer.all("Cache-Control"))


def test_a_static_file_that_is_not_there_is_404(site):
    assert site.request("/static/there-is-no-such.css").status == 404


@pytest.mark.parametrize(
    "path", ["/static../", "/static/../manage.py", "/static/%2e%2e/env", "/media/", "/static/"]
)
def test_neither_folders_nor_what_lies_above_them_are_shown(site, path):
    assert site.request(path).status in (400, 403, 404)


def test_the_media_folder_is_served_by_nginx(configuration, variables):
    """That a file in it arrives, an order shows (test_shop.py)."""
    if variables["celeriac_many_hosts"]:
        pytest.skip("the web servers' own nginx serves it (test_inner.py)")
    folder = variables["nginx_static"]["/media/"]
    assert f"alias {folder}/;" in configuration


@pytest.fixture(scope="module")
def configuration(host):
    """The configuration that nginx reads."""
    return host.check_output("nginx -T 2>/dev/null")


@pytest.mark.parametrize(
    "line",
    [
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header X-Forwarded-Proto https;",
    ],
)
def test_the_app_learns_of_upgrades_and_https(configuration, line):
    assert line in configuration


def test_an_upgrade_reaches_flower_as_one(site, variables):
    """Whoever gets it decides; a proxy that swallowed the header would make it a plain request."""
    answer = site.request(
        f"{variables['nginx_flower_path']}update-workers",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
        login=(variables["nginx_flower_user"], variables["nginx_flower_password"]),
    )
    assert answer.status in (101, 404)


def test_the_configuration_is_valid_and_in_use(host):
    assert host.run("nginx -t").rc == 0
    assert host.service("nginx").is_running
    assert host.service("nginx").is_enabled


def test_not_even_the_master_is_root(host):
    """It has what it needs of root alone: ports below 1024."""
    pid = host.check_output("systemctl show --value -p MainPID nginx")
    assert host.check_output(f"stat -c %U /proc/{pid}") == "www-data"
    assert host.check_output(f"grep ^CapEff /proc/{pid}/status").split()[1] == f"{1 << 10:016x}"


def test_logs_can_be_rotated(host):
    """As Debian's logrotate does it: new files, then a signal to the process of the pid file."""
    assert host.check_output("cat /run/nginx/nginx.pid") == host.check_output(
        "systemctl show --value -p MainPID nginx"
    )
    assert host.run("invoke-rc.d nginx rotate").rc == 0
    assert host.service("nginx").is_running
