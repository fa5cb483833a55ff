"""What virtual routers tell: scripts in their order, pipes, the stream of events."""
import json
import os
import subprocess

from cases.https import certificates
from cases.vrrp_pair import prepared
from lab import BIN, check, need_programs, wait_for
from pair import instance

HEAD = '[scripts]\nuser = "root"\nsecure = false\n[notify]\npriority_changes = true\n[notify.fifo]\nall = "{dir}/all"\nvrrp = "{dir}/vrrp"\n'
STATES = ("master", "backup", "fault", "stop", "deleted")


def table(kind, path, of):
    keys = "".join(f'{state} = ["{path}", "{of}:{state}"]\n' for state in STATES)
    return f'[vrrp.{kind}.notify]\n{keys}any = ["{path}", "{of}:any"]\n'


class Ear:
    """What scripts of a node wrote, and a reader of its pipe that is a process of its own, as keepalived's are."""

    def __init__(self, lab, node):
        self.out = lab.dir / f"{node.name}.out"
        self.out.touch()
        self.script = lab.dir / f"{node.name}.sh"
        # What is not run in order is written in another: the specific ones take longer.
        self.script.write_text(f'#!/bin/sh\ncase "$1" in *:any) ;; *) sleep 0.2;; esac\necho "$@" >> {self.out}\n')
        self.script.chmod(0o755)
        self.pipes = lab.dir / node.name
        self.pipes.mkdir()

    def read(self, lab, node):
        """Starts the reader of the pipe."""
        self.heard = lab.dir / f"{node.name}.fifo"
        return node.space.spawn(["sh", "-c", f"while read -r line; do echo \"$line\" >> {self.heard}; done < {self.pipes}/vrrp"], f"reader.{node.name}")

    def told(self):
        return self.out.read_text().splitlines()

    def piped(self):
        return self.heard.read_text().splitlines() if self.heard.exists() else []


@prepared(servers=0)
def test_routers_tell(lab, a, b):
    """master, backup, fault, stop and deleted: scripts with keepalived's arguments, FIFO lines and events, each in order."""
    ear = Ear(lab, a)
    flag = lab.dir / "flag"
    flag.write_text("0\n")
    one = instance(150, extra='track = [{ kind = "file", name = "f", weight = 0 }]')
    two = instance(150, name="w", vrid=52, vips=("10.1.0.102/24",))
    group = '[[vrrp.sync_group]]\nname = "g"\ninstances = ["v", "w"]\n' + table("sync_group", ear.script, "g")
    file = f'[[track.file]]\nname = "f"\npath = "{flag}"\n'
    text = one + table("instance", ear.script, "v") + two + group + file
    follow = None
    a.rvsd(text, extra=HEAD.format(dir=ear.pipes))
    reader = ear.read(lab, a)
    try:
        with open(lab.dir / "follow", "w") as out:
            argv = [str(BIN / "rvsadm"), "--socket", str(a.socket), "--json", "events", "--follow"]
            follow = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)
        a.expect("MASTER")
        a.expect("MASTER", "w")
        flag.write_text("1\n")
        a.expect("FAULT")
        flag.write_text("0\n")
        a.expect("MASTER")
        # The group goes: its members stay as they are.
        a.config.write_text(a.config.read_text().replace(group, ""))
        a.adm("reload")
        wait_for("the group's end", lambda: any(line.startswith("g:deleted") for line in ear.told()))
        a.config.write_text(a.config.read_text().replace(two, ""))
        a.adm("reload")
        a.config.write_text(a.config.read_text().replace("priority = 150", "priority = 140"))
        a.adm("reload")
        wait_for("the priority in the pipe", lambda: 'INSTANCE "v" MASTER_PRIORITY 140' in ear.piped())
        a.stop()
        wait_for("the last script", lambda: "v:any INSTANCE v STOP 140" in ear.told())

        # At the start the twin has no address yet, which is a fault.
        def from_backup(lines, of):
            return lines[next(at for at, line in enumerate(lines) if "backup" in line.lower() and of in line):]
        said = from_backup([line for line in ear.told() if line.startswith("v:")], "v")
        expected = []
        for state, priority in (("BACKUP", 150), ("MASTER", 150), ("FAULT", 150), ("BACKUP", 150), ("MASTER", 150),
                                ("MASTER_PRIORITY", 140), ("STOP", 140)):
            if not state.endswith("PRIORITY"):
                expected.append(f"v:{state.lower()}")
            expected.append(f"v:any INSTANCE v {state} {priority}")
        check(said == expected, f"the scripts of v wrote\n{said}\nexpected\n{expected}")
        said = from_backup([line for line in ear.told() if line.startswith("g:")], "g")
        expected = [line for state in ("BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER", "DELETED")
                    for line in (f"g:{state.lower()}", f"g:any GROUP g {state} 0")]
        check(said == expected, f"the scripts of g wrote\n{said}\nexpected\n{expected}")

        wait_for("the reader's end of file", lambda: not reader.running())
        piped = ear.piped()
        of_v = from_backup([line for line in piped if line.startswith('INSTANCE "v"')], "v")
        check(of_v == [f'INSTANCE "v" {state} {priority}' for state, priority in (
            ("BACKUP", 150), ("MASTER", 150), ("FAULT", 150), ("BACKUP", 150), ("MASTER", 150), ("MASTER_PRIORITY", 140), ("STOP", 140))], of_v)
        check('INSTANCE "w" DELETED 150' in piped and 'GROUP "g" DELETED 0' in piped, piped)
        follow.wait(10)
        rows = [json.loads(line) for line in (lab.dir / "follow").read_text().splitlines() if line.startswith("{")]
        rows = [row for row in rows if row["type"] in ("instance", "group")]
        check([row["seq"] for row in rows] == list(range(1, len(rows) + 1)), f"numbers: {[row['seq'] for row in rows]}")
        lines = [f'{row["type"].upper()} "{row["name"]}" {row["state"]} {row.get("priority", 0)}' for row in rows]
        check(lines == piped, f"the stream says\n{lines}\nthe pipe\n{piped}")
    finally:
        if follow and follow.poll() is None:
            follow.kill()
            follow.wait()


def test_a_mail_server_without_an_address(lab):
    """A line about its name and one about a file that is missing, at the start and at a reload; the rest works on."""
    password = lab.dir / "password"
    password.write_text("s3cret\n")
    lab.start(extra=MAIL.format(server="mail.invalid:25", tls="starttls", tls_dir="/nonexistent", password=password))

    def told(name, times=1):
        lines = [line for line in lab.rvsd.output().splitlines() if f"mail server {name} has no address: " in line]
        check(len(lines) <= times, lines)
        return len(lines) == times
    wait_for("a line about the name", lambda: told("mail.invalid"), 60)
    wait_for("a line about the file", lambda: "ca_file /nonexistent/ca.pem cannot be read: No such file" in lab.rvsd.output(), 60)
    lab.config.write_text(lab.config.read_text().replace("mail.invalid", "other.invalid"))
    lab.adm("reload")
    wait_for("a line about the other name", lambda: told("other.invalid"), 60)
    # What is not about mail reads nothing anew.
    lab.config.write_text(lab.config.read_text().replace('"lb1"', '"lb1"\nhelo_name = "lb.example.org"'))
    lab.adm("reload")
    wait_for("a line about other settings", lambda: told("other.invalid", 2), 60)
    lab.adm("reload")
    for vip in lab.service("nat"):
        lab.expect_all_servers(vip, requests=4)
    check(told("other.invalid", 2) and told("mail.invalid"), "told again")


MAIL = """
[alert.smtp]
to = ["noc@example.org"]
from = "lb@example.org"
server = "{server}"
tls = "{tls}"
ca_file = "{tls_dir}/ca.pem"
username = "lb"
password_file = "{password}"
vrrp = true
router_id = "lb1"
"""


@prepared(servers=0)
def test_mail_over_tls(lab, a, b):
    """STARTTLS and TLS from the start, with a login; a certificate for another name and a wrong password are one line each."""
    need_programs("openssl")
    tls_dir = certificates(lab, "localhost")
    password = lab.dir / "password"
    password.write_text("s3cret\n")
    password.chmod(0o600)
    boxes = {}
    for port, tls in ((2587, "starttls"), (2465, "implicit")):
        boxes[tls] = lab.dir / f"mail.{tls}"
        pair = tls_dir / "localhost.pem", tls_dir / "localhost.key"
        lab.peer(a.space, "mail.py", port, tls, *pair, "lb", "s3cret", boxes[tls])
    how = {"tls_dir": tls_dir, "password": password}
    a.rvsd(instance(150), extra=MAIL.format(server="localhost:2587", tls="starttls", **how))
    a.expect("MASTER")

    def mails(tls):
        if not boxes[tls].exists():
            return []
        rows = [json.loads(line) for line in boxes[tls].read_text().splitlines()]
        check(all(row["tls"].startswith("TLSv1.") and row["user"] == "lb" for row in rows), rows)
        return [line for row in rows for line in row["lines"] if line.startswith("Subject: ")]
    subject = "Subject: [lb1] VRRP Instance v - Entering {} state"
    wait_for("the mail over STARTTLS", lambda: subject.format("MASTER") in mails("starttls"))

    def change(old, new, state):
        """Other settings, and then something to tell."""
        a.config.write_text(a.config.read_text().replace(old, new))
        a.adm("reload")
        lab.switch.ip(f"link set {a.wire} {'down' if state == 'FAULT' else 'up'}")
        a.expect(state)
    change('"localhost:2587"\ntls = "starttls"', '"localhost:2465"\ntls = "implicit"', "FAULT")
    wait_for("the mail over TLS", lambda: subject.format("FAULT") in mails("implicit"))
    change("localhost:2465", "127.0.0.1:2465", "MASTER")
    said = "mail server 127.0.0.1:2465 takes no mail"
    line = wait_for("a word about the certificate", lambda: [line for line in a.program.output().splitlines() if said in line], 30)
    check("certificate" in line[0], line)
    password.write_text("wrong\n")
    change("127.0.0.1:2465", "localhost:2465", "FAULT")
    said = "mail server localhost:2465 takes no mail"
    # The server that took no mail last gets one chance for each; it is complained about once.
    check(said not in a.program.output(), "complained about twice")
    before = len(mails("implicit"))
    password.write_text("s3cret\n")
    change("localhost:2465", "localhost:2465", "MASTER")
    wait_for("mails again", lambda: len(mails("implicit")) > before)
    wait_for("a word about that", lambda: "takes mails again" in a.program.output())
