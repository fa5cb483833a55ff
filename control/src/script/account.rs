//! Users that scripts run as.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// The user of scripts whose command names none, if this host has it.
const OWN_USER: &str = "rvs_script";

/// A user, and a group if it is not that user's: `nobody`, `nobody:adm`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Name or number.
    pub user: String,
    /// Name or number.
    pub group: Option<String>,
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Account, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let is_name = |name: &str| !name.is_empty() && !name.contains([':', '\0', ' ', '\n']);
        if !is_name(user) || !group.is_none_or(is_name) {
            return Err(format!(
                "\"{}\" is no user; write a name, or name:group",
                text.escape_debug()
            ));
        }
        Ok(Account {
            user: user.to_owned(),
            group: group.map(str::to_owned),
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// An account as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

impl Account {
    /// The user of this process.
    fn own() -> Account {
        let uid = Uid::effective();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Account {
            user: name.unwrap_or_else(|| uid.to_string()),
            group: None,
        }
    }

    /// The user of scripts on this host, and a warning if it is not the one it should be: as with
    /// keepalived, scripts run as the daemon where the user made for them is missing.
    pub fn of_scripts() -> (Account, Option<String>) {
        let wanted = Account {
            user: OWN_USER.to_owned(),
            group: None,
        };
        let own = Account::own();
        if !Uid::effective().is_root() {
            return (own, None);
        }
        match wanted.complaint() {
            None => (wanted, None),
            Some(_) => {
                let text = format!(
                    "this host has no user {OWN_USER}, so scripts run as {own}; add it \
                     (useradd --system --no-create-home {OWN_USER}) or set [scripts] user"
                );
                (own, Some(text))
            }
        }
    }

    /// Why this host cannot run a script as this user.
    pub fn complaint(&self) -> Option<String> {
        self.resolve().err()
    }

    /// Whether its scripts have the rights of root.
    pub fn is_root(&self) -> bool {
        self.resolve().is_ok_and(|identity| identity.uid == 0)
    }

    pub(super) fn resolve(&self) -> Result<Identity, String> {
        let unreadable = |e: nix::Error| format!("user {self} cannot be looked up: {e}");
        let user = match self.user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(&self.user),
        };
        let Some(user) = user.map_err(unreadable)? else {
            return Err(format!("this host has no user {}; add it", self.user));
        };
        let gid = match &self.group {
            None => user.gid,
            Some(name) => {
                let group = match name.parse() {
                    Ok(gid) => Group::from_gid(Gid::from_raw(gid)),
                    Err(_) => Group::from_name(name),
                };
                let group = group.map_err(unreadable)?;
                let lacks = || format!("this host has no group {name}; add it");
                group.ok_or_else(lacks)?.gid
            }
        };
        let own = Uid::effective();
        if !own.is_root() && own != user.uid {
            return Err(format!(
                "only root can run scripts as {self}; start rvsd as root or leave the user out"
            ));
        }
        Ok(Identity {
            user: user.name,
            uid: user.uid.as_raw(),
            gid: gid.as_raw(),
            home: user.dir.to_string_lossy().into_owned(),
        })
    }
}

impl Identity {
    /// Takes this identity on, for good.
    pub fn take_on(&self) -> Result<(), String> {
        if !Uid::effective().is_root() {
            return match Uid::effective().as_raw() == self.uid {
                true => Ok(()),
                false => Err(format!("only root can become {}", self.user)),
            };
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let become_user = || {
            let name = CString::new(self.user.as_str()).map_err(|_| nix::Error::EINVAL)?;
            nix::unistd::initgroups(&name, gid)?;
            nix::unistd::setresgid(gid, gid, gid)?;
            nix::unistd::setresuid(uid, uid, uid)
        };
        become_user().map_err(|e| format!("cannot become {}: {}", self.user, e.desc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_written() {
        let read = |text: &str| text.parse::<Account>().map(|a| a.to_string());
        assert_eq!(read("nobody"), Ok("nobody".to_owned()));
        assert_eq!(read("nobody:adm"), Ok("nobody:adm".to_owned()));
        for wrong in ["", ":", "a:", ":b", "a:b:c", "a b"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        let root: Account = "root".parse().unwrap();
        let complaint = |text: &str| text.parse::<Account>().unwrap().complaint().unwrap();
        if Uid::effective().is_root() {
            assert!(root.is_root());
            assert!("0:0".parse::<Account>().unwrap().is_root());
        }
        assert_eq!(
            complaint("nosuchuser"),
            "this host has no user nosuchuser; add it"
        );
        let own = Account {
            group: Some("nosuchgroup".into()),
            ..Account::own()
        };
        assert_eq!(
            own.complaint().unwrap(),
            "this host has no group nosuchgroup; add it"
        );
    }
}
