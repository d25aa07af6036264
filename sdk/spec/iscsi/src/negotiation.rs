//! Negotiation of the operational keys of a connection. RFC 7143, section 13.
//!
//! [`Agreed`] has the negotiated values, and [`Offer`] those that this end wants. [`negotiate`] handles one key of the peer and
//! returns the answer.

use crate::text;

/// The negotiated values of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// HeaderDigest is CRC32C.
    pub header_digest: bool,
    /// DataDigest is CRC32C.
    pub data_digest: bool,
    /// MaxConnections.
    pub max_connections: u16,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// The peer's MaxRecvDataSegmentLength, in bytes.
    pub peer_segment_len: u32,
    /// MaxBurstLength, in bytes.
    pub max_burst_len: u32,
    /// FirstBurstLength, in bytes.
    pub first_burst_len: u32,
    /// DefaultTime2Wait, in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain, in seconds.
    pub time2retain: u16,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
}

impl Default for Agreed {
    /// The values before any negotiation (section 13, defaults).
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_connections: 1,
            initial_r2t: true,
            immediate_data: true,
            peer_segment_len: 8192,
            max_burst_len: 262_144,
            first_burst_len: 65_536,
            time2wait: 2,
            time2retain: 20,
            max_outstanding_r2t: 1,
            error_recovery_level: 0,
        }
    }
}

/// The values that this end wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The best values that this end accepts.
    pub wanted: Agreed,
    /// This end refuses connections without CRC32C header digests.
    pub require_header_digest: bool,
    /// This end refuses connections without CRC32C data digests.
    pub require_data_digest: bool,
}

/// The answer to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to send.
    Value(String),
    /// The key is a declaration, which has no answer.
    None,
    /// `NotUnderstood`.
    NotUnderstood,
    /// `Irrelevant`.
    Irrelevant,
    /// `Reject`: the key does not allow the value.
    Reject,
}

impl Answer {
    /// As text, if there is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Value(value) => Some(value),
            Self::None => None,
            Self::NotUnderstood => Some("NotUnderstood"),
            Self::Irrelevant => Some("Irrelevant"),
            Self::Reject => Some("Reject"),
        }
    }
}

/// Smallest and largest length of a segment or burst, in bytes.
const SEGMENT: std::ops::RangeInclusive<u64> = 512..=0xff_ffff;

/// Handles an operational key of the peer: updates the negotiated values, and returns the answer.
///
/// `is_discovery`: the session is a discovery session, in which some keys are irrelevant.
pub fn negotiate(
    key: &str,
    value: &str,
    offer: &Offer,
    agreed: &mut Agreed,
    is_discovery: bool,
) -> Answer {
    let wanted = &offer.wanted;
    match key {
        "HeaderDigest" => digest(
            value,
            wanted.header_digest,
            offer.require_header_digest,
            &mut agreed.header_digest,
        ),
        "DataDigest" => {
            digest(value, wanted.data_digest, offer.require_data_digest, &mut agreed.data_digest)
        }
        "MaxRecvDataSegmentLength" => match number(value, SEGMENT) {
            Some(len) => {
                agreed.peer_segment_len = len;
                Answer::None
            }
            None => Answer::Reject,
        },
        "ErrorRecoveryLevel" => {
            smaller(value, 0..=2, wanted.error_recovery_level, &mut agreed.error_recovery_level)
        }
        "DefaultTime2Wait" => larger(value, 0..=3600, wanted.time2wait, &mut agreed.time2wait),
        "DefaultTime2Retain" => {
            smaller(value, 0..=3600, wanted.time2retain, &mut agreed.time2retain)
        }
        "MaxConnections"
        | "InitialR2T"
        | "ImmediateData"
        | "MaxBurstLength"
        | "FirstBurstLength"
        | "MaxOutstandingR2T"
        | "DataPDUInOrder"
        | "DataSequenceInOrder"
        | "TaskReporting"
            if is_discovery =>
        {
            Answer::Irrelevant
        }
        "MaxConnections" => {
            smaller(value, 1..=65535, wanted.max_connections, &mut agreed.max_connections)
        }
        "InitialR2T" => {
            boolean(value, |theirs| theirs | wanted.initial_r2t, &mut agreed.initial_r2t)
        }
        "ImmediateData" => {
            boolean(value, |theirs| theirs & wanted.immediate_data, &mut agreed.immediate_data)
        }
        "MaxBurstLength" => {
            smaller(value, SEGMENT, wanted.max_burst_len, &mut agreed.max_burst_len)
        }
        "FirstBurstLength" => {
            smaller(value, SEGMENT, wanted.first_burst_len, &mut agreed.first_burst_len)
        }
        "MaxOutstandingR2T" => {
            smaller(value, 1..=65535, wanted.max_outstanding_r2t, &mut agreed.max_outstanding_r2t)
        }
        // This end sends data in order, even if the peer accepts another order.
        "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value, |_| true, &mut true),
        // RFC 7143 has no markers; appendix A of RFC 3720 defines them.
        "IFMarker" | "OFMarker" => boolean(value, |_| false, &mut false),
        "IFMarkInt" | "OFMarkInt" => Answer::Irrelevant,
        "TaskReporting" => match value.split(',').find(|item| *item == "RFC3720") {
            Some(item) => Answer::Value(item.to_owned()),
            None => Answer::Reject,
        },
        "iSCSIProtocolLevel" => match number::<u8>(value, 0..=31) {
            Some(level) => Answer::Value(level.min(1).to_string()),
            None => Answer::Reject,
        },
        _ => Answer::NotUnderstood,
    }
}

/// Picks the first value of the peer's list that this end accepts.
fn digest(value: &str, wants: bool, requires: bool, agreed: &mut bool) -> Answer {
    for item in value.split(',') {
        let is_crc = match item {
            "CRC32C" if wants || requires => true,
            "None" if !requires => false,
            _ => continue,
        };
        *agreed = is_crc;
        return Answer::Value(item.to_owned());
    }
    Answer::Reject
}

fn number<T: TryFrom<u64>>(value: &str, allowed: std::ops::RangeInclusive<u64>) -> Option<T> {
    text::number(value).filter(|number| allowed.contains(number)).and_then(|n| n.try_into().ok())
}

fn smaller<T: TryFrom<u64> + Ord + Copy + ToString>(
    value: &str,
    allowed: std::ops::RangeInclusive<u64>,
    wanted: T,
    agreed: &mut T,
) -> Answer {
    let Some(theirs) = number::<T>(value, allowed) else { return Answer::Reject };
    *agreed = theirs.min(wanted);
    Answer::Value(agreed.to_string())
}

fn larger<T: TryFrom<u64> + Ord + Copy + ToString>(
    value: &str,
    allowed: std::ops::RangeInclusive<u64>,
    wanted: T,
    agreed: &mut T,
) -> Answer {
    let Some(theirs) = number::<T>(value, allowed) else { return Answer::Reject };
    *agreed = theirs.max(wanted);
    Answer::Value(agreed.to_string())
}

fn boolean(value: &str, choose: impl FnOnce(bool) -> bool, agreed: &mut bool) -> Answer {
    let Some(theirs) = text::boolean(value) else { return Answer::Reject };
    *agreed = choose(theirs);
    Answer::Value(if *agreed { "Yes" } else { "No" }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        Offer {
            wanted: Agreed::default(),
            require_header_digest: false,
            require_data_digest: false,
        }
    }

    fn ask(key: &str, value: &str, offer: &Offer) -> (Option<String>, Agreed) {
        let mut agreed = Agreed::default();
        let answer = negotiate(key, value, offer, &mut agreed, false);
        (answer.text().map(str::to_owned), agreed)
    }

    fn answer(key: &str, value: &str) -> Option<String> {
        ask(key, value, &offer()).0
    }

    #[test]
    fn each_kind_of_key_has_its_function() {
        for (key, theirs, ours) in [
            ("MaxBurstLength", "16776192", "262144"),
            ("MaxBurstLength", "0x1000", "4096"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Retain", "0", "0"),
            ("InitialR2T", "No", "Yes"),
            ("ImmediateData", "No", "No"),
            ("HeaderDigest", "CRC32C,None", "None"),
            ("DataPDUInOrder", "No", "Yes"),
            ("OFMarker", "Yes", "No"),
            ("MaxConnections", "8", "1"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("X-com.example.key", "1", "NotUnderstood"),
            ("MaxBurstLength", "511", "Reject"),
            ("InitialR2T", "yes", "Reject"),
            ("HeaderDigest", "MD5", "Reject"),
        ] {
            assert_eq!(answer(key, theirs).as_deref(), Some(ours), "{key}={theirs}");
        }
        let (text, agreed) = ask("MaxRecvDataSegmentLength", "4096", &offer());
        assert_eq!((text, agreed.peer_segment_len), (None, 4096));
    }

    #[test]
    fn a_digest_that_is_required_is_not_negotiated_away() {
        let strict = Offer { require_header_digest: true, ..offer() };
        assert_eq!(ask("HeaderDigest", "None", &strict).0.as_deref(), Some("Reject"));
        let (text, agreed) = ask("HeaderDigest", "None,CRC32C", &strict);
        assert_eq!((text.as_deref(), agreed.header_digest), (Some("CRC32C"), true));
    }

    #[test]
    fn the_peers_order_counts_where_both_are_wanted() {
        let mut both = offer();
        both.wanted.data_digest = true;
        assert_eq!(ask("DataDigest", "None,CRC32C", &both).0.as_deref(), Some("None"));
        assert_eq!(ask("DataDigest", "CRC32C,None", &both).0.as_deref(), Some("CRC32C"));
    }

    #[test]
    fn keys_of_a_session_with_units_mean_nothing_in_discovery() {
        let mut agreed = Agreed::default();
        let answer = negotiate("MaxBurstLength", "512", &offer(), &mut agreed, true);
        assert_eq!((answer, agreed), (Answer::Irrelevant, Agreed::default()));
    }

    proptest! {
        #[test]
        fn no_value_makes_a_length_that_is_not_allowed(value in "\\PC{0,12}") {
            for key in ["MaxBurstLength", "FirstBurstLength", "MaxRecvDataSegmentLength", "MaxOutstandingR2T"] {
                let (_, agreed) = ask(key, &value, &offer());
                prop_assert!(agreed.max_burst_len >= 512 && agreed.first_burst_len >= 512);
                prop_assert!(agreed.peer_segment_len >= 512 && agreed.max_outstanding_r2t >= 1);
            }
        }
    }
}
