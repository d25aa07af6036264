//! The address of a unit, as libiscsi writes it: `iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN[?KEY=VALUE[&KEY=VALUE]...]`.

use drivebay_sdk::prelude::*;
use drivebay_spec_iscsi::{PORT, chap, name};

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
    /// User and secret with which the target must prove its identity.
    pub(crate) target_chap: Option<(String, String)>,
    /// The session must have header digests.
    pub(crate) header_digest: bool,
    /// The session must have data digests.
    pub(crate) data_digest: bool,
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
        // A secret may contain ?, so the options begin after the first place where a whole address ends.
        for (at, _) in text.match_indices('?') {
            let (address, options) = text.split_at(at);
            if let Ok(url) = Self::without_options(address) {
                return url.with_options(options.strip_prefix('?').unwrap_or(options));
            }
        }
        Self::without_options(text)
    }
}

/// The text may have secrets, so errors do not repeat it.
fn wrong(allowed: &str) -> Error {
    Error::invalid("url", "what was given", allowed)
}

/// Checks a user and its secret.
fn checked(user: &str, secret: &str, names: &str) -> Result<(String, String)> {
    for text in [user, secret] {
        chap::check(text).map_err(|allowed| wrong(&format!("{names} of {allowed}")))?;
    }
    Ok((user.to_owned(), secret.to_owned()))
}

/// Reads `HOST[:PORT]`, with an IPv6 address in brackets. `None` for another form, and for port 0.
pub(crate) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            if port.is_empty() { (host, None) } else { (host, Some(port.strip_prefix(':')?)) }
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl Url {
    /// Whether a secret is shorter than the standard allows.
    pub(crate) fn has_short_secret(&self) -> bool {
        let mut secrets = [&self.chap, &self.target_chap].into_iter().flatten();
        secrets.any(|(_, secret)| chap::is_short(secret))
    }

    fn without_options(text: &str) -> Result<Self> {
        let form = "iscsi://[USER%SECRET@]HOST[:PORT]/TARGET/LUN[?OPTIONS]";
        let rest = text.strip_prefix("iscsi://").ok_or_else(|| wrong(form))?;
        // A secret may contain @ and /. Nothing after it contains @.
        let (chap, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => {
                let (user, secret) =
                    user.split_once('%').ok_or_else(|| wrong("USER%SECRET before @"))?;
                (Some(checked(user, secret, "USER and SECRET")?), rest)
            }
            None => (None, rest),
        };
        let (rest, lun) = rest.rsplit_once('/').ok_or_else(|| wrong(form))?;
        let (portal, target) = rest.split_once('/').ok_or_else(|| wrong(form))?;
        let portal = host_and_port(portal);
        let (host, port) = portal.ok_or_else(|| wrong("HOST[:PORT] with a port of 1 to 65535"))?;
        name::check(target)
            .map_err(|allowed| Error::invalid("url: target", "what was given", allowed))?;
        let lun = lun.parse().ok().filter(|lun| *lun <= LUN_MAX);
        let lun = lun.ok_or_else(|| wrong("a LUN of 0 to 16383"))?;
        Ok(Self {
            host,
            port,
            target: target.to_owned(),
            lun,
            chap,
            target_chap: None,
            header_digest: false,
            data_digest: false,
        })
    }

    /// Adds the options.
    fn with_options(mut self, options: &str) -> Result<Self> {
        let (mut user, mut secret) = (None, None);
        for option in options.split('&') {
            match option.split_once('=') {
                Some(("target_user", value)) => user = Some(value.to_owned()),
                Some(("target_password", value)) => secret = Some(value.to_owned()),
                Some(("header_digest", "crc32c")) => self.header_digest = true,
                Some(("data_digest", "crc32c")) => self.data_digest = true,
                _ => {
                    let known = "the options target_user=, target_password=, header_digest=crc32c, data_digest=crc32c";
                    return Err(wrong(known));
                }
            }
        }
        self.target_chap = match (user, secret) {
            (None, None) => None,
            (Some(user), Some(secret)) => {
                Some(checked(&user, &secret, "target_user and target_password")?)
            }
            _ => return Err(wrong("target_user and target_password together")),
        };
        match (&self.chap, &self.target_chap) {
            (None, Some(_)) => Err(wrong("USER%SECRET@ for mutual CHAP, with target_user")),
            // With one secret for both directions, an attacker could reflect a response. RFC 7143, section 9.2.1.
            (Some((_, own)), Some((_, theirs))) if own == theirs => {
                Err(wrong("a target_password that differs from SECRET"))
            }
            _ => Ok(self),
        }
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
        assert!(url.target_chap.is_none() && !url.header_digest && !url.data_digest);
        let url: Url = format!("iscsi://me%a@b:c@[::1]:3261/{TARGET}/7").parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("::1", 3261, 7));
        assert_eq!(url.chap, Some(("me".to_owned(), "a@b:c".to_owned())));
        let other: Url = format!("iscsi://me%a/b@h/{TARGET}/7").parse().unwrap();
        assert_eq!((other.host.as_str(), other.chap.unwrap().1), ("h", "a/b".to_owned()));
        assert_eq!(format!("{url:?}"), format!("[::1]:3261/{TARGET}/7"), "without the secret");
    }

    #[test]
    fn options_follow_the_lun_even_if_a_secret_looks_like_them() {
        let options =
            "target_user=you&target_password=b?c@d/1&header_digest=crc32c&data_digest=crc32c";
        let url: Url = format!("iscsi://me%a?b=c@h/{TARGET}/7?{options}").parse().unwrap();
        assert_eq!((url.host.as_str(), url.lun), ("h", 7));
        assert_eq!(url.chap, Some(("me".to_owned(), "a?b=c".to_owned())));
        assert_eq!(url.target_chap, Some(("you".to_owned(), "b?c@d/1".to_owned())));
        assert!(url.header_digest && url.data_digest);
        assert_eq!(format!("{url:?}"), format!("h:3260/{TARGET}/7"), "without the secrets");
    }

    #[test]
    fn a_secret_below_12_bytes_is_accepted_and_counts_as_short() {
        let at = format!("h/{TARGET}/0");
        for (user, options, is_short) in [
            ("", "", false),
            ("me%a-long-secret@", "", false),
            ("me%short@", "", true),
            ("me%a-long-secret@", "?target_user=you&target_password=short", true),
        ] {
            let url: Url = format!("iscsi://{user}{at}{options}").parse().unwrap();
            assert_eq!(url.has_short_secret(), is_short, "{user} {options}");
        }
        let longest = "x".repeat(chap::TEXT_LEN_MAX);
        assert!(format!("iscsi://me%{longest}@{at}").parse::<Url>().is_ok());
        assert!(format!("iscsi://me%{longest}x@{at}").parse::<Url>().is_err());
    }

    #[test]
    fn a_portal_has_a_host_and_perhaps_a_port() {
        let read = |text| host_and_port(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(read("10.0.0.1:3261").as_deref(), Some("10.0.0.1 3261"));
        assert_eq!(read("[::1]").as_deref(), Some("::1 3260"));
        for text in ["", ":3260", "h:", "h:0", "h:65536", "[::1", "[::1]3260", "[]:1"] {
            assert_eq!(read(text), None, "{text}");
        }
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
            "iscsi://me%@h/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://%my-secret@h/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://me%my-secret\0@h/iqn.2016-06.io.spdk:disk1/0",
            "iscsi://me%my-secret@h/iqn.2016-06.io.spdk:disk1/0?target_user=you&target_password=",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/0?",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/0??header_digest=crc32c",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/0?header_digest=secret",
            "iscsi://me%a@h/iqn.2016-06.io.spdk:disk1/0?target_password=secret",
            "iscsi://h/iqn.2016-06.io.spdk:disk1/0?target_user=you&target_password=secret",
            "iscsi://me%secret@h/iqn.2016-06.io.spdk:disk1/0?target_user=you&target_password=secret",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(!error.message().contains("secret"), "{text}: {error}");
        }
    }
}
