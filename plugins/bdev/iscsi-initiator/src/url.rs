//! The address of a unit: `iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN`, as libiscsi writes it.

use drivebay_sdk::prelude::*;
use drivebay_spec_iscsi::{PORT, name};

/// Largest LUN.
const LUN_MAX: u16 = 0x3fff;

/// The address of a unit.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Name or address of the target's host.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The target's name.
    pub(crate) target: String,
    pub(crate) lun: u16,
    /// User and secret for CHAP.
    pub(crate) chap: Option<(String, String)>,
}

// Secrets stay out of logs.
impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, target, lun, .. } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}/{target}/{lun}"),
            false => write!(f, "{host}:{port}/{target}/{lun}"),
        }
    }
}

impl std::str::FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text may have a secret, so errors do not repeat it.
        let wrong = |allowed: &str| Error::invalid("url", "what was given", allowed);
        let form = "iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN";
        let rest = text.strip_prefix("iscsi://").ok_or_else(|| wrong(form))?;
        // A secret may contain @ and /. Nothing after it contains @.
        let (chap, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => {
                let (user, secret) =
                    user.split_once('%').ok_or_else(|| wrong("USER%SECRET before @"))?;
                (Some((user.to_owned(), secret.to_owned())), rest)
            }
            None => (None, rest),
        };
        let (rest, lun) = rest.rsplit_once('/').ok_or_else(|| wrong(form))?;
        let (portal, target) = rest.split_once('/').ok_or_else(|| wrong(form))?;
        let (host, port) = match portal.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| wrong("[ADDRESS]:PORT"))?;
                match port.strip_prefix(':') {
                    None if !port.is_empty() => return Err(wrong("[ADDRESS]:PORT")),
                    port => (host, port),
                }
            }
            None => match portal.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (portal, None),
            },
        };
        let port = match port {
            Some(port) => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                port.ok_or_else(|| wrong("a port of 1 to 65535"))?
            }
            None => PORT,
        };
        name::check(target)
            .map_err(|allowed| Error::invalid("url: target", "what was given", allowed))?;
        let lun = lun.parse().ok().filter(|lun| *lun <= LUN_MAX);
        let lun = lun.ok_or_else(|| wrong("a LUN of 0 to 16383"))?;
        if host.is_empty() {
            return Err(wrong(form));
        }
        Ok(Self { host: host.to_owned(), port, target: target.to_owned(), lun, chap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "iqn.2016-06.io.spdk:disk1";

    #[test]
    fn each_part_is_read() {
        let url: Url = format!("iscsi://127.0.0.1/{TARGET}/0").parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun, url.chap), ("127.0.0.1", 3260, 0, None));
        let url: Url = format!("iscsi://me%a@b:c@[::1]:3261/{TARGET}/7").parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("::1", 3261, 7));
        assert_eq!(url.chap, Some(("me".to_owned(), "a@b:c".to_owned())));
        let other: Url = format!("iscsi://me%a/b@h/{TARGET}/7").parse().unwrap();
        assert_eq!((other.host.as_str(), other.chap.unwrap().1), ("h", "a/b".to_owned()));
        assert_eq!(format!("{url:?}"), format!("[::1]:3261/{TARGET}/7"), "without the secret");
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for text in [
            "",
            "http://h/t/0",
            "iscsi://h/0",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/16384",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/-1",
            "iscsi://h:x/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://h:0/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://[::1]3260/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://me%my-secret@h/no name/0",
            "iscsi://me%my-secret/h/iqn.2016-06.io.spdk:disk1/0",
            "iscsi:///iqn.2016-06.io.spdk:disk1/0",
            "iscsi://h/no name/0",
            "iscsi://secret@h/iqn.2016-06.io.spdk:disk1/0",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(!error.message().contains("secret"), "{text}: {error}");
        }
    }
}
