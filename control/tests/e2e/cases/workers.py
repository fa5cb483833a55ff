"""Two workers on ports with one queue each: packets reach whoever has the connection, and nobody can tell."""
from lab import VIPS, at, check, lasts, payload_sum, payloads, wait_for

TWO = {"worker": "cores = [0, 1]"}


def handed(lab):
    return [worker["handed_over"] for worker in lab.status()["workers"]]


@lasts(300)
def test_every_mode(lab):
    """Requests and downloads in every mode and family, with both workers holding connections."""
    lab.start(**TWO)
    for mode in VIPS:
        for vip in lab.service(mode):
            lab.expect_all_servers(vip, requests=10)
            lab.expect_conns(10, vip)
            lab.download(vip, "64k")
            lab.download(vip, "10m")
    workers = lab.status()["workers"]
    check(len(workers) == 2 and all(worker["connections"] > 3 for worker in workers), f"workers: {workers}")
    # Which worker does depends on where the ports of a handful of clients hash to; one end of each connection
    # is at the wrong one.
    check(sum(handed(lab)) > 100, f"handed over: {handed(lab)}")

    def listed_as_counted():
        # Connections end meanwhile on a slow machine, and the gauges lag behind the table a little.
        before, listed, after = (sum(worker["connections"] for worker in lab.status()["workers"]),
                                 len(lab.adm("-Lnc").splitlines()[2:]),
                                 sum(worker["connections"] for worker in lab.status()["workers"]))
        check(before == listed == after, f"{listed} connections listed, {before} and {after} counted before and after")
        return listed

    check(wait_for("the listing to show what the workers count", listed_as_counted) > 6, "connections listed")


def test_servers_change_under_load(lab):
    """A server is taken away and comes back under load: no request fails."""
    lab.start(**TWO)
    vips = lab.service("nat")
    load = lab.load(*[f"http://{at(vip, 80)}/" for vip in vips])
    load.answered(50)
    for weight, name in ((0, "server 2"), (1, "server 1")):
        for vip in vips:
            real = lab.servers[0].addr6 if ":" in vip else lab.servers[0].addr
            lab.adm(f"-e -t {at(vip, 80)} -r {at(real, 80)} -m -w {weight}")
        load.answered(30, name)
    load.finish()
    check(sum(handed(lab)) > 100, f"handed over: {handed(lab)}")


def test_errors_reach_the_right_worker(lab):
    """Path MTU discovery in TUN mode, where the error may arrive at the worker that has not the connection."""
    for server in lab.servers:
        lab.peer(server, "digest.py", 9000, f"server-{server.number}")
    lab.start(**TWO)
    for vip in lab.service("tun", port=9000):
        for _ in range(4):
            answer = lab.client.run(["/usr/bin/python3", lab.peers / "upload.py", vip, 9000, payloads() / "1m"], 60).stdout.split()
            check(answer[1:] == [str(1 << 20), payload_sum("1m")], f"{vip}: server received {answer}")


def test_persistence(lab):
    """Clients of a persistent service stay with their server whichever worker gets their packets."""
    lab.start(**TWO)
    clients = [f"10.1.0.{host}" for host in range(150, 158)]
    lab.client.batch(*[f"address add {client}/24 dev c0" for client in clients])
    vip, = lab.service("nat", families=(4,), options="-p 300")

    def servers(client):
        return {lab.client.curl(f"http://{at(vip, 80)}/", "--interface", client) for _ in range(6)}

    seen = {client: servers(client) for client in clients}
    check(all(len(names) == 1 for names in seen.values()), f"each client has one server: {seen}")
    check(len(set.union(*seen.values())) == len(lab.servers), f"clients are spread over the servers: {seen}")
    workers = lab.status()["workers"]
    check(all(worker["connections"] > 0 for worker in workers), f"workers: {workers}")
    # Other clients of the network go with the first from now on, and nobody's open connections are lost.
    load = lab.load(f"http://{at(vip, 80)}/")
    lab.adm(f"-E -t {at(vip, 80)} -s rr -p 300 -M 255.255.255.0")
    load.answered(30)
    load.finish()
    names = set.union(*[servers(client) for client in clients])
    check(len(names) == 1, f"one network, one server: {names}")
