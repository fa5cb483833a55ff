//! The text of `-h`, made from the tables.

use super::options::{COMMANDS, Command, CommandSpec, OPTIONS, Slot, Support, Value, WORDS};
use crate::api::DEFAULT_SOCKET;

/// Line of `--version`.
pub fn version() -> String {
    format!(
        "rvsadm {} (admin API {})",
        env!("CARGO_PKG_VERSION"),
        crate::api::API_VERSION
    )
}

/// The whole text.
pub fn text() -> String {
    let mut text = version();
    text += "\nManages the virtual services of rvsd, with the command line of ipvsadm and more.\n";
    text += "\nrvsadm [--socket PATH] [--json] COMMAND [OPTION...]\n";
    text += "\nCommands, exactly one and in front (none: list):\n";
    for command in COMMANDS {
        text += &entry(&command_names(command), command.help, command.support);
        let takes = options_of(command);
        if !takes.is_empty() {
            text += &format!("{:27}takes {}\n", "", takes.join(" "));
        }
    }
    for word in WORDS {
        let arguments = Some(word.arguments).filter(|a| !a.is_empty());
        let arguments = arguments.map(|a| format!(" {a}")).unwrap_or_default();
        text += &entry(
            &format!("{}{arguments}", word.name),
            word.help,
            Support::Now,
        );
        for option in word.options {
            let value = option.value.map(|v| format!(" {v}")).unwrap_or_default();
            text += &format!("{:27}[--{}{value}] {}\n", "", option.long, option.help);
        }
    }
    text += "\nOptions:\n";
    for option in OPTIONS {
        let value = match option.value {
            Value::None => String::new(),
            Value::Required(name) => format!(" {name}"),
            Value::Optional(name) => format!(" [{name}]"),
        };
        let letter = option.short.map(|s| format!("-{s}, ")).unwrap_or_default();
        text += &entry(
            &format!("{letter}--{}{value}", option.long),
            option.help,
            option.support,
        );
    }
    text += &format!("\nThe admin socket is {DEFAULT_SOCKET} unless named otherwise.\n");
    text += "Exit status: 0 done; 1 no such service in a listing, or one of the words failed;\n";
    text += "2 the line makes no sense, rvsd cannot be asked, or an import lacks something; 255 rvsd refused, or no such option.\n";
    text
}

fn command_names(command: &CommandSpec) -> String {
    let letters: String = command.short.iter().map(|c| format!("-{c}, ")).collect();
    let value = command.value.map(|v| format!(" {v}")).unwrap_or_default();
    format!("{letters}--{}{value}", command.long)
}

/// What a command takes, a pair of brackets for each slot that may be left out.
fn options_of(command: &CommandSpec) -> Vec<String> {
    let mut slots: Vec<Slot> = Vec::new();
    for option in OPTIONS.iter().filter(|o| o.on.contains(&command.command)) {
        if !slots.contains(&option.slot) {
            slots.push(option.slot);
        }
    }
    let name = |slot: Slot| {
        let options = OPTIONS
            .iter()
            .filter(|o| o.slot == slot && o.support == Support::Now);
        let names: Vec<String> = options.map(|o| o.typed()).collect();
        let names = names.join("|");
        match (names.is_empty(), command.requires.contains(&slot)) {
            (true, _) => None,
            (false, true) => Some(names),
            (false, false) => Some(format!("[{names}]")),
        }
    };
    let mut names: Vec<String> = slots.into_iter().filter_map(name).collect();
    if command.command == Command::Set {
        names.push("TCP TCPFIN UDP".to_string());
    }
    names
}

fn entry(names: &str, help: &str, support: Support) -> String {
    let later = if support == Support::Later {
        " (not in this version)"
    } else {
        ""
    };
    if names.len() > 24 {
        format!("  {names}\n{:27}{help}{later}\n", "")
    } else {
        format!("  {names:24} {help}{later}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_tables_is_in_the_help() {
        let text = text();
        let has = |name: &str| {
            text.split([' ', '\n', '[', ']', ',', '|'])
                .any(|word| word == name)
        };
        for option in OPTIONS {
            assert!(has(&format!("--{}", option.long)), "--{}", option.long);
            assert!(
                option.short.is_none_or(|s| has(&format!("-{s}"))),
                "--{}",
                option.long
            );
            assert!(text.contains(option.help), "--{}", option.long);
        }
        for command in COMMANDS {
            assert!(has(&format!("--{}", command.long)), "--{}", command.long);
            assert!(
                command.short.iter().all(|s| has(&format!("-{s}"))),
                "--{}",
                command.long
            );
        }
        for word in WORDS {
            assert!(has(word.name), "{}", word.name);
            assert!(
                word.options.iter().all(|o| has(&format!("--{}", o.long))),
                "{}",
                word.name
            );
        }
    }

    #[test]
    fn what_is_refused_is_marked() {
        let text = text();
        let refused = OPTIONS
            .iter()
            .filter(|o| o.support == Support::Later)
            .count()
            + COMMANDS
                .iter()
                .filter(|c| c.support == Support::Later)
                .count();
        assert_eq!(text.matches("(not in this version)").count(), refused);
    }
}
