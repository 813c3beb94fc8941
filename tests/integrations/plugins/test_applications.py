# SPDX-License-Identifier: MIT
"""Real applications and networks: pytest-flask, pytest-django, pytest-httpserver, pytest-socket."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    differences,
    run_parity,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

# pytest-flask ------------------------------------------------------------------------------------

FLASK = {
    "shop.py": """
        import os
        from flask import Flask, jsonify, request, url_for

        def create_app():
            app = Flask(__name__)
            app.config["TESTING"] = True
            stock = {"apples": 3}

            @app.get("/stock/<name>")
            def show(name):
                return jsonify(name=name, count=stock.get(name, 0), pid=os.getpid())

            @app.post("/stock/<name>")
            def add(name):
                stock[name] = stock.get(name, 0) + request.json["count"]
                return jsonify(count=stock[name])
            return app
    """,
    "conftest.py": """
        import multiprocessing
        import pytest
        from shop import create_app
        # Its live server is a local function, which Python 3.14's default does not take.
        multiprocessing.set_start_method("fork")
        @pytest.fixture(scope="session")
        def app(): return create_app()
    """,
    "test_shop.py": """
        import json, os, urllib.request
        import pytest
        from flask import url_for, request

        def test_shows(client):
            answer = client.get(url_for("show", name="apples"))
            assert answer.status_code == 200 and answer.json["count"] == 3
        def test_context_is_pushed(app): assert request.path == "/"
        @pytest.mark.options(debug=True)
        def test_options(app): assert app.debug
        @pytest.mark.usefixtures("client_class")
        class TestClass:
            def test_client(self): assert self.client.get("/nowhere").status_code == 404
        def test_json(client, accept_json):
            assert client.get("/stock/pears", headers=accept_json).json["count"] == 0
        def test_fails(client): assert client.get("/stock/apples").json["count"] == 4
    """,
    "test_more.py": """
        import json, os, urllib.error, urllib.request
        import pytest
        pytestmark = pytest.mark.isolated

        def get(server):
            with urllib.request.urlopen(server.url("/stock/apples"), timeout=10) as answer:
                return json.load(answer)

        @pytest.mark.parametrize("again", [1, 2])
        def test_state_is_fresh(client, again):
            # The application is the session's, and each test has a copy of it.
            assert client.post("/stock/apples", json={"count": 1}).json["count"] == 4
        @pytest.mark.isolated(inside={"live_server"})
        def test_live_server_inside(live_server): assert get(live_server)["count"] == 3
        @pytest.mark.isolated(False)
        def test_live_server_of_the_runner(live_server): assert get(live_server)["count"] == 3
        def test_live_server_out_of_reach(live_server):
            with pytest.raises(urllib.error.URLError, match="refused"): get(live_server)
        @pytest.mark.isolated(net=False)
        def test_live_server_in_reach(live_server): assert get(live_server)["pid"] != 1
    """,
}


@needs("pytest-flask")
def test_flask_application(tmp_path: Path) -> None:
    """A real application: its client, contexts and options, and a live server on either side."""
    options = ("-p", "pytest_flask.plugin")
    write_files(tmp_path, FLASK)
    plain, isolated = run_parity(tmp_path, *options, "test_shop.py")
    assert differences(plain, isolated) == []
    assert isolated.summary == "1 failed, 5 passed", isolated.text
    marked = run_suite(tmp_path, *options, "test_more.py")
    assert marked.summary == "6 passed", marked.text


# pytest-django -----------------------------------------------------------------------------------

DJANGO = {
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = site_settings\npythonpath = .\n",
    "site_settings.py": """
        SECRET_KEY = "x"
        INSTALLED_APPS = [f"django.contrib.{name}" for name in ("contenttypes", "auth", "sessions")]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        ROOT_URLCONF = "site_urls"
        USE_TZ = True
        PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    """,
    "site_urls.py": """
        from django.contrib.auth.models import User
        from django.http import JsonResponse
        from django.urls import path
        def count(request): return JsonResponse({"users": User.objects.count()})
        urlpatterns = [path("users/", count)]
    """,
    "test_database.py": """
        import pytest
        from django.contrib.auth.models import User
        from journal import note
        pytestmark = [pytest.mark.isolated, pytest.mark.django_db]
        @pytest.fixture(scope="session")
        def django_db_modify_db_settings(): note("database")
        def use():
            User.objects.create_user("zoe")
            assert User.objects.count() == 1
        @pytest.mark.parametrize("again", [1, 2])
        def test_own_database(again): use()
        @pytest.mark.usefixtures("django_db_setup")
        @pytest.mark.parametrize("again", [1, 2])
        def test_database_of_the_session(again): use()
    """,
    "test_site.py": """
        import pytest
        from django.contrib.auth.models import User
        from django.core import mail
        from django.test import TestCase

        @pytest.mark.django_db
        @pytest.mark.parametrize("again", [1, 2])
        def test_a_user(client, again):
            User.objects.create_user("ann")
            assert client.get("/users/").json() == {"users": 1}
        def test_no_database(client): User.objects.count()
        @pytest.mark.django_db(transaction=True)
        def test_transaction(django_user_model):
            django_user_model.objects.create_user("bob")
            assert django_user_model.objects.count() == 1
        def test_settings(settings):
            settings.USE_TZ = False
            from django.conf import settings as real
            assert real.USE_TZ is False
        def test_mail(mailoutbox):
            mail.send_mail("s", "body", "a@example.org", ["b@example.org"])
            assert [message.subject for message in mailoutbox] == ["s"]
        def test_queries(db, django_assert_num_queries):
            with django_assert_num_queries(2): User.objects.count()
        def test_admin(admin_client): assert admin_client.get("/users/").json() == {"users": 1}
        class TestUsers(TestCase):
            @classmethod
            def setUpTestData(cls): cls.user = User.objects.create_user("eve")
            def test_one(self): self.assertEqual(User.objects.get(), self.user)
            def test_two(self):
                self.user.delete()
                self.assertFalse(User.objects.exists())
    """,
}


@needs("pytest-django", "django")
def test_django_site(tmp_path: Path) -> None:
    """A real site with a database in memory: transactions, the client, TestCase classes."""
    write_files(tmp_path, DJANGO)
    options = ("-p", "pytest_django.plugin", "--no-migrations")
    plain, isolated = run_parity(tmp_path, *options, "test_site.py")
    assert plain.summary.startswith("2 failed, 8 passed"), plain.text  # newer Djangos warn
    assert differences(plain, isolated) == []
    assert "Database access not allowed" in isolated.failure("test_no_database")
    inside = run_suite(tmp_path, *options, "test_database.py")
    assert inside.summary == "4 passed", inside.text
    # pytest-django asks for the database while the test is being set up, unless the test does.
    assert inside.journal == ["child database", "child database", "runner database"]


# pytest-httpserver, requests-mock ----------------------------------------------------------------


@needs("pytest-httpserver", "requests-mock")
def test_servers_inside_and_mocked_requests(tmp_path: Path) -> None:
    """The server of the session is out of reach, as any is; its own fixture works inside."""
    result = run_source(
        tmp_path,
        """
        import pytest, requests
        pytestmark = pytest.mark.isolated
        def get(server): return requests.get(server.url_for("/x"), timeout=10).json()
        @pytest.mark.isolated(inside={"make_httpserver"})
        @pytest.mark.parametrize("n", [1, 2])
        def test_server(httpserver, n):
            httpserver.expect_request("/x").respond_with_json({"n": n})
            assert get(httpserver) == {"n": n}
            httpserver.check_assertions()
        def test_of_the_session(httpserver):
            httpserver.expect_request("/x").respond_with_json({})
            with pytest.raises(requests.ConnectionError): get(httpserver)
        def test_mock(requests_mock):
            requests_mock.get("http://example.org/x", json={"mocked": True})
            assert requests.get("http://example.org/x").json() == {"mocked": True}
            assert requests_mock.called_once
        """,
        *("-p", "pytest_httpserver.pytest_plugin", "-p", "requests_mock.contrib._pytest_plugin"),
    )
    assert result.summary == "4 passed", result.text


# pytest-socket -----------------------------------------------------------------------------------

SOCKETS = """
import socket, pytest
def connect(address=("127.0.0.1", 9)):
    with socket.socket() as s: s.connect(address)
@pytest.mark.disable_socket
def test_disabled(): connect()
def test_after_a_disabled_one():
    with pytest.raises(ConnectionRefusedError): connect()
def test_fixture(socket_disabled):
    import pytest_socket
    with pytest.raises(pytest_socket.SocketBlockedError): connect()
@pytest.mark.enable_socket
def test_enabled():
    with pytest.raises(ConnectionRefusedError): connect()
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_allowed():
    with pytest.raises(ConnectionRefusedError): connect()
@pytest.mark.allow_hosts(["127.0.0.2"])
def test_not_allowed(): connect()
def test_last(): assert socket.socket.__name__ in ("socket", "GuardedSocket")
"""


@needs("pytest-socket")
def test_sockets_are_forbidden_as_in_a_plain_run(tmp_path: Path) -> None:
    """The guard holds in the test, not for the plugin's own sockets, and ends with the test."""
    write_files(tmp_path, {"test_it.py": SOCKETS})
    plain, isolated = run_parity(tmp_path, "-p", "pytest_socket")
    assert plain.summary.startswith("2 failed, 5 passed"), plain.text
    assert differences(plain, isolated) == []
    assert "A test tried to use socket.socket" in isolated.failure("test_disabled")
    everything = run_suite(tmp_path, "-p", "pytest_socket", "--disable-socket", "--nsisolate=all")
    assert everything.summary.startswith("3 failed, 4 passed"), everything.text
    assert "socketpair" not in everything.text


@needs("pytest-socket")
def test_the_guard_of_an_isolated_test_ends_with_it(tmp_path: Path) -> None:
    """A plain test after it has its sockets, in the same runner."""
    source = SOCKETS.replace(
        "@pytest.mark.disable_socket\n", "@pytest.mark.disable_socket\n@pytest.mark.isolated\n"
    )
    result = run_source(tmp_path, source, "-p", "pytest_socket", "-k", "disabled")
    assert "1 failed, 1 passed" in result.summary, result.text
