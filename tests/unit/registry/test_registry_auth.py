from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import Forbidden, InvalidArgument
from berth.registry.auth import Challenge, parse_challenges, token_request
from berth.registry.credential import Credentials, credentials_of, decode_auth, decode_config, domain_of, for_domain
from berth.registry.endpoint import Endpoint, endpoint, endpoints, is_insecure, same_site
from berth.wire.image import AuthConfig

ME = Credentials(username="me", password="secret")


def test_challenges() -> None:
    found = parse_challenges(['Bearer realm="https://a/token",service="x \\"y\\"",scope="a b", Basic realm="z"', "Negotiate"])
    assert [challenge.scheme for challenge in found] == ["bearer", "basic", "negotiate"]
    assert found[0].parameters == {"realm": "https://a/token", "service": 'x "y"', "scope": "a b"}
    assert found[1].parameters == {"realm": "z"}


@given(st.text())
def test_any_challenge_header_is_survived(text: str) -> None:
    parse_challenges([text])


@pytest.mark.parametrize(
    ("registry", "realm", "same"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("ghcr.io", "ghcr.io", True),
        ("ghcr.io", "auth.ghcr.io", True),
        ("127.0.0.1:5000", "127.0.0.1:5001", True),
        ("registry.example.com", "evil.com", False),
        ("registry.example.com", "example.com.evil.com", False),
        ("registry.example.com", "evilexample.com", False),
        ("shop.co.uk", "evil.co.uk", False),
        ("registry.shop.co.uk", "auth.shop.co.uk", True),
        ("ghcr.io", "other.io", False),
        ("127.0.0.1:5000", "127.0.0.2:5000", False),
        ("localhost:5000", "127.0.0.1:5000", False),
        ("[::1]:5000", "[::1]:5001", True),
    ],
)
def test_who_may_get_the_credentials_of_a_registry(registry: str, realm: str, same: bool) -> None:
    assert same_site(registry, realm) is same


def test_tokens_are_asked_for_with_credentials_only_within_the_site() -> None:
    challenge = Challenge("bearer", {"realm": "https://auth.example.com/t", "service": "s", "scope": "repository:x:pull"})
    asked = token_request(challenge, Endpoint("registry.example.com"), ("repository:x:pull,push",), ME)
    assert asked.authorization == ME.basic and ("account", "me") in asked.query
    assert [value for key, value in asked.query if key == "scope"] == ["repository:x:pull,push", "repository:x:pull"]
    asked = token_request(challenge, Endpoint("registry.other.com"), (), ME)
    assert asked.authorization is None and ("account", "me") not in asked.query and asked.form is None
    identity = Credentials(identity_token="abc")
    form = token_request(challenge, Endpoint("registry.example.com"), (), identity).form
    assert form is not None and form["refresh_token"] == "abc"
    assert token_request(challenge, Endpoint("registry.other.com"), (), identity).form is None


@given(st.text() | st.builds("https://{}:{}/{}".format, st.text(max_size=8), st.text(max_size=5), st.text(max_size=5)))
def test_any_realm_is_usable_or_refused(realm: str) -> None:
    try:
        asked = token_request(Challenge("bearer", {"realm": realm}), Endpoint("registry.example.com"), (), ME)
    except Forbidden:
        return
    assert asked.url == realm and asked.url.isascii()


@pytest.mark.parametrize("realm", ["http://auth.example.com/", "ftp://x", "", "https://u:p@auth.example.com/", "/token"])
def test_odd_token_servers_are_refused(realm: str) -> None:
    with pytest.raises(Forbidden):
        token_request(Challenge("bearer", {"realm": realm}), Endpoint("registry.example.com"), (), ME)


def test_headers() -> None:
    def header(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    auth = decode_auth(header('{"username": "me", "password": "p?>", "email": "x", "unknown": [1]}'))
    assert auth is not None and credentials_of(auth) == Credentials(username="me", password="p?>")
    assert decode_auth(header("{}")) is None and decode_auth("") is None and decode_auth(header("null")) is None
    assert decode_auth(base64.b64encode(b'{"identitytoken": "??>>"}').decode()) is not None
    for wrong in ("%%%", header("[1]"), header("{"), "a" * 100_000):
        with pytest.raises(InvalidArgument):
            decode_auth(wrong)
    config = decode_config(
        header('{"https://index.docker.io/v1/": {"username": "hub"}, "https://host:5000": {"auth": "bWU6cA=="}}')
    )
    assert credentials_of(for_domain(config, "docker.io")).username == "hub"
    assert credentials_of(for_domain(config, "host:5000")) == Credentials(username="me", password="p")
    assert for_domain(config, "elsewhere") is None
    assert "secret" not in repr(ME) and domain_of("") == "docker.io"
    with pytest.raises(InvalidArgument):
        credentials_of(AuthConfig(auth="%%"))


def test_endpoints() -> None:
    assert endpoints("x.example.com", ("https://m",), ()) == [Endpoint("x.example.com")]
    mirrors = endpoints("docker.io", ("https://m.example.com/", "http://n:80", "localhost:1"), ())
    assert [(e.host, e.schemes, e.mirror) for e in mirrors] == [
        ("m.example.com", ("https",), True),
        ("n:80", ("http",), True),
        ("localhost:1", ("https", "http"), True),
        ("registry-1.docker.io", ("https",), False),
    ]
    assert endpoint("10.1.2.3:5000", ("10.0.0.0/8",)).schemes == ("https", "http")
    assert is_insecure("lan:5000", ("lan:5000",)) and is_insecure("lan:5000", ("lan",)) and is_insecure("[::1]:5", ())
    assert not is_insecure("lan:5000", ("lan:5001", "nonsense/x")) and not is_insecure("localhost.example.com", ())
    with pytest.raises(InvalidArgument):
        endpoints("docker.io", ("https://user@m/x",), ())
