//! The table of commands.

use super::Command::*;
use super::Support::Now;
use super::{Command, CommandSpec, Slot};

const fn command(
    command: Command,
    short: &'static [char],
    long: &'static str,
    requires: &'static [Slot],
    help: &'static str,
) -> CommandSpec {
    CommandSpec {
        command,
        short,
        long,
        name: long,
        value: None,
        requires,
        support: Now,
        help,
    }
}

/// All commands.
pub const COMMANDS: &[CommandSpec] = &[
    command(
        AddService,
        &['A'],
        "add-service",
        &[Slot::Service],
        "add a virtual service",
    ),
    command(
        EditService,
        &['E'],
        "edit-service",
        &[Slot::Service],
        "replace the attributes of a virtual service; what is not given becomes the default",
    ),
    command(
        DeleteService,
        &['D'],
        "delete-service",
        &[Slot::Service],
        "delete a virtual service",
    ),
    CommandSpec {
        name: "flush",
        ..command(Clear, &['C'], "clear", &[], "delete all virtual services")
    },
    command(
        Restore,
        &['R'],
        "restore",
        &[],
        "carry out the lines of standard input",
    ),
    command(
        Save,
        &['S'],
        "save",
        &[],
        "print the services as lines that -R reads",
    ),
    command(
        AddServer,
        &['a'],
        "add-server",
        &[Slot::Service, Slot::Server],
        "add a real server to a service",
    ),
    command(
        EditServer,
        &['e'],
        "edit-server",
        &[Slot::Service, Slot::Server],
        "replace the attributes of a real server; what is not given becomes the default",
    ),
    command(
        DeleteServer,
        &['d'],
        "delete-server",
        &[Slot::Service, Slot::Server],
        "delete a real server from a service",
    ),
    command(
        List,
        &['L', 'l'],
        "list",
        &[],
        "list services, connections or time-outs",
    ),
    command(
        Zero,
        &['Z'],
        "zero",
        &[],
        "set the counters of one service or of all to zero",
    ),
    command(
        Set,
        &[],
        "set",
        &[],
        "TCP TCPFIN UDP: set the time-outs in seconds, 0 keeps a value",
    ),
    CommandSpec {
        value: Some("master|backup"),
        ..command(
            StartDaemon,
            &[],
            "start-daemon",
            &[],
            "start connection synchronisation",
        )
    },
    CommandSpec {
        value: Some("master|backup"),
        ..command(
            StopDaemon,
            &[],
            "stop-daemon",
            &[],
            "stop connection synchronisation",
        )
    },
    command(Help, &['h'], "help", &[], "print this text"),
    command(Version, &['v'], "version", &[], "print the version"),
];
