//! Identify: the data about a controller and its namespaces. NVMe Base 2.0, section 5.17.

use super::{Controller, error_log, events, property};
use crate::io::{COPY_RANGES_MAX, copy_blocks, copy_range_blocks};
use crate::model::{AnaState, ControllerKind, Geometry, Namespace, Subsystem};
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::admin::Identify;
use drivebay_spec_nvme::feature::async_event;
use drivebay_spec_nvme::identify::{
    self, Controller as Data, IndependentNamespace, LEN, LbaFormat, Namespace as NamespaceData,
    NamespaceId, NvmController, NvmNamespace, PowerState, anacap, cmic, cns, cntrltype, csi,
    ctratt, dlfeat, lpa, nmic, nsfeat, oncs, sgls, vwc,
};
use drivebay_spec_nvme::text::{NulText, SpaceText};

/// Firmware revision: the version of the target.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");
/// The IEEE OUI in Identify Controller. It belongs to somebody else, because the target has no registered OUI.
const IEEE: [u8; 3] = [0xe4, 0xd2, 0x5c];
/// Bytes of a command in a capsule, and of a response, in units of 16.
const COMMAND_UNITS: u32 = 4;
const RESPONSE_UNITS: u32 = 1;
/// Required and largest sizes of queue entries, as powers of two.
const SQES: u8 = 0x66;
const CQES: u8 = 0x44;
/// Maximum number of Abort commands at the same time.
const ABORTS_MAX: u8 = 4;
/// Warning and critical temperature, in kelvins. There is no sensor, so they are never reached.
const WARNING_TEMPERATURE: u16 = 0x0157;
const CRITICAL_TEMPERATURE: u16 = 0x0175;
/// How long a host waits for an ANA group in the state "change", in seconds. The value is the reference's.
const ANA_TRANSITION_SECONDS: u8 = 10;

/// Returns the data of an Identify command.
///
/// # Errors
/// INVALID_NAMESPACE_OR_FORMAT for a missing namespace, INVALID_FIELD for an unsupported structure.
pub fn identify(
    subsystem: &Subsystem,
    controller: &Controller,
    crdt: [u16; 3],
    command: Identify,
) -> Result<[u8; LEN], Status> {
    if controller.kind == ControllerKind::Discovery && command.cns != cns::CONTROLLER {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    match command.cns {
        cns::CONTROLLER => Ok(controller_data(subsystem, controller, crdt).encode()),
        cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => {
            namespace_data(subsystem, controller, command.nsid)
        }
        cns::ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES => {
            namespace_list(subsystem, command.nsid)
        }
        cns::NAMESPACE_ID_DESCRIPTORS => Ok(descriptors(existing(subsystem, command.nsid)?)),
        cns::INDEPENDENT_NAMESPACE => {
            Ok(independent(subsystem, existing(subsystem, command.nsid)?).encode())
        }
        cns::CONTROLLERS => {
            let cntlids = subsystem.controllers.keys().copied();
            Ok(identify::controller_list(cntlids, command.cntid))
        }
        cns::NAMESPACE_CONTROLLERS => {
            existing(subsystem, command.nsid)?;
            let cntlids = subsystem.controllers.keys().copied();
            Ok(identify::controller_list(cntlids, command.cntid))
        }
        cns::CSI_NAMESPACE | cns::CSI_CONTROLLER | cns::CSI_ACTIVE_NAMESPACES => {
            of_command_set(subsystem, command)
        }
        cns::IO_COMMAND_SETS => Ok(identify::io_command_sets(&[1 << csi::NVM])),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

fn of_command_set(subsystem: &Subsystem, command: Identify) -> Result<[u8; LEN], Status> {
    if command.csi != csi::NVM {
        return Err(Status::INVALID_IO_COMMAND_SET.with_dnr());
    }
    match command.cns {
        cns::CSI_NAMESPACE => {
            existing(subsystem, command.nsid)?;
            Ok(NvmNamespace::default().encode())
        }
        cns::CSI_CONTROLLER => {
            let options = &subsystem.options;
            let data =
                NvmController { wzsl: options.wzsl, dmrsl: options.dmrsl, ..Default::default() };
            Ok(data.encode())
        }
        _ => namespace_list(subsystem, command.nsid),
    }
}

fn controller_data(subsystem: &Subsystem, controller: &Controller, crdt: [u16; 3]) -> Data {
    let limits = &controller.limits;
    let common = Data {
        sn: SpaceText::new(&subsystem.options.serial_number),
        mn: SpaceText::new(&subsystem.options.model_number),
        fr: SpaceText::new(FIRMWARE),
        mdts: limits.mdts(),
        cntlid: controller.cntlid,
        ver: property::VERSION.bits(),
        aerl: less_one(events::REQUESTS_MAX),
        elpe: less_one(error_log::ENTRIES_MAX),
        lpa: lpa::EXTENDED_DATA | lpa::COMMANDS_SUPPORTED,
        kas: limits.kas,
        maxcmd: limits.max_queue_depth,
        sgls: sgls::SUPPORTED | sgls::OFFSET | sgls::TRANSPORT,
        subnqn: NulText::new(&subsystem.nqn).unwrap_or(Data::default().subnqn),
        ..Data::default()
    };
    match controller.kind {
        ControllerKind::Discovery => Data {
            cntrltype: cntrltype::DISCOVERY,
            oaes: async_event::DISCOVERY_LOG_CHANGE,
            ctratt: ctratt::HOST_ID_128,
            lpa: lpa::EXTENDED_DATA,
            ..common
        },
        ControllerKind::Io => io_controller_data(subsystem, controller, crdt, common),
    }
}

fn io_controller_data(
    subsystem: &Subsystem,
    controller: &Controller,
    crdt: [u16; 3],
    common: Data,
) -> Data {
    let in_capsule_units = controller.limits.in_capsule_data_size / 16;
    let mut psd = common.psd.clone();
    if let Some(first) = psd.first_mut() {
        *first = PowerState { mp: 1, ..PowerState::default() };
    }
    let common = if subsystem.options.ana_reporting { with_ana(subsystem, common) } else { common };
    Data {
        ieee: IEEE,
        cmic: common.cmic | cmic::MULTI_PORT | cmic::MULTI_CONTROLLER,
        oaes: common.oaes | async_event::NAMESPACE_ATTRIBUTE,
        ctratt: ctratt::HOST_ID_128,
        cntrltype: cntrltype::IO,
        crdt,
        acl: ABORTS_MAX - 1,
        frmw: 1 << 1 | 1, // one slot, and it is read-only
        wctemp: WARNING_TEMPERATURE,
        cctemp: CRITICAL_TEMPERATURE,
        sqes: SQES,
        cqes: CQES,
        nn: subsystem.max_namespaces(),
        mnan: subsystem.max_namespaces(),
        oncs: optional_commands(subsystem),
        ocfs: 1, // format 0
        // Always present. Hosts read this field only when they connect, and a disk with a cache may be added later. Without this bit they
        // would never flush that disk.
        vwc: vwc::FLUSH_ALL_NOT_SUPPORTED | vwc::PRESENT,
        ioccsz: COMMAND_UNITS + in_capsule_units,
        iorcsz: RESPONSE_UNITS,
        msdbd: 1,
        psd,
        ..common
    }
}

/// Adds the fields of asymmetric namespace access. NVMe Base 2.0, section 8.1. A namespace may move to another group while hosts use it,
/// so ANACAP does not report constant groups.
fn with_ana(subsystem: &Subsystem, common: Data) -> Data {
    Data {
        cmic: cmic::ANA,
        oaes: async_event::ANA_CHANGE,
        anatt: ANA_TRANSITION_SECONDS,
        anacap: anacap::OPTIMIZED
            | anacap::NON_OPTIMIZED
            | anacap::INACCESSIBLE
            | anacap::PERSISTENT_LOSS
            | anacap::CHANGE,
        anagrpmax: subsystem.max_namespaces(),
        nanagrpid: subsystem.max_namespaces(),
        ..common
    }
}

/// The ANA group to report; 0 when the subsystem does not report ANA.
fn reported_group(subsystem: &Subsystem, namespace: &Namespace) -> u32 {
    if subsystem.options.ana_reporting { namespace.anagrpid } else { 0 }
}

/// The optional commands that every namespace supports. Without namespaces these are all optional commands, because later namespaces may
/// support them.
fn optional_commands(subsystem: &Subsystem) -> u16 {
    let all = |can: fn(&Namespace) -> bool| subsystem.namespaces.values().all(can);
    let mut commands = oncs::RESERVATIONS;
    if all(|ns| ns.geometry.ops.compare) {
        commands |= oncs::COMPARE;
    }
    if all(|ns| ns.geometry.ops.unmap) {
        commands |= oncs::DATASET_MANAGEMENT;
    }
    if all(|ns| ns.geometry.ops.write_zeroes) {
        commands |= oncs::WRITE_ZEROES;
    }
    if all(|ns| copy_range_blocks(ns.geometry.block_size) > 0) {
        commands |= oncs::COPY;
    }
    commands
}

fn existing(subsystem: &Subsystem, nsid: u32) -> Result<&Namespace, Status> {
    let missing = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    subsystem.namespaces.get(&nsid).ok_or(missing)
}

/// A valid number without a namespace gives zeroes; a number out of range gives an error.
fn namespace_data(
    subsystem: &Subsystem,
    controller: &Controller,
    nsid: u32,
) -> Result<[u8; LEN], Status> {
    match subsystem.namespaces.get(&nsid) {
        Some(namespace) => {
            let fields = namespace_fields(namespace);
            let anagrpid = reported_group(subsystem, namespace);
            // NUSE is 0 in a state without access. NVMe Base 2.0, section 8.1.3.
            let nuse = match subsystem.ana_state(&controller.listener, namespace.anagrpid) {
                AnaState::Inaccessible | AnaState::PersistentLoss => 0,
                _ => fields.nuse,
            };
            Ok(NamespaceData { anagrpid, nuse, ..fields }.encode())
        }
        None if (1..=subsystem.max_namespaces()).contains(&nsid) => {
            Ok(NamespaceData::default().encode())
        }
        None => Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()),
    }
}

fn namespace_fields(namespace: &Namespace) -> NamespaceData {
    let geometry = &namespace.geometry;
    let blocks_less_one = |blocks: u32| u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX);
    let granularity = blocks_less_one(geometry.phys_block_size / geometry.block_size.max(1));
    let atomic = blocks_less_one(geometry.atomic_write_unit);
    let mut lbaf = NamespaceData::default().lbaf;
    if let Some(format) = lbaf.first_mut() {
        let lbads = u8::try_from(geometry.block_size.trailing_zeros()).unwrap_or(0);
        *format = LbaFormat { lbads, ..LbaFormat::default() };
    }
    NamespaceData {
        nsze: geometry.num_blocks,
        ncap: geometry.num_blocks,
        nuse: geometry.num_blocks,
        nsfeat: nsfeat::OPTIMAL_PERFORMANCE | nsfeat::ATOMIC_UNITS,
        nmic: nmic::SHARED,
        rescap: reservation_capabilities(namespace),
        dlfeat: deallocation_features(geometry),
        nawun: atomic,
        nawupf: atomic,
        noiob: u16::try_from(geometry.optimal_boundary).unwrap_or(0),
        npwg: granularity,
        npwa: granularity,
        npdg: granularity,
        npda: granularity,
        nows: granularity,
        nsattr: geometry.is_read_only.into(),
        mssrl: copy_range_blocks(geometry.block_size),
        mcl: copy_blocks(geometry.block_size),
        msrc: u8::try_from(COPY_RANGES_MAX - 1).unwrap_or(u8::MAX),
        nguid: namespace.nguid,
        eui64: namespace.eui64,
        lbaf,
        ..NamespaceData::default()
    }
}

fn deallocation_features(geometry: &Geometry) -> u8 {
    let has = |is_set: bool, bits: u8| if is_set { bits } else { 0 };
    has(geometry.ops.write_zeroes, dlfeat::WRITE_ZEROES_DEALLOCATE)
        | has(geometry.ops.unmap && geometry.deallocated_reads_zeroes, dlfeat::READS_ZEROES)
}

/// RESCAP: all types, IEKEY as in NVMe 1.3, and persistence if there is a `ptpl_file`.
fn reservation_capabilities(namespace: &Namespace) -> u8 {
    0xfe | u8::from(namespace.ptpl_file.is_some())
}

fn independent(subsystem: &Subsystem, namespace: &Namespace) -> IndependentNamespace {
    IndependentNamespace {
        anagrpid: reported_group(subsystem, namespace),
        nmic: nmic::SHARED,
        rescap: reservation_capabilities(namespace),
        nsattr: namespace.geometry.is_read_only.into(),
        nstat: 1,
        ..IndependentNamespace::default()
    }
}

fn namespace_list(subsystem: &Subsystem, after: u32) -> Result<[u8; LEN], Status> {
    // No number follows the two highest ones. NVMe Base 2.0, section 5.17.2.2.
    if after >= 0xffff_fffe {
        return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    }
    Ok(identify::namespace_list(subsystem.namespaces.keys().copied(), after))
}

fn descriptors(namespace: &Namespace) -> [u8; LEN] {
    let mut ids = Vec::with_capacity(4);
    if namespace.eui64 != [0; 8] {
        ids.push(NamespaceId::Eui64(namespace.eui64));
    }
    if namespace.nguid != [0; 16] {
        ids.push(NamespaceId::Nguid(namespace.nguid));
    }
    if namespace.uuid != [0; 16] {
        ids.push(NamespaceId::Uuid(namespace.uuid));
    }
    ids.push(NamespaceId::Csi(csi::NVM));
    identify::namespace_id_descriptors(&ids)
}

fn less_one(count: usize) -> u8 {
    u8::try_from(count.saturating_sub(1)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::ready;
    use crate::model::tests::subsystem;
    use drivebay_spec_nvme::identify::{parse_namespace_id_descriptors, parse_namespace_list};

    fn ask(cns: u8, nsid: u32) -> Result<[u8; LEN], Status> {
        let command = Identify { nsid, cns, ..Identify::default() };
        identify(&subsystem(), &ready(), [1, 2, 3], command)
    }

    #[test]
    fn a_controller_tells_what_linux_needs_to_connect() {
        let data = Data::parse(&ask(cns::CONTROLLER, 0).unwrap());
        assert_eq!(data.cntlid, 1);
        assert_eq!(data.subnqn.as_str(), Some("nqn.2016-06.io.spdk:cnode1"));
        assert_eq!((data.ioccsz, data.iorcsz, data.icdoff, data.maxcmd), (260, 1, 0, 128));
        assert_eq!((data.sqes, data.cqes, data.mdts, data.kas), (0x66, 0x44, 5, 100));
        assert_eq!((data.nn, data.aerl, data.elpe), (32, 3, 63));
        assert_eq!(data.crdt, [1, 2, 3]);
        assert_eq!(data.vwc & vwc::PRESENT, 1);
        assert_eq!(data.cntrltype, cntrltype::IO);
        let offered = oncs::COMPARE | oncs::DATASET_MANAGEMENT | oncs::WRITE_ZEROES | oncs::COPY;
        assert_eq!((data.oncs, data.ocfs), (offered | oncs::RESERVATIONS, 1));
    }

    #[test]
    fn asymmetric_access_is_reported_where_the_subsystem_reports_it() {
        let mut subsystem = subsystem();
        let tell = |subsystem: &Subsystem, cns| {
            let command = Identify { nsid: 1, cns, ..Identify::default() };
            identify(subsystem, &ready(), [0; 3], command).unwrap()
        };
        assert_eq!(Data::parse(&tell(&subsystem, cns::CONTROLLER)).cmic & cmic::ANA, 0);
        assert_eq!(NamespaceData::parse(&tell(&subsystem, cns::NAMESPACE)).anagrpid, 0);
        subsystem.options.ana_reporting = true;
        subsystem.listeners[0].access.set(None, AnaState::Inaccessible);
        let data = Data::parse(&tell(&subsystem, cns::CONTROLLER));
        assert_eq!((data.cmic & cmic::ANA, data.anacap, data.anatt), (cmic::ANA, 0x1f, 10));
        assert_eq!((data.anagrpmax, data.nanagrpid), (32, 32));
        assert_eq!(data.oaes, async_event::NAMESPACE_ATTRIBUTE | async_event::ANA_CHANGE);
        let namespace = NamespaceData::parse(&tell(&subsystem, cns::NAMESPACE));
        assert_eq!((namespace.anagrpid, namespace.nuse, namespace.nsze), (1, 0, 1024));
    }

    #[test]
    fn a_write_cache_is_reported_before_the_first_disk_with_one_is_added() {
        let mut subsystem = subsystem();
        for has_disks in [true, false] {
            subsystem.namespaces.values_mut().for_each(|ns| ns.geometry.has_write_cache = false);
            let command = Identify { cns: cns::CONTROLLER, ..Identify::default() };
            let data = Data::parse(&identify(&subsystem, &ready(), [0; 3], command).unwrap());
            assert_eq!(data.vwc & vwc::PRESENT, 1, "with disks: {has_disks}");
            subsystem.namespaces.clear();
        }
    }

    #[test]
    fn an_optional_command_is_reported_only_if_every_namespace_supports_it() {
        let mut subsystem = subsystem();
        let namespace = subsystem.namespaces.get_mut(&1).unwrap();
        namespace.geometry.ops.unmap = false;
        let offered = oncs::COMPARE | oncs::WRITE_ZEROES | oncs::COPY | oncs::RESERVATIONS;
        assert_eq!(optional_commands(&subsystem), offered);
    }

    #[test]
    fn a_discovery_controller_has_no_namespaces_to_identify() {
        let discovery = Controller { kind: ControllerKind::Discovery, ..ready() };
        let ask = |cns| {
            let command = Identify { cns, ..Identify::default() };
            identify(&subsystem(), &discovery, [0; 3], command)
        };
        let data = Data::parse(&ask(cns::CONTROLLER).unwrap());
        assert_eq!(data.cntrltype, cntrltype::DISCOVERY);
        assert_eq!((data.nn, data.oaes), (0, async_event::DISCOVERY_LOG_CHANGE));
        assert_eq!(ask(cns::ACTIVE_NAMESPACES), Err(Status::INVALID_FIELD.with_dnr()));
    }

    #[test]
    fn a_namespace_tells_its_size_and_identity() {
        let data = NamespaceData::parse(&ask(cns::NAMESPACE, 1).unwrap());
        assert_eq!((data.nsze, data.block_size()), (1024, Some(512)));
        assert_eq!((data.nguid, data.npwg), ([3; 16], 7));
        assert_eq!((data.mssrl, data.mcl, data.msrc), (256, 256 * 128, 127));
        let ids = parse_namespace_id_descriptors(&ask(cns::NAMESPACE_ID_DESCRIPTORS, 1).unwrap());
        let expected =
            [NamespaceId::Nguid([3; 16]), NamespaceId::Uuid([3; 16]), NamespaceId::Csi(0)];
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_number_without_namespace_is_all_zero_and_one_out_of_range_an_error() {
        assert_eq!(ask(cns::NAMESPACE, 2), Ok([0; LEN]));
        let missing = Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        for (cns, nsid) in [
            (cns::NAMESPACE, 0),
            (cns::NAMESPACE, 33),
            (cns::NAMESPACE, 0xffff_ffff),
            (cns::NAMESPACE_ID_DESCRIPTORS, 2),
            (cns::CSI_NAMESPACE, 2),
            (cns::INDEPENDENT_NAMESPACE, 2),
            (cns::ACTIVE_NAMESPACES, 0xffff_fffe),
        ] {
            assert_eq!(ask(cns, nsid), missing, "cns {cns:#x} nsid {nsid:#x}");
        }
    }

    #[test]
    fn the_list_of_namespaces_starts_after_the_number_given() {
        let list = |after| {
            let data = ask(cns::ACTIVE_NAMESPACES, after).unwrap();
            parse_namespace_list(&data).collect::<Vec<_>>()
        };
        assert_eq!((list(0), list(1)), (vec![1], vec![]));
    }

    #[test]
    fn only_the_nvm_command_set_is_known() {
        let command = Identify { cns: cns::CSI_CONTROLLER, csi: 2, ..Identify::default() };
        let status = identify(&subsystem(), &ready(), [0; 3], command);
        assert_eq!(status, Err(Status::INVALID_IO_COMMAND_SET.with_dnr()));
        assert!(ask(cns::CSI_CONTROLLER, 0).is_ok());
        assert_eq!(ask(0x55, 0), Err(Status::INVALID_FIELD.with_dnr()));
    }
}
