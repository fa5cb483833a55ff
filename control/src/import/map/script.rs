//! Programs that keepalived starts: their words, and what starts them here.

use crate::import::tree::Node;
use crate::import::words;

/// A program with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Words, the program first, by its full path.
    pub words: Vec<String>,
    /// What had to be changed.
    pub note: Option<&'static str>,
}

/// Letters that only a shell understands.
const SHELL: &[char] = &['|', '&', ';', '<', '>', '$', '`', '(', ')', '*', '~'];

/// The command that the words behind a keyword are: one word that holds all, or many.
pub fn command(node: &Node) -> Option<Command> {
    let written = words::command(&node.text);
    let words = match written.get(1..)? {
        [] => return None,
        [all] => words::command(all),
        many => many.to_vec(),
    };
    started(words)
}

/// The command in one word, with a user and a group behind it.
pub fn command_and_user(node: &Node) -> Option<(Command, Option<String>)> {
    let written = words::command(&node.text);
    let command = started(words::command(written.get(1)?))?;
    let user = written.get(2).map(|user| match written.get(3) {
        Some(group) => format!("{user}:{group}"),
        None => user.clone(),
    });
    Some((command, user))
}

fn started(words: Vec<String>) -> Option<Command> {
    let program = words.first()?;
    if program.starts_with('/') && !words.iter().any(|word| is_for_a_shell(word)) {
        return Some(Command { words, note: None });
    }
    if program.starts_with(['[', '<']) || words.iter().any(|word| is_for_a_shell(word)) {
        let line = words.join(" ");
        return Some(Command {
            words: vec!["/bin/sh".into(), "-c".into(), line],
            note: Some("it needs a shell: put it into a script of its own, or check the quotes"),
        });
    }
    let env = std::iter::once("/usr/bin/env".to_owned());
    Some(Command {
        words: env.chain(words).collect(),
        note: Some("no full path: /usr/bin/env looks for the program"),
    })
}

/// Whether a word is an operator, or begins with what a shell would replace.
fn is_for_a_shell(word: &str) -> bool {
    let operator = !word.is_empty() && word.chars().all(|c| SHELL.contains(&c));
    operator || word.starts_with(['$', '`', '|', '<', '>']) || word.ends_with(';')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::import::place::Place;

    fn node(text: &str) -> Node {
        Node {
            id: 0,
            place: Place {
                file: Path::new("k").into(),
                line: 1,
            },
            text: text.to_owned(),
            words: words::split(text),
            children: Vec::new(),
            has_block: false,
        }
    }

    #[test]
    fn commands_in_the_styles_found() {
        for (text, expected) in [
            ("script /bin/check", &["/bin/check"][..]),
            ("script \"/bin/check a 'b c'\"", &["/bin/check", "a", "b c"]),
            ("script /bin/check a b", &["/bin/check", "a", "b"]),
            (
                "script \"killall -0 nginx\"",
                &["/usr/bin/env", "killall", "-0", "nginx"],
            ),
            (
                "script \"</dev/tcp/127.0.0.1/80\"",
                &["/bin/sh", "-c", "</dev/tcp/127.0.0.1/80"],
            ),
            (
                "script \"[ -f /down ] && exit 1\"",
                &["/bin/sh", "-c", "[ -f /down ] && exit 1"],
            ),
            (
                "script \"/bin/a | /bin/b\"",
                &["/bin/sh", "-c", "/bin/a | /bin/b"],
            ),
            (
                "misc_path \"/bin/a http://x/?a=1&b=2\"",
                &["/bin/a", "http://x/?a=1&b=2"],
            ),
        ] {
            let command = command(&node(text)).expect(text);
            assert_eq!(command.words, expected, "{text}");
        }
        assert_eq!(command(&node("script")), None);
        assert_eq!(command(&node("script \"\"")), None);
    }

    #[test]
    fn a_user_may_follow() {
        let (command, user) = command_and_user(&node("notify \"/n x\" u g")).expect("all there");
        assert_eq!(command.words, ["/n", "x"]);
        assert_eq!(user.as_deref(), Some("u:g"));
    }
}
