//! The target's side of CHAP. RFC 7143, section 12.1.3.
//!
//! States: algorithms expected → challenge sent → initiator authenticated. Every failure looks the same to the initiator.

use crate::model::{ChapPolicy, Model};
use drivebay_spec_iscsi::chap::{self, Algorithm, CHALLENGE_LEN};
use drivebay_spec_iscsi::text;

/// Authentication has failed. The initiator learns no details, which would help an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproved;

/// The state of the initiator's authentication.
#[derive(Debug, Default)]
pub enum Chap {
    /// CHAP has not started.
    #[default]
    Idle,
    /// CHAP is negotiated; the target waits for the algorithms.
    Begun,
    /// The target has sent the challenge.
    Challenged {
        /// The algorithm of the response.
        algorithm: Algorithm,
        /// The identifier.
        id: u8,
        /// The challenge.
        challenge: [u8; CHALLENGE_LEN],
    },
    /// The initiator is authenticated.
    Proved,
}

impl Chap {
    /// Handles the keys that the initiator sent, and appends the answers.
    ///
    /// # Errors
    /// Any failure.
    pub fn step(
        &mut self,
        pairs: &[(&str, &str)],
        model: &Model,
        policy: ChapPolicy,
        answers: &mut Vec<u8>,
    ) -> Result<(), Unproved> {
        let value = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        match self {
            Self::Begun => {
                let Some(list) = value("CHAP_A") else { return Ok(()) };
                let algorithm = Algorithm::choose(list).ok_or(Unproved)?;
                let mut random = [0; CHALLENGE_LEN + 1];
                getrandom::fill(&mut random).map_err(|_| Unproved)?;
                let [id, challenge @ ..] = random;
                text::push(answers, "CHAP_A", &(algorithm as u8).to_string());
                text::push(answers, "CHAP_I", &id.to_string());
                text::push(answers, "CHAP_C", &chap::encode(&challenge));
                *self = Self::Challenged { algorithm, id, challenge };
                Ok(())
            }
            Self::Challenged { algorithm, id, challenge } => {
                let user = value("CHAP_N").ok_or(Unproved)?;
                let response = value("CHAP_R").and_then(chap::decode).ok_or(Unproved)?;
                let secret = model.secret(policy, user).ok_or(Unproved)?;
                let expected = algorithm.response(*id, secret.secret.as_bytes(), challenge);
                if !chap::is_same(&expected, &response) {
                    return Err(Unproved);
                }
                match (value("CHAP_I"), value("CHAP_C")) {
                    (Some(their_id), Some(theirs)) => {
                        let their_id = text::number(their_id).and_then(|id| id.try_into().ok());
                        let theirs = chap::decode(theirs).ok_or(Unproved)?;
                        // A reflected challenge is never answered: it would prove the initiator's identity with the target's own
                        // response.
                        if chap::is_same(&theirs, challenge) {
                            return Err(Unproved);
                        }
                        let (name, secret) = secret.mutual.as_ref().ok_or(Unproved)?;
                        let proof = algorithm.response(
                            their_id.ok_or(Unproved)?,
                            secret.as_bytes(),
                            &theirs,
                        );
                        text::push(answers, "CHAP_N", name);
                        text::push(answers, "CHAP_R", &chap::encode(&proof));
                    }
                    (None, None) if !policy.mutual => {}
                    _ => return Err(Unproved),
                }
                *self = Self::Proved;
                Ok(())
            }
            Self::Idle | Self::Proved => Ok(()),
        }
    }
}

/// Picks an authentication method from the initiator's list. Returns whether it is CHAP.
///
/// # Errors
/// The policy allows no method of the list.
pub fn choose_method(list: &str, policy: ChapPolicy) -> Result<bool, Unproved> {
    let has_secrets = policy.group != 0;
    let allowed = |method: &str| match method {
        "CHAP" if !policy.disabled && (policy.required || has_secrets) => Some(true),
        "None" if !policy.required => Some(false),
        _ => None,
    };
    list.split(',').find_map(allowed).ok_or(Unproved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AuthGroup, Secret};

    fn model() -> (Model, ChapPolicy) {
        let mut group = AuthGroup::default();
        let mutual = Some(("target".into(), "other-secret".into()));
        group.add(Secret { user: "u".into(), secret: "the-secret".into(), mutual }).unwrap();
        let mut model = Model::default();
        model.auth_groups.insert(1, group);
        (model, ChapPolicy::new(false, true, false, 1).unwrap())
    }

    /// The identifier and challenge that the target sends.
    fn challenge(chap: &mut Chap, model: &Model, policy: ChapPolicy) -> (u8, Vec<u8>) {
        let mut answers = Vec::new();
        chap.step(&[("CHAP_A", "5")], model, policy, &mut answers).unwrap();
        let pairs = text::parse(&answers).unwrap();
        (pairs[1].1.parse().unwrap(), chap::decode(pairs[2].1).unwrap())
    }

    #[test]
    fn the_right_response_proves_and_every_other_does_not() {
        let (model, policy) = model();
        for (user, secret, is_right) in
            [("u", "the-secret", true), ("u", "another", false), ("v", "the-secret", false)]
        {
            let mut chap = Chap::Begun;
            let (id, challenge) = challenge(&mut chap, &model, policy);
            let response =
                chap::encode(&Algorithm::Md5.response(id, secret.as_bytes(), &challenge));
            let pairs = [("CHAP_N", user), ("CHAP_R", response.as_str())];
            let done = chap.step(&pairs, &model, policy, &mut Vec::new());
            assert_eq!(done.is_ok(), is_right, "{user} {secret}");
        }
    }

    #[test]
    fn challenges_differ_and_our_own_is_not_answered() {
        let (model, policy) = model();
        let mut chap = Chap::Begun;
        let (id, first) = challenge(&mut chap, &model, policy);
        assert_ne!(challenge(&mut Chap::Begun, &model, policy).1, first);
        let response = chap::encode(&Algorithm::Md5.response(id, b"the-secret", &first));
        let reflected = chap::encode(&first);
        let pairs =
            [("CHAP_N", "u"), ("CHAP_R", &response), ("CHAP_I", "1"), ("CHAP_C", &reflected)];
        assert_eq!(chap.step(&pairs, &model, policy, &mut Vec::new()), Err(Unproved));
    }

    #[test]
    fn the_response_to_an_earlier_challenge_is_refused() {
        let (model, policy) = model();
        let (id, first) = challenge(&mut Chap::Begun, &model, policy);
        let response = chap::encode(&Algorithm::Md5.response(id, b"the-secret", &first));
        let mut chap = Chap::Begun;
        challenge(&mut chap, &model, policy);
        let pairs = [("CHAP_N", "u"), ("CHAP_R", response.as_str())];
        assert_eq!(chap.step(&pairs, &model, policy, &mut Vec::new()), Err(Unproved));
    }

    #[test]
    fn the_target_proves_itself_where_it_is_asked_or_must() {
        let (model, mut policy) = model();
        policy.mutual = true;
        let mut chap = Chap::Begun;
        let (id, first) = challenge(&mut chap, &model, policy);
        let response = chap::encode(&Algorithm::Md5.response(id, b"the-secret", &first));
        let one_way = [("CHAP_N", "u"), ("CHAP_R", response.as_str())];
        assert_eq!(chap.step(&one_way, &model, policy, &mut Vec::new()), Err(Unproved));
        let both = [one_way[0], one_way[1], ("CHAP_I", "7"), ("CHAP_C", "0x0102")];
        let mut answers = Vec::new();
        chap.step(&both, &model, policy, &mut answers).unwrap();
        let proof = chap::encode(&Algorithm::Md5.response(7, b"other-secret", &[1, 2]));
        assert_eq!(text::parse(&answers).unwrap(), [("CHAP_N", "target"), ("CHAP_R", &proof)]);
    }

    #[test]
    fn a_method_that_the_policy_forbids_is_not_chosen() {
        let policy =
            |disabled, required, group| ChapPolicy { disabled, required, mutual: false, group };
        assert_eq!(choose_method("CHAP,None", policy(false, true, 1)), Ok(true));
        assert_eq!(choose_method("None", policy(false, true, 1)), Err(Unproved));
        assert_eq!(choose_method("CHAP", policy(true, false, 0)), Err(Unproved));
        assert_eq!(choose_method("CHAP,None", policy(false, false, 0)), Ok(false));
        assert_eq!(choose_method("CHAP,None", policy(false, false, 1)), Ok(true));
    }
}
