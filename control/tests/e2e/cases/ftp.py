"""FTP through NAT, with a real server (vsftpd) and a real client (curl)."""
import hashlib
import shutil

from lab import at, check, family_of, lasts, need_programs, payload_sum, payloads, wait_for

VSFTPD = """background=NO
listen=NO
listen_ipv6=YES
anonymous_enable=YES
anon_root={root}
anon_upload_enable=YES
anon_umask=022
write_enable=YES
local_enable=NO
connect_from_port_20=YES
ftpd_banner={name}
no_anon_password=YES
ftp_username=daemon
nopriv_user=nobody
secure_chroot_dir={empty}
seccomp_sandbox=NO
xferlog_enable=YES
log_ftp_protocol=YES
vsftpd_log_file={log}
"""
# What curl calls the ways to agree on a data connection. It takes the address in a 227 answer, as old clients do.
WAYS = {"EPSV": [], "PASV": ["--disable-epsv", "--no-ftp-skip-pasv-ip"], "EPRT": ["-P", "-"], "PORT": ["-P", "-", "--disable-eprt"]}


def vsftpd(lab, space):
    """A server for everybody: `name` says which it is, `64k` is to be fetched, what is put goes to `incoming`."""
    directory = lab.dir / f"{space.short}.ftp"
    root = directory / "root"
    (root / "incoming").mkdir(parents=True)
    (root / "incoming").chmod(0o777)
    (directory / "empty").mkdir()
    (root / "name").write_text(f"server {space.number}\n")
    shutil.copy(payloads() / "64k", root / "64k")
    config = directory / "vsftpd.conf"
    config.write_text(VSFTPD.format(root=root, empty=directory / "empty", log=directory / "log", name=f"server {space.number}"))
    space.spawn(["vsftpd", config], f"vsftpd.{space.short}")
    wait_for(f"vsftpd of {space.short}", lambda: space.curl("ftp://127.0.0.1/name", seconds=2) == f"server {space.number}")
    return directory


def said(directory):
    """The words of the control connections so far, from the server's log."""
    return (directory / "log").read_text(errors="replace")


@lasts(120)
def test_ftp(lab):
    """Active and passive transfers, up and down, over both families; data go to the server of the control connection."""
    transfers(lab)


@lasts(120)
def test_ftp_with_two_workers(lab):
    """The same with workers that hand each other packets: control and data connections are at one of them."""
    transfers(lab, worker="cores = [0, 1]")
    handed = [worker["handed_over"] for worker in lab.status()["workers"]]
    check(len(handed) == 2 and sum(handed) > 10, f"handed over: {handed}")


def transfers(lab, **config):
    need_programs("vsftpd")
    directories = {f"server {space.number}": vsftpd(lab, space) for space in lab.servers}
    lab.start(**config)
    for vip in lab.service("nat", port=21):
        for way, options in WAYS.items():
            if family_of(vip) == 6 and way in ("PASV", "PORT"):
                continue
            url, seen = f"ftp://{at(vip, 21)}", []
            for _ in directories:
                got = lab.dir / "got"
                # Three transfers on one control connection: its numbers move more than once.
                name = lab.client.curl(f"{url}/name", *options, "-o", got, f"{url}/64k", "-o", "/dev/null", f"{url}/name")
                check(name in directories, f"{url} {way}: {name!r}")
                check(sha256(got) == payload_sum("64k"), f"{url} {way}: 64k arrived damaged")
                seen.append(name)
                check(f'"{way}' in said(directories[name]), f"{name} was not asked with {way}")
            check(sorted(seen) == sorted(directories), f"{url} {way}: answered by {seen}")
            file = f"{way}-{family_of(vip)}"
            lab.client.curl(f"{url}/incoming/{file}", *options, "-T", payloads() / "64k")
            put = [directory / "root/incoming" / file for directory in directories.values()]
            put = [path for path in put if path.exists()]
            check([sha256(path) for path in put] == [payload_sum("64k")], f"{url} {way}: after the upload there is {put}")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
