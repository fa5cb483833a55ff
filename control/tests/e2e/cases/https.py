"""HTTPS checks against a TLS server with several certificates."""
import time

from cases.health import expect
from lab import check, run, wait_for

SERVICE = """
[[service]]
protocol = "tcp"
address = "10.1.0.100"
port = 80
scheduler = "rr"

[[service.server]]
address = "{addr}"
method = "nat"

[[service.server.check]]
type = "https"
port = 8443
delay_loop = "100ms"
delay_before_retry = "50ms"
warmup = "0s"
timeout = "3s"
retry = 0
{extra}
"""

GOOD, EXPIRED, OTHER = "good.example.test", "expired.example.test", "other.example.test"


def certificates(lab, *more):
    """An authority, and certificates by it: good (and for the names in `more`), expired (valid for no time at all), and by
    nobody."""
    directory = lab.dir / "tls"
    directory.mkdir()
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split()

    def openssl(*words):
        run(["openssl", *words], 30)

    openssl("req", "-x509", *key, "-keyout", directory / "ca.key", "-out", directory / "ca.pem", "-days", "2",
            "-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE")
    ours = ["-CA", directory / "ca.pem", "-CAkey", directory / "ca.key", "-CAcreateserial"]
    for name, days, by in ((GOOD, "1", ours), (EXPIRED, "0", ours), (OTHER, "1", ["-signkey", directory / f"{OTHER}.key"]),
                           *((name, "1", ours) for name in more)):
        openssl("req", *key, "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "names").write_text(f"subjectAltName=DNS:{name}\n")
        openssl("x509", "-req", "-in", directory / f"{name}.csr", *by, "-out", directory / f"{name}.pem", "-days", days,
                "-extfile", directory / "names")
    return directory


def test_certificates_names_and_pages(lab):
    """SNI, verification by a CA file, an expired certificate, another name, HTTP versions, several pages, digest."""
    directory = certificates(lab)
    one = lab.servers[0]
    server = lab.peer(one, "tls.py", 8443, directory, GOOD, EXPIRED, OTHER)
    verify = f'verify = true\nca_file = "{directory}/ca.pem"\n'
    lab.start(services=SERVICE.format(addr=one.addr, extra=f'sni = "{GOOD}"\nregex = "^hello {GOOD}"\n{verify}'))
    expect(lab, one, "up", "https up")
    text = lab.config.read_text()
    before = text[:text.index("sni = ")]

    def again(extra, state, word):
        lab.config.write_text(before + extra)
        lab.adm("reload")
        expect(lab, one, state, word)
    again(f'sni = "{EXPIRED}"\n{verify}', "down", "TLS: the certificate has expired")
    again(f'sni = "{EXPIRED}"\nregex = "{EXPIRED}"\n', "up", "https up")
    again(f'sni = "{OTHER}"\n{verify}', "down", "TLS: the certificate is from an unknown authority")
    again(f'host = "nosuch.example.test"\n{verify}', "down", "TLS: the certificate is for another name")
    # The virtual host is the server name, too; two pages, each on a connection of its own.
    again(f'host = "{GOOD}"\nhttp_version = "1.1"\npaths = ["/", "/more"]\n{verify}', "up", "https up")
    again(f'host = "{GOOD}"\npaths = ["/", "/nosuch"]\n', "down", "status 404 for /nosuch")
    digest = run(["sh", "-c", f"printf 'hello {GOOD}\\n' | md5sum"]).stdout.split()[0]
    again(f'host = "{GOOD}"\ndigest = "{digest}"\n', "up", "https up")
    again(f'host = "{GOOD}"\ndigest = "{"0" * 32}"\n', "down", "digest")
    # No name is asked for if there is none; the address is not in the certificate.
    again('regex = "hello nobody"\n', "up", "https up")
    again(verify, "down", "TLS: the certificate is for another name")
    again(f'host = "{GOOD}"\n', "up", "https up")
    server.stop()
    expect(lab, one, "down", "connection refused")
    check("panicked" not in lab.rvsd.output(), "rvsd panicked")


def test_a_server_that_asks_for_a_certificate(lab):
    """It gets ours; without one, or with one of nobody's, or a file that cannot be read, the log says why."""
    directory = certificates(lab)
    one = lab.servers[0]
    lab.peer(one, "tls.py", 8443, directory, GOOD, "--ask")
    ours = f'cert_file = "{directory}/{{0}}.pem"\nkey_file = "{directory}/{{1}}.key"\n'
    host = f'host = "{GOOD}"\n'
    lab.start(services=SERVICE.format(addr=one.addr, extra=host + ours.format(GOOD, GOOD)))
    expect(lab, one, "up", "https up")
    text = lab.config.read_text()
    before = text[:text.index("host = ")]

    def again(extra):
        lab.config.write_text(before + host + extra)
        lab.adm("reload")
    again("")
    expect(lab, one, "down", "TLS: ")
    again(ours.format(GOOD, GOOD))
    expect(lab, one, "up", "https up")
    again(ours.format(OTHER, OTHER))
    expect(lab, one, "down", "TLS: ")
    # What is wrong with us says nothing about the server: it is told, and nothing is known of it.
    again(ours.format(GOOD, OTHER))
    wait_for("the log to say it", lambda: "they do not belong together" in lab.rvsd.output())
    again(ours.format("nosuch", GOOD))
    missing = "nosuch.pem cannot be read: No such file"
    wait_for("the log to say it", lambda: missing in lab.rvsd.output())
    # Ten attempts a second.
    time.sleep(0.5)
    check(lab.rvsd.output().count(missing) == 1, "it says the same with each attempt")
    again(ours.format(GOOD, GOOD))
    expect(lab, one, "up", "https up")


def test_a_server_that_speaks_no_tls(lab):
    """An answer in the clear, silence after the hello, an end in the middle of the handshake; a CA file that is not there."""
    one = lab.servers[0]
    how = lab.dir / "how"
    how.write_text("wrong")
    lab.peer(one, "faulty.py", "http", 8443, how)
    lab.start(services=SERVICE.format(addr=one.addr, extra="").replace('"3s"', '"500ms"'))
    for way, word in (("wrong", "the answer is no TLS"), ("hang", "TLS session in time"), ("half", "TLS"), ("drip", "TLS")):
        how.write_text(way)
        expect(lab, one, "down", word)
    text = lab.config.read_text()
    lab.config.write_text(text + 'verify = true\nca_file = "/nonexistent/ca.pem"\n')
    lab.adm("reload")
    # Nothing is known of the server then, and so nothing speaks against it.
    expect_log = "ca_file /nonexistent/ca.pem cannot be read: No such file"
    wait_for("the log to say it", lambda: expect_log in lab.rvsd.output())
    check(lab.adm_quiet("health").count("not checked") >= 1, lab.adm_quiet("health"))
