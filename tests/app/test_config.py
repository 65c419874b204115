"""``router.toml``, ``conf.d`` and the environment: what becomes of every key, and what is said of mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from router.app.cli.starter import ROUTER_TOML
from router.app.config import Config, load_config
from router.app.config_model import LimitsModel, json_schema, parse_bind, parse_url
from router.errors import ConfigError
from router.model import Limits, SpoolSettings
from router.secret import SecretReference

ROOT = Path(__file__).resolve().parents[2]
TLS_FILES = "certificate = 'a', key = 'b', ca = 'c'"
DESTINATION = '[destinations.archive]\nurl = "file:archive"\n'


def config_of(folder: Path, text: str, env: Mapping[str, str] | None = None, **conf_d: str) -> Config:
    file = folder / "router.toml"
    file.write_text(text, "utf-8")
    for name, more in conf_d.items():
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / f"{name}.toml").write_text(more, "utf-8")
    return load_config(file, env or {})


def problems_of(folder: Path, text: str, env: Mapping[str, str] | None = None, **conf_d: str) -> list[str]:
    """With the folder's name left out."""
    with pytest.raises(ConfigError) as caught:
        config_of(folder, text, env, **conf_d)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def warnings_of(folder: Path, text: str, env: Mapping[str, str] | None = None) -> list[str]:
    return [warning.replace(f"{folder}/", "") for warning in config_of(folder, text, env).warnings]


# Values ----------------------------------------------------------------------------------------------------


def test_the_configuration_of_the_repository_is_right_and_says_nothing() -> None:
    config = load_config(ROOT / "router.toml", {})
    assert config.warnings == ()
    assert [(listener.name, listener.accept) for listener in config.listeners] == [("127.0.0.1:11112", "any")]
    assert [(one.name, one.kind, one.path) for one in config.destinations] == [
        ("archive", "file", str(ROOT / "var" / "archive"))
    ]
    assert (config.admin_host, config.admin_port) == ("127.0.0.1", 9180)
    assert config.rules_folder == ROOT / "rules"
    assert config.data_dir == ROOT / "var"


def test_who_can_call_is_known_where_not_anybody_can(tmp_path: Path) -> None:
    known = """
        [[listen]]
        bind = "127.0.0.1:1"
        [[listen]]
        bind = "127.0.0.1:2"
        ae_titles = ["A", "B"]
        [peers.ct]
        ae_title = "CT1"
        [peers.monitor]
        ae_title = "MON"
        store = false
    """
    arrivals = config_of(tmp_path, known).arrivals
    assert {key: set(names) for key, names in arrivals.items()} == {
        "Listener": {"127.0.0.1:1", "127.0.0.1:2"},
        "CallingAET": {"CT1"},
        "CalledAET": {"ROUTER", "A", "B"},
    }
    anybody = known.replace('"127.0.0.1:2"', '"127.0.0.1:2"\naccept = "any"').replace('["A", "B"]', '["*"]')
    assert set(config_of(tmp_path, anybody).arrivals) == {"Listener"}


def test_the_starter_configuration_is_right_and_says_nothing(tmp_path: Path) -> None:
    assert config_of(tmp_path, ROUTER_TOML).warnings == ()


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {})
    assert config.file is None
    assert config.listeners[0].name == "127.0.0.1:11112"
    assert config.limits == Limits()
    assert config.spool == SpoolSettings()
    (tmp_path / "router.toml").write_text('[node]\nname = "here"\n')
    assert load_config(None, {}).node == "here"


def test_every_key_arrives(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        """
        [node]
        name = "n"
        data_dir = "/srv/dicom"
        shutdown_grace = "1m"
        on_changed_duplicate = "hold"
        [[listen]]
        bind = "127.0.0.1:104"
        ae_titles = ["A", "B C"]
        max_pdu = 65536
        [[listen]]
        bind = "[::1]:0"
        ae_titles = ["*"]
        accept = "any"
        [peers.ct1]
        ae_title = "CT1"
        addresses = ["10.1.0.0/16", "fe80::1"]
        associations = 3
        store = false
        echo = false
        listeners = ["[::1]:0"]
        [destinations.pacs]
        url = "dicom://PACS%201@[2001:db8::1]:104"
        calling_ae_title = "ME"
        max_associations = 2
        max_pdu = 16384
        transfer_syntaxes = ["Implicit VR Little Endian", "1.2.840.10008.1.2.1"]
        connect_timeout = 1
        acse_timeout = "2s"
        response_timeout = "10m"
        release_timeout = 3.5
        idle_timeout = 4
        async_operations = 1
        duplicate_is_done = false
        [destinations.folder]
        url = "file:///srv/a%20b"
        [rules]
        path = "/etc/rules"
        on_no_match = "reject"
        [spool]
        url = "local"
        segment_size = "16MiB"
        spare_segments = 1
        reserve_associations = "1GB"
        reserve_objects = 5
        keep_delivered = "2d"
        keep_delivered_size = "1TiB"
        [ledger]
        url = "sqlite"
        [limits]
        object_size = "2GiB"
        idle_timeout = "90s"
        strict_pdu_length = false
        [admin]
        bind = "localhost:1"
        [log]
        format = "json"
        level = "debug"
        uids = "full"
        """,
    )
    assert (config.node, config.data_dir, config.shutdown_grace) == ("n", Path("/srv/dicom"), 60.0)
    assert config.on_changed_duplicate == "hold"
    first, second = config.listeners
    assert (first.host, first.port, first.ae_titles, first.accept, first.max_pdu) == (
        "127.0.0.1",
        104,
        ("A", "B C"),
        "known",
        65536,
    )
    assert (second.host, second.port, second.ae_titles, second.accept) == ("::1", 0, ("*",), "any")
    (peer,) = config.peers
    assert (peer.name, peer.ae_title, peer.addresses) == ("ct1", "CT1", ("10.1.0.0/16", "fe80::1"))
    assert (peer.associations, peer.store, peer.echo, peer.listeners) == (3, False, False, (second.name,))
    pacs, folder = config.destinations
    assert (pacs.kind, pacs.ae_title, pacs.host, pacs.port) == ("dicom", "PACS 1", "2001:db8::1", 104)
    assert (pacs.calling_ae_title, pacs.max_associations, pacs.max_pdu) == ("ME", 2, 16384)
    assert pacs.transfer_syntaxes == ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
    assert (pacs.connect_timeout, pacs.acse_timeout, pacs.response_timeout) == (1.0, 2.0, 600.0)
    assert (pacs.release_timeout, pacs.idle_timeout) == (3.5, 4.0)
    assert (pacs.async_operations, pacs.duplicate_is_done) == (1, False)
    assert (folder.kind, folder.path, folder.transfer_syntaxes) == ("file", "/srv/a b", None)
    assert (config.rules_folder, config.on_no_match) == (Path("/etc/rules"), "reject")
    assert config.spool == SpoolSettings(
        segment_size=16 << 20,
        spare_segments=1,
        reserve_associations=10**9,
        reserve_objects=5,
        keep_delivered=172800.0,
        keep_delivered_size=1 << 40,
    )
    assert config.limits == Limits(object_size=2 << 30, idle_timeout=90.0, strict_pdu_length=False)
    assert (config.admin_host, config.admin_port) == ("localhost", 1)
    assert (config.log_format, config.log_level, config.log_uids) == ("json", "debug", "full")


def test_every_limit_of_the_product_can_be_set() -> None:
    assert set(LimitsModel.model_fields) == {field.name for field in fields(Limits)}


# Mistakes --------------------------------------------------------------------------------------------------

MISTAKES = [
    ("[node]\nnmae = 'x'", '2:1: node.nmae: unknown key, did you mean "name"?'),
    ("[nodes]", '1:1: nodes: unknown key, did you mean "node"?'),
    ("[node]\nworkers = 0", "2:1: node.workers: must be greater than or equal to 1"),
    ("[node]\nworkers = 17", "2:1: node.workers: must be less than or equal to 16"),
    ("[node]\nworkers = '2'", "2:1: node.workers: must be a whole number, without quotes"),
    ("[node]\nname = 5", "2:1: node.name: must be a text, in quotes"),
    ("node = 5", "1:1: node: must be a table"),
    ("[node]\nshutdown_grace = 0", "2:1: node.shutdown_grace: must be greater than 0"),
    ("[node]\nshutdown_grace = inf", "2:1: node.shutdown_grace: must be a finite number"),
    (
        '[node]\nshutdown_grace = "soon"',
        '2:1: node.shutdown_grace: must be a duration such as "30d", "12h", "90m"',
    ),
    ("listen = []", "1:1: listen: must not be empty"),
    ("[[listen]]\naccept = 'any'", "1:1: listen.0.bind: is missing"),
    (
        "[[listen]]\nbind = '11112'",
        '2:1: listen.0.bind: "11112" should be like "0.0.0.0:11112" or "[::1]:11112"',
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'",
        "1:1: listen.0.tls: must be said for an address beyond loopback: { certificate, key, ca }, "
        'or tls = "off" (plain DICOM)',
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = { profile = 'bcp195' }",
        "3:1: listen.0.tls: a listener needs certificate and key",
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = 'on'",
        '3:1: listen.0.tls: must be "off", or { certificate = "...", key = "...", ca = "..." }',
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = { certificate = 'a', key = 'b' }",
        "3:1: listen.0.tls: ca is missing: who signs the certificates of peers; "
        'or client_certificates = "none" lets in any',
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = { certificate = 'a', ca = 'b' }",
        "3:1: listen.0.tls: certificate and key belong together: say both",
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = { certificate = 'a', key = 'b', ca = 'c', profile = 'tls10' }",
        '3:49: listen.0.tls.profile: "tls10" is no profile of PS3.15 Annex B, '
        'use one of "bcp195", "modified", "bcp195-nd", "bcp195-ex", "8996", "8996-mod"',
    ),
    (
        "[[listen]]\nbind = '0.0.0.0:1'\ntls = { certificate = 'a', key = 'b', ca = 'c', verify = false }",
        "3:49: listen.0.tls.verify: unknown key, use one of "
        "profile, certificate, key, key_password, ca, crl, client_certificates",
    ),
    (
        f"[[listen]]\nbind = '127.0.0.1:1'\ntls = {{ {TLS_FILES}, key_password = {{}} }}",
        "3:49: listen.0.tls.key_password: say env or file",
    ),
    (
        f"[[listen]]\nbind = '127.0.0.1:1'\ntls = {{ {TLS_FILES}, key_password = {{ env = 'A B' }} }}",
        "3:66: listen.0.tls.key_password.env: must be the name of an environment variable",
    ),
    (
        "[destinations.a]\nurl = 'dicoms://A@x:1'\ntls = { key_password = { env = 'A' } }",
        "3:1: destinations.a.tls: key_password has no use without key",
    ),
    (
        "[peers.a]\nae_title = 'A'\ncertificate = {}",
        "3:1: peers.a.certificate: say public_key_sha256 or san",
    ),
    (
        "[peers.a]\nae_title = 'A'\ncertificate = { san = ['a'] }",
        "3:1: peers.a.certificate: no listener that it may use asks for certificates: it could never call",
    ),
    (
        "[peers.a]\nae_title = 'A'\ncertificate = { public_key_sha256 = ['12'] }",
        "3:38: peers.a.certificate.public_key_sha256.0: must be the SHA-256 of a public key, 64 hexadecimal digits: "
        "openssl x509 -in FILE -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256",
    ),
    (
        "[[listen]]\nbind = '127.0.0.1:1'\nae_titles = ['A*']",
        '3:14: listen.0.ae_titles.0: "A*": name each AE title, or say ["*"] for any',
    ),
    (
        "[[listen]]\nbind = '127.0.0.1:1'\nae_titles = [' A']",
        '3:14: listen.0.ae_titles.0: " A" is no AE title: 1 to 16 characters, no backslash, no spaces at the ends',
    ),
    (
        "[[listen]]\nbind = '127.0.0.1:1'\n[[listen]]\nbind = '0.0.0.0:1'\ntls = 'off'",
        "4:1: listen.1.bind: is bound twice, also by 127.0.0.1:1",
    ),
    (
        "[[listen]]\nbind = '127.0.0.1:1'\naccept = 'anybody'",
        "3:1: listen.0.accept: must be 'known' or 'any'",
    ),
    (
        "[peers.a]\nae_title = 'CT*'",
        '2:1: peers.a.ae_title: "CT*": AE titles of peers have no wildcards; accept = "any" lets everybody call',
    ),
    (
        "[peers.a]\nae_title = 'A'\naddresses = ['10.1.2.3/16']",
        '3:1: peers.a.addresses: "10.1.2.3/16" is no address or network such as "10.1.0.0/16": '
        "10.1.2.3/16 has host bits set",
    ),
    (
        "[peers.a]\nae_title = 'A'\nlisteners = ['127.0.0.1:104']",
        '3:14: peers.a.listeners.0: "127.0.0.1:104" is no bind of a [[listen]], there are "127.0.0.1:11112"',
    ),
    (
        "[peers.a]\nae_title = 'A'\naddresses = ['10.1.0.0/16']\n[peers.b]\nae_title = 'A'\naddresses = ['10.1.2.3']",
        "4:1: peers.b: cannot be told from peers.a: AE title and addresses overlap",
    ),
    (
        '[peers."a b"]\nae_title = "A"',
        "1:1: peers.a b: a name has letters, digits, dots, hyphens and underscores only, "
        "and begins with a letter or digit",
    ),
    ("[destinations.a]\nmax_pdu = 16384", "1:1: destinations.a.url: is missing"),
    (
        "[destinations.a]\nurl = 'https://x/y'",
        '2:1: destinations.a.url: "https://x/y": this version delivers to dicom://, dicoms:// and file:// only',
    ),
    (
        "[destinations.a]\nurl = 'dicoms://A@x'",
        '2:1: destinations.a.url: "dicoms://A@x" should be like "dicoms://PACS@10.1.2.3:2762"',
    ),
    (
        "[destinations.a]\nurl = 'dicom://A@x:1'\ntls = {}",
        "1:1: destinations.a: tls is for dicoms://: say so in the url, or leave it out",
    ),
    (
        "[destinations.a]\nurl = 'dicoms://A@x:1'\ntls = { verify = false }",
        "3:9: destinations.a.tls.verify: unknown key, use one of "
        "profile, certificate, key, key_password, ca, crl, server_name, public_key_sha256",
    ),
    (
        "[destinations.a]\nurl = 'dicoms://A@x:1'\ntls = { server_name = 'y', public_key_sha256 = ['"
        + "0" * 64
        + "'] }",
        "3:1: destinations.a.tls: server_name has no use beside public_key_sha256: the key says who it is",
    ),
    (
        "[destinations.a]\nurl = 'dicom://x:104'",
        '2:1: destinations.a.url: "dicom://x:104" should be like "dicom://PACS@10.1.2.3:104"',
    ),
    (
        "[destinations.a]\nurl = 'dicom://A:secret@x:104'",
        '2:1: destinations.a.url: "dicom://A:...@x:104": '
        "there is no place for a password, only for an AE title before the @",
    ),
    (
        "[destinations.a]\nurl = 'file://var/x'",
        '2:1: destinations.a.url: "file://var/x" should be like "file:///srv/archive", or "file:folder" beside the '
        "configuration",
    ),
    (
        "[destinations.a]\nurl = 'file:x'\ntransfer_syntaxes = 'any'",
        '3:1: destinations.a.transfer_syntaxes: must be "as received", or a list of UIDs or names of transfer syntaxes',
    ),
    (
        "[destinations.a]\nurl = 'file:x'\ntransfer_syntaxes = ['JPEG2000Losless']",
        '3:1: destinations.a.transfer_syntaxes: unknown transfer syntax "JPEG2000Losless", '
        'did you mean "JPEG2000Lossless"?',
    ),
    (
        "[ledger]\nurl = 'postgresql://x'",
        '2:1: ledger.url: this version keeps its ledger in SQLite only: url = "sqlite"',
    ),
    ("[spool]\nurl = 's3://x'", '2:1: spool.url: this version keeps its spool on local disk only: url = "local"'),
    (
        "[limits]\nobject_size = '8 gigs'",
        '2:1: limits.object_size: must be a number of bytes, or a text such as "10MiB"',
    ),
    ("[limits]\nwindow = true", "2:1: limits.window: must be a whole number, without quotes"),
    (
        "[limits]\nobject_memory = '128MiB'",
        "1:1: limits: ingest_memory must hold at least four objects of object_memory",
    ),
    (
        "[admin]\nbind = '0.0.0.0:9180'",
        "2:1: admin.bind: must be a loopback address: this version has no accounts; put a proxy that authenticates in "
        "front",
    ),
    ("[admin]\nbind = '127.0.0.1:11112'", "2:1: admin.bind: is the bind of a [[listen]] too"),
    ("[rules]\non_no_match = 'drop'", "2:1: rules.on_no_match: must be 'hold', 'reject' or 'discard'"),
    ("[node]\nname = 'a'\nname = 'b'", "3:11: cannot overwrite a value"),
    ("[node]\nname = [1", "2:10: unclosed array"),
    ("x = " + "[" * 5000, "1:1: is nested too deep"),
]


@pytest.mark.parametrize(("text", "problem"), MISTAKES, ids=[problem for _, problem in MISTAKES])
def test_the_operator_reads(text: str, problem: str, tmp_path: Path) -> None:
    assert problems_of(tmp_path, text) == [f"router.toml:{problem}"]


@pytest.mark.parametrize(
    "value", ['"hunter2"', '["hunter2"]', "20260727", '{ value = "hunter2" }', '{ env = "hunter2 7" }', '"""hunter2']
)
def test_what_may_be_a_secret_is_never_repeated(value: str, tmp_path: Path) -> None:
    tls = f"[[listen]]\nbind = '127.0.0.1:1'\ntls = {{ {TLS_FILES}, key_password = {value} }}"
    variable = {"DICOM_ROUTER__LISTEN__0__TLS__KEY_PASSWORD": value}
    told = problems_of(tmp_path, tls)
    told += problems_of(tmp_path, f"[[listen]]\nbind = '127.0.0.1:1'\ntls = {{ {TLS_FILES} }}", variable)
    assert len(told) >= 2
    assert "hunter2" not in str(told)
    assert "20260727" not in str(told)


@pytest.mark.parametrize(
    "url",
    [
        "dicom://PACS:hunter2@h:104",
        "dicom://PACS:hun@ter2@h:104",
        "dicom://PACS:hunter2/x@h:104",
        "dicom://PACS:hunter2@h:port",
        "dicom://PACS:hunter2@[h:104",
        "https://user:hunter2@h/studies?x",
        "s3://key:hunter2@bucket",
        "file://user:hunter2@h/folder",
    ],
)
def test_a_password_in_a_url_is_never_repeated(url: str, tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, f"[destinations.a]\nurl = '{url}'")
    assert "destinations.a.url" in problem
    (collector,) = problems_of(tmp_path, f"[audit]\nto = '{url}'")
    assert "audit.to" in collector
    assert "hun" not in problem + collector
    assert "ter2" not in problem + collector


def test_secrets_arrive_as_references(tmp_path: Path) -> None:
    tls = "[[listen]]\nbind = '127.0.0.1:1'\ntls = {{ {}, key_password = {} }}"
    by_env = config_of(tmp_path, tls.format(TLS_FILES, "{ env = 'KEY_PW' }"), {"KEY_PW": "hunter2"})
    by_file = config_of(tmp_path, tls.format(TLS_FILES, "{ file = 'secrets/key' }"))
    assert [_password(by_env), _password(by_file)] == [
        SecretReference(env="KEY_PW"),
        SecretReference(file=str(tmp_path / "secrets" / "key")),
    ]
    assert "hunter2" not in repr(by_env)


def _password(config: Config) -> SecretReference | None:
    (listener,) = config.listeners
    assert listener.tls is not None
    return listener.tls.key_password


def test_every_problem_comes_in_one_run_from_top_to_bottom(tmp_path: Path) -> None:
    text = (
        "[node]\nnmae = 1\n[limits]\nwindow = 0\n[[listen]]\nbind = 'x'\n"
        "[destinations.a]\nurl = 'x'\n[admin]\nbnd = 1\n"
    )
    places = [problem.split(": ")[:2] for problem in problems_of(tmp_path, text)]
    assert places == [
        ["router.toml:2:1", "node.nmae"],
        ["router.toml:4:1", "limits.window"],
        ["router.toml:6:1", "listen.0.bind"],
        ["router.toml:8:1", "destinations.a.url"],
        ["router.toml:10:1", "admin.bnd"],
    ]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    def problem(content: bytes | None) -> str:
        file = tmp_path / "x.toml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_config(file, {})
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert problem(None) == "x.toml:1:1: cannot be read: No such file or directory"
    assert problem(b"[node]\nname = '\xfc'") == "x.toml:1:1: not UTF-8 at byte 15"
    assert problem(b"#" * ((4 << 20) + 1)) == "x.toml:1:1: larger than 4 MiB"


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_bytes(b'\xef\xbb\xbf[node]\r\nname = "w"\r\n')
    assert load_config(tmp_path / "router.toml", {}).node == "w"


WARNINGS = [
    (
        DESTINATION + "[[listen]]\nbind = '0.0.0.0:1'\ntls = 'off'\naccept = 'any'",
        'router.toml:6:1: listen.0.accept: "any" on 0.0.0.0:1: whoever reaches this port may send',
    ),
    (
        DESTINATION + "[[listen]]\nbind = '127.0.0.1:1'",
        'no [peers] are configured and accept = "known": nobody may send',
    ),
    (
        DESTINATION + "[[listen]]\nbind = '0.0.0.0:1'\ntls = 'off'\n[peers.a]\nae_title = 'A'",
        "router.toml:6:1: peers.a: has no addresses: whoever calls itself A may send from anywhere",
    ),
    ("", "no [destinations] are configured: nothing is delivered"),
    (
        DESTINATION + "[destinations.again]\nurl = 'file:archive'",
        "router.toml:4:1: destinations.again.url: is the place of destinations.archive too",
    ),
    (
        "[destinations.me]\nurl = 'dicom://ROUTER@localhost:11112'",
        "router.toml:2:1: destinations.me.url: is this router itself (127.0.0.1:11112): objects would go round",
    ),
    (
        "[node]\nworkers = 4\n[destinations.a]\nurl = 'dicom://A@b:104'\nmax_associations = 2",
        "router.toml:5:1: destinations.a.max_associations: is less than node.workers: each worker may open one, "
        "so there may be 4",
    ),
]


@pytest.mark.parametrize(("text", "warning"), WARNINGS, ids=[warning for _, warning in WARNINGS])
def test_the_operator_is_warned(text: str, warning: str, tmp_path: Path) -> None:
    assert warnings_of(tmp_path, text) == [warning]


def test_peers_with_one_ae_title_are_told_apart_by_address_or_listener(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        DESTINATION + "[peers.a]\nae_title = 'A'\naddresses = ['10.1.0.0/16', '::1']\n"
        "[peers.b]\nae_title = 'A'\naddresses = ['10.2.0.0/16']\n",
    )
    assert [peer.name for peer in config.peers] == ["a", "b"]


# conf.d ----------------------------------------------------------------------------------------------------


def test_files_of_conf_d_add_tables_and_listeners(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        DESTINATION + "[[listen]]\nbind = '127.0.0.1:1'\n[node]\nname = 'n'\n",
        a="[destinations.pacs]\nurl = 'dicom://P@h:1'\n[limits]\nwindow = 5\n[node]\ndata_dir = 'd'\n",
        b="[[listen]]\nbind = '127.0.0.1:2'\naccept = 'any'\n[peers.a]\nae_title = 'A'\n",
    )
    assert [destination.name for destination in config.destinations] == ["archive", "pacs"]
    assert [listener.port for listener in config.listeners] == [1, 2]
    assert (config.node, config.data_dir, config.limits.window) == ("n", tmp_path / "d", 5)


def test_what_two_files_say_is_a_problem(tmp_path: Path) -> None:
    assert problems_of(
        tmp_path,
        DESTINATION + "[node]\nname = 'n'",
        a="node = { name = 'm' }\n[destinations.archive]\nmax_pdu = 16384\n",
        b="destinations = 5\n",
    ) == [
        "conf.d/a.toml:1:10: node.name: is said twice, also at router.toml:4",
        "conf.d/a.toml:2:1: destinations.archive: is said twice, also at router.toml:1",
        "conf.d/b.toml:1:1: destinations: is said twice, also at router.toml:1",
    ]


def test_a_problem_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    assert problems_of(
        tmp_path,
        "[[listen]]\nbind = '127.0.0.1:1'\n",
        a="[[listen]]\nbind = 'x'\n",
        b="[limits]\nwindow = 0\n",
    ) == [
        'conf.d/a.toml:2:1: listen.1.bind: "x" should be like "0.0.0.0:11112" or "[::1]:11112"',
        "conf.d/b.toml:2:1: limits.window: must be greater than or equal to 1",
    ]


# Environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("NODE__NAME", "n-2", "node", "n-2"),
        ("NODE__NAME", "2026-01-01", "node", "2026-01-01"),
        ("NODE__NAME", "5", "node", "5"),
        ("NODE__NAME", '"quoted"', "node", "quoted"),
        ("node__name", "lower", "node", "lower"),
        ("NODE__SHUTDOWN_GRACE", "5", "shutdown_grace", 5.0),
        ("NODE__SHUTDOWN_GRACE", "5m", "shutdown_grace", 300.0),
        ("LOG__LEVEL", "debug", "log_level", "debug"),
    ],
)
def test_a_variable_overrides_a_key(name: str, value: str, attribute: str, expected: object, tmp_path: Path) -> None:
    text = DESTINATION + "[node]\nname = 'n'\n"
    assert getattr(config_of(tmp_path, text, {f"DICOM_ROUTER__{name}": value}), attribute) == expected


def test_variables_reach_into_peers_destinations_and_listeners(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "[destinations.PACS-1]\nurl = 'dicom://P@h:1'\n[[listen]]\nbind = '127.0.0.1:1'\n",
        {
            "DICOM_ROUTER__DESTINATIONS__PACS_1__URL": "dicom://P@other:2",
            "DICOM_ROUTER__DESTINATIONS__VNA__URL": "file:vna",
            "DICOM_ROUTER__LISTEN__0__AE_TITLES": '["X"]',
            "DICOM_ROUTER__PEERS__CT__AE_TITLE": "123",
        },
    )
    assert [(one.name, one.host, one.kind) for one in config.destinations] == [
        ("PACS-1", "other", "dicom"),
        ("vna", "", "file"),
    ]
    assert config.listeners[0].ae_titles == ("X",)
    assert config.peers[0].ae_title == "123"


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"NODE__NMAE": "x"}, 'DICOM_ROUTER__NODE__NMAE: node.nmae: unknown key, did you mean "name"?'),
        (
            {"LIMITS__WINDOW": "many"},
            "DICOM_ROUTER__LIMITS__WINDOW: limits.window: must be a whole number, without quotes",
        ),
        (
            {"LISTEN__7__BIND": "x:1"},
            "DICOM_ROUTER__LISTEN__7__BIND: listen.7: there is no such table or element to override",
        ),
        (
            {"NODE__NAME__X": "x"},
            "DICOM_ROUTER__NODE__NAME__X: node.name.x: there is no such key or element to override",
        ),
        ({"NODE": "x"}, "DICOM_ROUTER__NODE: node: must be a table"),
    ],
)
def test_a_variable_that_overrides_nothing_is_a_problem(
    variables: dict[str, str], problem: str, tmp_path: Path
) -> None:
    text = "[node]\nname = 'n'\n[[listen]]\nbind = '127.0.0.1:1'\n"
    env = {f"DICOM_ROUTER__{name}": value for name, value in variables.items()}
    assert problems_of(tmp_path, text, env) == [problem]


def test_a_variable_that_was_meant_to_override_is_mentioned(tmp_path: Path) -> None:
    env = {"DICOM_ROUTER_NODE__NAME": "x", "DICOM_ROUTER_CONFIG": "x", "DICOM_ROUTER_URL": "x", "PATH": "x"}
    assert warnings_of(tmp_path, DESTINATION, env) == [
        "DICOM_ROUTER_NODE__NAME: is not used; an override has two underscores, DICOM_ROUTER__SECTION__KEY"
    ]


# Pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:11112", ("127.0.0.1", 11112)),
        (":104", ("0.0.0.0", 104)),  # noqa: S104 (parsed, not bound)
        ("[::]:0", ("::", 0)),
        ("ct.example.org:65535", ("ct.example.org", 65535)),
    ],
)
def test_a_bind(text: str, expected: tuple[str, int]) -> None:
    assert parse_bind(text) == expected


@pytest.mark.parametrize("text", ["", "104", "h:", "h:65536", "::1:104", "h:1o4", "a b:1", "h:١", "http://h:1"])
def test_what_is_no_bind(text: str) -> None:
    with pytest.raises(ValueError, match="should be like"):
        parse_bind(text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "PACS@h:104",
        "dicom://PACS@h",
        "dicom://@h:104",
        "dicom://PACS@:104",
        "dicom://PACS@h:0",
        "dicom://PACS@h:70000",
        "dicom://PACS@h:104/path",
        "dicom://PACS@h:104#x",
        "dicom://A_TITLE_THAT_IS_LONG@h:104",
        "dicom://A%5CB@h:104",
        "file://",
        "file:x?y",
        "s3://bucket/x",
        "dicom://P@[::1:104",
    ],
)
def test_what_is_no_url_of_a_destination(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    silent = [
        f"{name}.{key}"
        for name, table in {"": schema, **schema["$defs"]}.items()
        for key, entry in table.get("properties", {}).items()
        if not entry.get("description")
    ]
    assert silent == []


def test_every_limit_says_its_default() -> None:
    limits = json_schema()["$defs"][LimitsModel.__name__]["properties"]
    assert [name for name, entry in limits.items() if "efault " not in entry["description"]] == []
    assert limits.keys() == LimitsModel.model_fields.keys()
