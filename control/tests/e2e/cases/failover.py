"""The pair of configs/pair-*.toml under load; `make demo-failover` runs more events than these."""
from lab import check, lasts, wait_for
from failover import Failover, Trial, killed, started, stopped


def roles(pair, active, standby):
    """Waits until synchronisation follows VRRP on the nodes that run."""
    for node, role in ((pair.active, active), (pair.standby, standby)):
        if role:
            wait_for(f"{node.name} to be {role} of synchronisation", lambda: node.sync_roles() == [role], 5)


@lasts(240)
def test_no_connection_is_lost():
    """The active node is stopped, comes back and is killed: downloads and idle connections go on, sync's role follows VRRP."""
    with Failover(servers=2) as pair:
        try:
            pair.start()
            roles(pair, "master", "backup")
            trial = Trial(pair, downloads=1, idle=2)
            for name, event, expected in (("stopped", stopped, (None, "master")), ("started", started, ("master", "backup")),
                                          ("killed", killed, (None, "master"))):
                trial.run(name, event)
                roles(pair, *expected)
            print("\n".join(f"      {line}" for line in trial.table().splitlines()))
            check(trial.lost() == 0, f"{trial.lost()} connections were lost\n{trial.table()}")
        except BaseException:
            print(pair.dump())
            raise
