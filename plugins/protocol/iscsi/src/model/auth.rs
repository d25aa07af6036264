//! CHAP policies, and groups of secrets.

use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_iscsi::chap;

/// The CHAP requirements of a login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChapPolicy {
    /// The target refuses CHAP.
    pub disabled: bool,
    /// The target requires CHAP.
    pub required: bool,
    /// The target requires mutual CHAP.
    pub mutual: bool,
    /// Tag of the authentication group; 0: none.
    pub group: i32,
}

impl ChapPolicy {
    /// Creates a policy from RPC parameters.
    ///
    /// # Errors
    /// `EINVAL` for a combination that contradicts itself.
    pub fn new(disabled: bool, required: bool, mutual: bool, group: i32) -> Result<Self> {
        if disabled && required {
            return Err(Error::invalid("require_chap", true, "false, with disable_chap"));
        }
        if mutual && !required {
            return Err(Error::invalid("mutual_chap", true, "false, without require_chap"));
        }
        if group < 0 {
            return Err(Error::invalid("chap_group", group, "0 or the tag of a group"));
        }
        Ok(Self { disabled, required, mutual, group })
    }

    /// Whether it differs from the default.
    #[must_use]
    pub fn is_set(self) -> bool {
        self != Self::default()
    }
}

/// The secrets of one user.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The initiator's name for CHAP.
    pub user: String,
    /// The initiator's secret.
    pub secret: String,
    /// The target's name for CHAP, and its secret.
    pub mutual: Option<(String, String)>,
}

/// Leaves out the secrets.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// An authentication group.
#[derive(Clone, Debug, Default)]
pub struct AuthGroup {
    /// Its users.
    pub secrets: Vec<Secret>,
}

impl AuthGroup {
    /// Adds a user. Logs a warning if a secret is shorter than the standard allows: existing configurations have such secrets.
    ///
    /// # Errors
    /// `EEXIST` when the group has the user; `EINVAL` for texts that [`chap::check`] refuses, or two equal secrets.
    pub fn add(&mut self, secret: Secret) -> Result<()> {
        if self.secrets.iter().any(|other| other.user == secret.user) {
            return Err(Error::new(errno::EEXIST, format!("user {} is in the group", secret.user)));
        }
        // Errors do not repeat secrets.
        let check = |field, text: &str| {
            let refused = |allowed| Error::invalid(field, format!("{} bytes", text.len()), allowed);
            chap::check(text).map_err(refused)
        };
        check("user", &secret.user)?;
        check("secret", &secret.secret)?;
        if let Some((user, other)) = &secret.mutual {
            check("muser", user)?;
            check("msecret", other)?;
            // With one secret for both directions, an attacker could reflect a response. RFC 7143, section 9.2.1.
            if *other == secret.secret {
                return Err(Error::invalid("msecret", "the same as secret", "another one"));
            }
        }
        let is_short = |secret: &String| chap::is_short(secret);
        let mutual = secret.mutual.as_ref().map(|(_, secret)| secret);
        if is_short(&secret.secret) || mutual.is_some_and(is_short) {
            tracing::warn!(
                user = secret.user,
                "a CHAP secret has fewer than 12 bytes; choose a longer one: anyone who records a login can guess a short secret"
            );
        }
        self.secrets.push(secret);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_forbidden_length_and_one_secret_for_both_directions_are_refused() {
        let long = "x".repeat(chap::TEXT_LEN_MAX + 1);
        let secret = |user: &str, secret: &str, mutual: Option<(&str, &str)>| Secret {
            user: user.into(),
            secret: secret.into(),
            mutual: mutual.map(|(user, secret)| (user.into(), secret.into())),
        };
        let mut group = AuthGroup::default();
        for wrong in [
            secret("", "one", None),
            secret("u", "", None),
            secret("u", &long, None),
            secret(&long, "one", None),
            secret("u\0CHAP_N=v", "one", None),
            secret("u", "one", Some(("t", ""))),
            secret("u", "one", Some(("t", &long))),
            secret("u", "one", Some(("t", "one"))),
        ] {
            assert_eq!(group.add(wrong).unwrap_err().errno(), errno::EINVAL);
        }
        let longest = "x".repeat(chap::TEXT_LEN_MAX);
        group.add(secret("u", &longest, Some(("t", "two")))).unwrap();
        assert_eq!(group.add(secret("u", "one", None)).unwrap_err().errno(), errno::EEXIST);
    }
}
