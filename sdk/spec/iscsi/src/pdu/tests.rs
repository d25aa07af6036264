//! Headers as bytes.

use super::*;
use crate::Header;
use proptest::prelude::*;

#[test]
fn a_command_has_its_fields_where_the_figure_says() {
    let command = ScsiCommand {
        flags: FINAL | ScsiCommand::READ,
        lun: 1 << 48,
        itt: 7,
        expected_len: 512,
        cmd_sn: 1,
        exp_stat_sn: 2,
        cdb: [0x28; 16],
    };
    let bhs = command.encode(0x01_0203);
    assert_eq!(bhs[..10], [1, 0xc0, 0, 0, 0, 1, 2, 3, 0, 1]);
    assert_eq!((bhs[19], bhs[22], bhs[27], bhs[31], bhs[32]), (7, 2, 1, 2, 0x28));
    assert_eq!(ScsiCommand::parse(&bhs), command);
    assert_eq!(Header::parse(&bhs).data_len, 0x01_0203);
    assert_eq!(command.encode_immediate(0)[0], 0x41);
}

#[test]
fn a_login_says_where_it_is_and_wants_to_go() {
    let login = Login { flags: 0x87, ..Login::default() };
    assert_eq!(login.current(), Some(Stage::Operational));
    assert_eq!(login.next(), Some(Stage::FullFeature));
    assert_eq!(Login { flags: 0x04, ..login }.next(), None);
    assert_eq!(Login { flags: 0x08, ..login }.current(), None);
}

proptest! {
    #[test]
    fn what_is_read_of_any_segment_survives(bhs in proptest::array::uniform32(any::<u8>())) {
        let mut bytes = [0; BHS_LEN];
        bytes[..32].copy_from_slice(&bhs);
        bytes[32..].copy_from_slice(&bhs[..16]);
        macro_rules! survives { ($($name:ident)*) => {$(
            let read = $name::parse(&bytes);
            prop_assert_eq!($name::parse(&read.encode(9)), read);
        )*}; }
        survives!(ScsiCommand ScsiResponse TaskManagement TaskManagementResponse DataOut DataIn R2t AsyncMessage
            Text TextResponse Login LoginResponse Logout LogoutResponse Snack Reject NopOut NopIn);
    }
}
