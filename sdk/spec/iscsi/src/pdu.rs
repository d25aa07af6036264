//! The basic header segments, one structure each, declared by their byte offsets as the figures of RFC 7143, section 11 are.
//!
//! The parser accepts any content; its callers judge the values.

use crate::header::Opcode;
use crate::{BHS_LEN, NO_TAG};

/// A number with a fixed encoding.
trait Field: Sized {
    fn take(bytes: &[u8; BHS_LEN], at: usize) -> Self;
    fn put(&self, bytes: &mut [u8; BHS_LEN], at: usize);
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl Field for $ty {
            fn take(bytes: &[u8; BHS_LEN], at: usize) -> Self {
                Self::from_be_bytes(Field::take(bytes, at))
            }
            fn put(&self, bytes: &mut [u8; BHS_LEN], at: usize) {
                self.to_be_bytes().put(bytes, at);
            }
        }
    )*};
}
integers!(u8 u16 u32 u64);

impl<const N: usize> Field for [u8; N] {
    fn take(bytes: &[u8; BHS_LEN], at: usize) -> Self {
        bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
    fn put(&self, bytes: &mut [u8; BHS_LEN], at: usize) {
        if let Some(place) = bytes.get_mut(at..at + N) {
            place.copy_from_slice(self);
        }
    }
}

macro_rules! pdu {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$field_meta:meta])* $at:literal => $field:ident: $ty:ty, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        const _: () = {
            let end = 1;
            $(
                assert!($at >= end, concat!(stringify!($field), " overlaps the field before it"));
                let end = $at + size_of::<$ty>();
            )*
            assert!(end <= BHS_LEN, "the last field ends past the segment");
        };

        impl $name {
            /// Parses the segment.
            #[must_use]
            pub fn parse(bhs: &[u8; BHS_LEN]) -> Self {
                Self { $( $field: Field::take(bhs, $at), )* }
            }

            /// The segment of a PDU with `data_len` bytes of data, in 24 bits; bytes that belong to no field are zero.
            #[must_use]
            pub fn encode(&self, data_len: u32) -> [u8; BHS_LEN] {
                let mut bytes = [0; BHS_LEN];
                data_len.put(&mut bytes, 4);
                (Opcode::$name as u8).put(&mut bytes, 0);
                0_u8.put(&mut bytes, 4);
                $( self.$field.put(&mut bytes, $at); )*
                bytes
            }

            /// As [`encode`](Self::encode), for immediate delivery.
            #[must_use]
            pub fn encode_immediate(&self, data_len: u32) -> [u8; BHS_LEN] {
                let mut bytes = self.encode(data_len);
                (Opcode::$name as u8 | 0x40).put(&mut bytes, 0);
                bytes
            }
        }
    };
}

/// F, the final bit of flags.
pub const FINAL: u8 = 0x80;
/// C, the continue bit of Login and Text.
pub const CONTINUE: u8 = 0x40;

pdu! {
    /// Section 11.3. Bits of `flags`: [`FINAL`], [`READ`](Self::READ), [`WRITE`](Self::WRITE), and the task attribute in the low three.
    ScsiCommand {
        /// Flags.
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Expected data transfer length, in bytes.
        20 => expected_len: u32,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
        /// The CDB.
        32 => cdb: [u8; 16],
    }
}

impl ScsiCommand {
    /// R: data goes to the initiator.
    pub const READ: u8 = 0x40;
    /// W: data comes from the initiator.
    pub const WRITE: u8 = 0x20;
}

pdu! {
    /// Section 11.4.
    ScsiResponse {
        /// [`FINAL`] and the residual bits below.
        1 => flags: u8,
        /// 0 = the command was executed, 1 = target failure.
        2 => response: u8,
        /// SCSI status.
        3 => status: u8,
        /// Initiator task tag.
        16 => itt: u32,
        /// SNACK tag.
        20 => snack_tag: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// ExpDataSN: how many Data-In and R2T PDUs were sent.
        36 => exp_data_sn: u32,
        /// Residual count of the read part of a bidirectional command, in bytes.
        40 => bidi_residual: u32,
        /// Residual count, in bytes.
        44 => residual: u32,
    }
}

/// O: the initiator expected less data than the command has. In the flags of [`ScsiResponse`] and [`DataIn`].
pub const OVERFLOW: u8 = 0x04;
/// U: the initiator expected more data than the command has.
pub const UNDERFLOW: u8 = 0x02;

pdu! {
    /// Section 11.5.
    TaskManagement {
        /// [`FINAL`] and the function in the low seven bits.
        1 => function: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Referenced task tag.
        20 => ref_tag: u32,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
        /// RefCmdSN.
        32 => ref_cmd_sn: u32,
        /// ExpDataSN.
        36 => exp_data_sn: u32,
    }
}

/// Task management functions. Section 11.5.1.
#[allow(missing_docs, reason = "the names are the standard's")]
pub mod function {
    pub const ABORT_TASK: u8 = 1;
    pub const ABORT_TASK_SET: u8 = 2;
    pub const CLEAR_ACA: u8 = 3;
    pub const CLEAR_TASK_SET: u8 = 4;
    pub const LOGICAL_UNIT_RESET: u8 = 5;
    pub const TARGET_WARM_RESET: u8 = 6;
    pub const TARGET_COLD_RESET: u8 = 7;
    pub const TASK_REASSIGN: u8 = 8;
}

/// The result of a task management function. Section 11.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
#[repr(u8)]
pub enum FunctionResponse {
    Complete = 0,
    TaskDoesNotExist = 1,
    LunDoesNotExist = 2,
    TaskStillAllegiant = 3,
    ReassignNotSupported = 4,
    NotSupported = 5,
    AuthorizationFailed = 6,
    Rejected = 255,
}

pdu! {
    /// Section 11.6.
    TaskManagementResponse {
        /// [`FINAL`].
        1 => flags: u8,
        /// A [`FunctionResponse`].
        2 => response: u8,
        /// Initiator task tag.
        16 => itt: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
    }
}

pdu! {
    /// Section 11.7, Data-Out.
    DataOut {
        /// [`FINAL`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// The R2T's tag; [`NO_TAG`] for unsolicited data.
        20 => ttt: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
        /// DataSN.
        36 => data_sn: u32,
        /// Buffer offset, in bytes.
        40 => offset: u32,
    }
}

pdu! {
    /// Section 11.7, Data-In.
    DataIn {
        /// [`FINAL`], A 0x40, [`OVERFLOW`], [`UNDERFLOW`], [`STATUS`](Self::STATUS).
        1 => flags: u8,
        /// SCSI status, with [`STATUS`](Self::STATUS).
        3 => status: u8,
        /// Logical unit; with A only.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Target transfer tag; [`NO_TAG`] without A.
        20 => ttt: u32,
        /// StatSN, with [`STATUS`](Self::STATUS).
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// DataSN.
        36 => data_sn: u32,
        /// Buffer offset, in bytes.
        40 => offset: u32,
        /// Residual count, in bytes.
        44 => residual: u32,
    }
}

impl DataIn {
    /// S: status comes with the data.
    pub const STATUS: u8 = 0x01;
}

pdu! {
    /// Section 11.8.
    R2t {
        /// [`FINAL`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Target transfer tag.
        20 => ttt: u32,
        /// StatSN: the next one.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// R2TSN.
        36 => r2t_sn: u32,
        /// Buffer offset, in bytes.
        40 => offset: u32,
        /// Desired data transfer length, in bytes.
        44 => len: u32,
    }
}

pdu! {
    /// Section 11.9. Its data is sense data if `event` is 0.
    AsyncMessage {
        /// [`FINAL`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// All ones.
        16 => tag: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// AsyncEvent: 0 SCSI event, 1 logout requested, 2 connection dropped, 3 session dropped, 4 negotiate again.
        36 => event: u8,
        /// AsyncVCode.
        37 => vendor_code: u8,
        /// Parameter 1.
        38 => parameter1: u16,
        /// Parameter 2.
        40 => parameter2: u16,
        /// Parameter 3.
        42 => parameter3: u16,
    }
}

pdu! {
    /// Section 11.10.
    Text {
        /// [`FINAL`] and [`CONTINUE`].
        1 => flags: u8,
        /// Logical unit, of the target's choice.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Target transfer tag of the response that this request continues.
        20 => ttt: u32,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
    }
}

pdu! {
    /// Section 11.11.
    TextResponse {
        /// [`FINAL`] and [`CONTINUE`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Target transfer tag; [`NO_TAG`] with [`FINAL`].
        20 => ttt: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
    }
}

/// The phases of a connection. Section 11.12.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Security negotiation.
    Security = 0,
    /// Operational negotiation.
    Operational = 1,
    /// Full feature phase.
    FullFeature = 3,
}

impl Stage {
    /// The stage with this code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 3 {
            0 => Self::Security,
            1 => Self::Operational,
            3 => Self::FullFeature,
            _ => return None,
        })
    }
}

pdu! {
    /// Section 11.12. Bits of `flags`: T 0x80, [`CONTINUE`], the current stage in bits 2 and 3, the next in 0 and 1.
    Login {
        /// Flags.
        1 => flags: u8,
        /// Version-max.
        2 => version_max: u8,
        /// Version-min.
        3 => version_min: u8,
        /// ISID.
        8 => isid: [u8; 6],
        /// TSIH; 0 for a new session.
        14 => tsih: u16,
        /// Initiator task tag.
        16 => itt: u32,
        /// CID.
        20 => cid: u16,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
    }
}

impl Login {
    /// The current stage.
    #[must_use]
    pub const fn current(&self) -> Option<Stage> {
        Stage::from_bits(self.flags >> 2)
    }

    /// The next stage, if the initiator wants to enter it (T).
    #[must_use]
    pub const fn next(&self) -> Option<Stage> {
        if self.flags & FINAL == 0 { None } else { Stage::from_bits(self.flags) }
    }
}

pdu! {
    /// Section 11.13.
    LoginResponse {
        /// As of [`Login`].
        1 => flags: u8,
        /// Version-max.
        2 => version_max: u8,
        /// Version-active.
        3 => version_active: u8,
        /// ISID.
        8 => isid: [u8; 6],
        /// TSIH.
        14 => tsih: u16,
        /// Initiator task tag.
        16 => itt: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// Status-Class and Status-Detail, a [`LoginStatus`].
        36 => status: u16,
    }
}

/// The status of a login: class and detail. Section 11.13.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
#[repr(u16)]
pub enum LoginStatus {
    Success = 0x0000,
    TargetMovedTemporarily = 0x0101,
    TargetMovedPermanently = 0x0102,
    InitiatorError = 0x0200,
    AuthenticationFailure = 0x0201,
    AuthorizationFailure = 0x0202,
    NotFound = 0x0203,
    TargetRemoved = 0x0204,
    UnsupportedVersion = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    CannotIncludeInSession = 0x0208,
    SessionTypeNotSupported = 0x0209,
    SessionDoesNotExist = 0x020a,
    InvalidDuringLogin = 0x020b,
    TargetError = 0x0300,
    ServiceUnavailable = 0x0301,
    OutOfResources = 0x0302,
}

pdu! {
    /// Section 11.14.
    Logout {
        /// [`FINAL`] and the reason in the low seven bits: 0 close the session, 1 close the connection, 2 remove it for recovery.
        1 => reason: u8,
        /// Initiator task tag.
        16 => itt: u32,
        /// CID.
        20 => cid: u16,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
    }
}

pdu! {
    /// Section 11.15.
    LogoutResponse {
        /// [`FINAL`].
        1 => flags: u8,
        /// 0 closed, 1 CID not found, 2 recovery not supported, 3 cleanup failed.
        2 => response: u8,
        /// Initiator task tag.
        16 => itt: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// Time2Wait, in seconds.
        40 => time2wait: u16,
        /// Time2Retain, in seconds.
        42 => time2retain: u16,
    }
}

pdu! {
    /// Section 11.16.
    Snack {
        /// [`FINAL`] and the type in the low four bits.
        1 => kind: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag.
        16 => itt: u32,
        /// Target transfer tag or SNACK tag.
        20 => ttt: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
        /// BegRun.
        40 => begin: u32,
        /// RunLength.
        44 => len: u32,
    }
}

pdu! {
    /// Section 11.17. Its data is the header that was rejected.
    Reject {
        /// [`FINAL`].
        1 => flags: u8,
        /// A [`RejectReason`].
        2 => reason: u8,
        /// All ones.
        16 => tag: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
        /// DataSN or R2TSN.
        36 => data_sn: u32,
    }
}

/// Why a PDU was rejected. Section 11.17.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
#[repr(u8)]
pub enum RejectReason {
    DataDigestError = 0x02,
    SnackReject = 0x03,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    ImmediateCommandReject = 0x06,
    TaskInProgress = 0x07,
    InvalidDataAck = 0x08,
    InvalidPduField = 0x09,
    LongOperationReject = 0x0a,
    WaitingForLogout = 0x0c,
}

pdu! {
    /// Section 11.18.
    NopOut {
        /// [`FINAL`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag; [`NO_TAG`] when no answer is wanted.
        16 => itt: u32,
        /// Target transfer tag of the NOP-In that this answers.
        20 => ttt: u32,
        /// CmdSN.
        24 => cmd_sn: u32,
        /// ExpStatSN.
        28 => exp_stat_sn: u32,
    }
}

pdu! {
    /// Section 11.19.
    NopIn {
        /// [`FINAL`].
        1 => flags: u8,
        /// Logical unit.
        8 => lun: u64,
        /// Initiator task tag of the NOP-Out that this answers.
        16 => itt: u32,
        /// Target transfer tag; [`NO_TAG`] when no answer is wanted.
        20 => ttt: u32,
        /// StatSN.
        24 => stat_sn: u32,
        /// ExpCmdSN.
        28 => exp_cmd_sn: u32,
        /// MaxCmdSN.
        32 => max_cmd_sn: u32,
    }
}

impl Reject {
    /// Rejects a PDU. Its header is the data. `window`: ExpCmdSN and MaxCmdSN.
    #[must_use]
    pub fn new(reason: RejectReason, stat_sn: u32, window: (u32, u32)) -> Self {
        let (exp_cmd_sn, max_cmd_sn) = window;
        let (flags, reason) = (FINAL, reason as u8);
        Self { flags, reason, tag: NO_TAG, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn: 0 }
    }
}

impl NopIn {
    /// Answers a ping of the initiator. `window`: ExpCmdSN and MaxCmdSN.
    #[must_use]
    pub fn answer(ping: &NopOut, stat_sn: u32, window: (u32, u32)) -> Self {
        let (exp_cmd_sn, max_cmd_sn) = window;
        let itt = ping.itt;
        Self { flags: FINAL, lun: 0, itt, ttt: NO_TAG, stat_sn, exp_cmd_sn, max_cmd_sn }
    }
}

#[cfg(test)]
mod tests;
