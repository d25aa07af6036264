//! Log pages. NVMe Base 2.0, section 5.16; the discovery log is NVMe over Fabrics 1.1, section 5.3.

use super::io_counts::{IoSums, data_units};
use super::{Controller, identify};
use crate::model::{AnaState, ControllerKind, Model, Referral, Subsystem, is_any};
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_spec_nvme::admin::GetLogPage;
use drivebay_spec_nvme::log::{
    AnaGroup, AnaHeader, CommandEffects, CommandsSupported, DiscoveryEntry, DiscoveryHeader,
    FirmwareSlots, Health, adrfam, changed_namespaces, lid, subtype, supported_log_pages, treq,
    trtype,
};
use drivebay_spec_nvme::opcode::{admin, nvm};
use drivebay_spec_nvme::text::{NulText, SpaceText};
use drivebay_spec_nvme::{NSID_ALL, Status, fabrics, nqn};
use std::collections::BTreeMap;

/// Maximum number of bytes of a log page that one command may read. The transport's limit is far lower.
const LENGTH_MAX: u64 = 1 << 20;
/// The temperature that is reported, in kelvins. There is no sensor.
const TEMPERATURE: u16 = 300;
/// Bit of the Log Specific Field that requests the ANA groups without their namespaces.
const GROUPS_ONLY: u8 = 1;

/// Returns the piece of a log page that a command requests: its whole length, with zeroes past the end of the page.
///
/// # Errors
/// INVALID_LOG_PAGE for a missing page; INVALID_FIELD for an offset past its end or not a multiple of 4.
pub fn get(
    model: &Model,
    subsystem: &Subsystem,
    controller: &Controller,
    command: GetLogPage,
) -> Result<Vec<u8>, Status> {
    if command.length_bytes() > LENGTH_MAX
        || command.offset_type
        || !command.offset.is_multiple_of(4)
    {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    match controller.kind {
        ControllerKind::Discovery => discovery_controller_page(model, controller, command),
        ControllerKind::Io => {
            let page = io_controller_page(subsystem, controller, command)?;
            piece_from(&page, 0, page.len(), command)
        }
    }
}

/// Cuts the requested piece out of `part`, which begins at byte `begin` of a page of `length` bytes and covers the piece.
fn piece_from(
    part: &[u8],
    begin: usize,
    length: usize,
    command: GetLogPage,
) -> Result<Vec<u8>, Status> {
    let past_the_end = Status::INVALID_FIELD.with_dnr();
    let offset = usize::try_from(command.offset).map_err(|_| past_the_end)?;
    let wanted = usize::try_from(command.length_bytes()).map_err(|_| past_the_end)?;
    if offset > length {
        return Err(past_the_end);
    }
    let rest = part.get(offset.saturating_sub(begin)..).unwrap_or_default();
    let mut piece: Vec<u8> = rest.iter().take(wanted).copied().collect();
    piece.resize(wanted, 0);
    Ok(piece)
}

fn io_controller_page(
    subsystem: &Subsystem,
    controller: &Controller,
    command: GetLogPage,
) -> Result<Vec<u8>, Status> {
    let has_ana = subsystem.options.ana_reporting;
    match command.lid {
        lid::SUPPORTED_LOG_PAGES => {
            let mut lids = vec![
                lid::SUPPORTED_LOG_PAGES,
                lid::ERROR,
                lid::HEALTH,
                lid::FIRMWARE_SLOTS,
                lid::CHANGED_NAMESPACES,
                lid::COMMANDS_SUPPORTED,
                lid::RESERVATION_NOTIFICATION,
            ];
            lids.extend(has_ana.then_some(lid::ANA));
            Ok(supported_log_pages(&lids).to_vec())
        }
        lid::ERROR => Ok(controller.errors.page()),
        lid::HEALTH if matches!(command.nsid, 0 | NSID_ALL) => {
            Ok(health(controller).encode().to_vec())
        }
        // The health log is only for the controller, as LPA reports.
        lid::HEALTH => Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()),
        lid::FIRMWARE_SLOTS => Ok(firmware_slots().encode().to_vec()),
        lid::CHANGED_NAMESPACES => {
            let nsids: Vec<u32> = controller.changed_namespaces.iter().copied().collect();
            Ok(changed_namespaces(&nsids).to_vec())
        }
        lid::COMMANDS_SUPPORTED => Ok(commands_supported().encode().to_vec()),
        lid::ANA if has_ana => Ok(ana(subsystem, controller, command.lsp & GROUPS_ONLY != 0)),
        lid::RESERVATION_NOTIFICATION => Ok(controller.notifications.page().to_vec()),
        _ => Err(Status::INVALID_LOG_PAGE.with_dnr()),
    }
}

fn discovery_controller_page(
    model: &Model,
    controller: &Controller,
    command: GetLogPage,
) -> Result<Vec<u8>, Status> {
    match command.lid {
        lid::SUPPORTED_LOG_PAGES => {
            let page = supported_log_pages(&[lid::SUPPORTED_LOG_PAGES, lid::DISCOVERY]);
            piece_from(&page, 0, page.len(), command)
        }
        lid::DISCOVERY => discovery(model, controller, command),
        _ => Err(Status::INVALID_LOG_PAGE.with_dnr()),
    }
}

fn health(controller: &Controller) -> Health {
    let sums = IoSums::of(controller.io_counts.values().map(AsRef::as_ref));
    Health {
        data_units_read: data_units(sums.bytes_read),
        data_units_written: data_units(sums.bytes_written),
        host_read_commands: sums.reads.into(),
        host_write_commands: sums.writes.into(),
        temperature: TEMPERATURE,
        available_spare: 100,
        available_spare_threshold: 0,
        error_log_entries: controller.errors.count().into(),
        ..Health::default()
    }
}

fn firmware_slots() -> FirmwareSlots {
    let mut slots = FirmwareSlots { afi: 1, ..FirmwareSlots::default() };
    if let Some(first) = slots.revisions.first_mut() {
        *first = SpaceText::new(identify::FIRMWARE);
    }
    slots
}

fn commands_supported() -> CommandsSupported {
    CommandsSupported::new(
        &[
            (admin::GET_LOG_PAGE, CommandEffects::SUPPORTED),
            (admin::IDENTIFY, CommandEffects::SUPPORTED),
            (admin::ABORT, CommandEffects::SUPPORTED),
            (admin::SET_FEATURES, CommandEffects::SUPPORTED),
            (admin::GET_FEATURES, CommandEffects::SUPPORTED),
            (admin::ASYNC_EVENT_REQUEST, CommandEffects::SUPPORTED),
            (admin::KEEP_ALIVE, CommandEffects::SUPPORTED),
        ],
        &[
            (nvm::FLUSH, CommandEffects::SUPPORTED),
            (nvm::READ, CommandEffects::SUPPORTED),
            (nvm::COMPARE, CommandEffects::SUPPORTED),
            (nvm::WRITE, CommandEffects::CHANGES_BLOCKS),
            (nvm::WRITE_ZEROES, CommandEffects::CHANGES_BLOCKS),
            (nvm::DATASET_MANAGEMENT, CommandEffects::CHANGES_BLOCKS),
            (nvm::RESERVATION_REGISTER, CommandEffects::SUPPORTED),
            (nvm::RESERVATION_REPORT, CommandEffects::SUPPORTED),
            (nvm::RESERVATION_ACQUIRE, CommandEffects::SUPPORTED),
            (nvm::RESERVATION_RELEASE, CommandEffects::SUPPORTED),
            (nvm::COPY, CommandEffects::CHANGES_BLOCKS),
        ],
    )
}

/// The ANA log: the states of the groups with namespaces at the host's listener. NVMe Base 2.0, section 5.16.1.13.
fn ana(subsystem: &Subsystem, controller: &Controller, is_groups_only: bool) -> Vec<u8> {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for namespace in subsystem.namespaces.values() {
        groups.entry(namespace.anagrpid).or_default().push(namespace.nsid);
    }
    let access = subsystem.listener_of(&controller.listener).map(|listener| &listener.access);
    let header = AnaHeader {
        change_count: access.map_or(0, |access| access.change_count()),
        num_groups: u16::try_from(groups.len()).unwrap_or(u16::MAX),
    };
    let mut page = header.encode().to_vec();
    for (group_id, nsids) in groups {
        let nsids = if is_groups_only { Vec::new() } else { nsids };
        let group = access.map(|access| access.group(group_id));
        let group = AnaGroup {
            group_id,
            num_nsids: u32::try_from(nsids.len()).unwrap_or(u32::MAX),
            change_count: group.map_or(0, |group| group.change_count),
            // The controller's listener may have been removed. Then the controller will end soon.
            state: group.map_or(AnaState::Inaccessible, |group| group.state) as u8,
        };
        page.extend(group.encode());
        page.extend(nsids.iter().flat_map(|nsid| nsid.to_le_bytes()));
    }
    page
}

/// The requested piece of the discovery log of a host: the subsystems that the host may use. A listener at any address appears with the
/// address that the host connected to. Builds only the requested entries, because hosts read the log in many small pieces.
fn discovery(
    model: &Model,
    controller: &Controller,
    command: GetLogPage,
) -> Result<Vec<u8>, Status> {
    let entries = || {
        let visible = model.subsystems.values().filter(|s| s.allows(&controller.hostnqn));
        let listeners = visible.flat_map(|s| s.listeners.iter().map(move |l| (s, l)));
        listeners.filter_map(|(subsystem, listener)| {
            let address = as_seen(&listener.address, &controller.listener)?;
            let is_told = model.discovery_filter.lets_through(&address, &controller.listener);
            is_told.then_some((subsystem, listener.portid, address))
        })
    };
    let count = entries().count() + model.referrals.len();
    let length = (count + 1).saturating_mul(DiscoveryEntry::LEN);
    let (first, last) = wanted_entries(command, length)?;
    let mut page = Vec::with_capacity((last - first) * DiscoveryEntry::LEN);
    if first == 0 {
        let (genctr, numrec) = (model.genctr, count as u64);
        page.extend(DiscoveryHeader { genctr, numrec, ..DiscoveryHeader::default() }.encode());
    }
    let listed = entries().map(|(subsystem, portid, address)| DiscoveryEntry {
        subtype: match subsystem.kind {
            ControllerKind::Io => subtype::NVM,
            ControllerKind::Discovery => subtype::CURRENT_DISCOVERY,
        },
        treq: treq::SECURE_NOT_REQUIRED | treq::NO_SQ_FLOW_CONTROL,
        portid,
        asqsz: u16::try_from(controller.limits.max_aq_depth).unwrap_or(u16::MAX),
        ..entry(&address, &subsystem.nqn)
    });
    // The header is entry 0.
    let skipped = first.saturating_sub(1);
    let taken = last.saturating_sub(first.max(1));
    let all = listed.chain(model.referrals.iter().map(referral));
    page.extend(all.skip(skipped).take(taken).flat_map(|entry| entry.encode()));
    piece_from(&page, first * DiscoveryEntry::LEN, length, command)
}

/// The first entry of the requested bytes, and the end of the last one. The header is entry 0.
fn wanted_entries(command: GetLogPage, length: usize) -> Result<(usize, usize), Status> {
    let past_the_end = Status::INVALID_FIELD.with_dnr();
    let offset = usize::try_from(command.offset).map_err(|_| past_the_end)?;
    let wanted = usize::try_from(command.length_bytes()).map_err(|_| past_the_end)?;
    if offset > length {
        return Err(past_the_end);
    }
    let end = offset.saturating_add(wanted).min(length);
    Ok((offset / DiscoveryEntry::LEN, end.div_ceil(DiscoveryEntry::LEN)))
}

/// The address of a listener for a host that connected to `local`; `None` when a listener at any address has another address family.
fn as_seen(listener: &Address, local: &Address) -> Option<Address> {
    if !is_any(listener) || listener.trtype != local.trtype {
        return Some(listener.clone());
    }
    let traddr = local.traddr.clone();
    (listener.adrfam == local.adrfam).then(|| Address { traddr, ..listener.clone() })
}

fn referral(referral: &Referral) -> DiscoveryEntry {
    let is_discovery = referral.subnqn == nqn::DISCOVERY;
    let secure =
        if referral.secure_channel { treq::SECURE_REQUIRED } else { treq::SECURE_NOT_REQUIRED };
    DiscoveryEntry {
        subtype: if is_discovery { subtype::REFERRAL } else { subtype::NVM },
        treq: secure,
        asqsz: 128,
        ..entry(&referral.address, &referral.subnqn)
    }
}

fn entry(address: &Address, subnqn: &str) -> DiscoveryEntry {
    DiscoveryEntry {
        trtype: match address.trtype.as_str() {
            "RDMA" => trtype::RDMA,
            "FC" => trtype::FC,
            "TCP" => trtype::TCP,
            _ => trtype::INTRA_HOST,
        },
        adrfam: match address.adrfam.as_str() {
            "IPv4" => adrfam::IPV4,
            "IPv6" => adrfam::IPV6,
            "IB" => adrfam::IB,
            "FC" => adrfam::FC,
            _ => adrfam::INTRA_HOST,
        },
        cntlid: fabrics::CNTLID_DYNAMIC,
        trsvcid: SpaceText::new(&address.trsvcid),
        traddr: SpaceText::new(&address.traddr),
        subnqn: NulText::new(subnqn).unwrap_or(DiscoveryEntry::default().subnqn),
        ..DiscoveryEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::ready;
    use crate::model::tests::{model, namespace, subsystem};
    use crate::model::{DiscoveryFilter, Namespace, address_of};

    /// Reads as a host of cnode1 does.
    fn get(model: &Model, controller: &Controller, command: GetLogPage) -> Result<Vec<u8>, Status> {
        let subsystem = &model.subsystems["nqn.2016-06.io.spdk:cnode1"];
        super::get(model, subsystem, controller, command)
    }

    fn ask(lid: u8, offset: u64, length: u32) -> GetLogPage {
        GetLogPage { lid, offset, numd: length / 4 - 1, ..GetLogPage::default() }
    }

    fn reader(host: &str) -> Controller {
        Controller { kind: ControllerKind::Discovery, hostnqn: host.into(), ..ready() }
    }

    fn entries(model: &Model, reader: &Controller) -> Vec<DiscoveryEntry> {
        let page = get(model, reader, ask(lid::DISCOVERY, 0, 8192)).unwrap();
        let header = DiscoveryHeader::parse(page.first_chunk().unwrap());
        let entries: Vec<_> =
            page[1024..].chunks_exact(1024).map(|e| e.try_into().unwrap()).collect();
        entries
            .iter()
            .take(usize::try_from(header.numrec).unwrap())
            .map(DiscoveryEntry::parse)
            .collect()
    }

    #[test]
    fn a_host_discovers_what_it_may_connect_to() {
        let mut model = model();
        let mut hidden = subsystem();
        hidden.nqn = "nqn.2016-06.io.spdk:hidden".into();
        hidden.allow_any_host = false;
        hidden.hosts.insert("nqn.2016-06.io.spdk:friend".into());
        model.subsystems.insert(hidden.nqn.clone(), hidden);
        assert_eq!(entries(&model, &reader("nqn.2016-06.io.spdk:stranger")).len(), 1);
        assert_eq!(entries(&model, &reader("nqn.2016-06.io.spdk:friend")).len(), 2);
    }

    #[test]
    fn an_entry_has_name_and_address() {
        let entry = &entries(&model(), &reader("nqn.2016-06.io.spdk:h"))[0];
        assert_eq!(entry.subnqn.as_str(), Some("nqn.2016-06.io.spdk:cnode1"));
        assert_eq!(entry.traddr.as_str(), Some("127.0.0.1"));
        assert_eq!(entry.trsvcid.as_str(), Some("4420"));
        assert_eq!((entry.trtype, entry.adrfam, entry.subtype), (3, 1, subtype::NVM));
        assert_eq!((entry.cntlid, entry.asqsz), (0xffff, 128));
    }

    #[test]
    fn a_listener_at_any_address_is_listed_with_the_address_that_the_host_used() {
        let mut model = model();
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.listeners.clear();
        subsystem.listen_at("0.0.0.0", "4421");
        let mut reader = reader("nqn.2016-06.io.spdk:h");
        reader.listener = address_of("tcp", None, "10.1.2.3", "4420");
        let entry = &entries(&model, &reader)[0];
        assert_eq!(entry.traddr.as_str(), Some("10.1.2.3"));
        assert_eq!(entry.trsvcid.as_str(), Some("4421"));
    }

    #[test]
    fn a_listener_at_any_address_is_not_listed_for_hosts_of_the_other_family() {
        let mut model = model();
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.listeners.clear();
        subsystem.listen_at("0.0.0.0", "4420");
        subsystem.listen_at("::", "4420");
        let mut reader = reader("nqn.2016-06.io.spdk:h");
        for (traddr, family) in [("10.1.2.3", adrfam::IPV4), ("fd00::3", adrfam::IPV6)] {
            reader.listener = address_of("tcp", None, traddr, "4420");
            let entries = entries(&model, &reader);
            assert_eq!(entries.len(), 1, "{traddr}");
            assert_eq!((entries[0].traddr.as_str(), entries[0].adrfam), (Some(traddr), family));
        }
    }

    #[test]
    fn the_discovery_log_is_the_same_read_whole_or_in_pieces() {
        let mut model = model();
        for number in 2..6 {
            let mut more = subsystem();
            more.nqn = format!("nqn.2016-06.io.spdk:cnode{number}");
            model.subsystems.insert(more.nqn.clone(), more);
        }
        let reader = reader("nqn.2016-06.io.spdk:h");
        let read = |offset, length| get(&model, &reader, ask(lid::DISCOVERY, offset, length));
        let whole = read(0, 6 * 1024).unwrap();
        for length in [4, 20, 1024, 1028, 2048] {
            let pieces = (0..6 * 1024).step_by(length as usize);
            let joined: Vec<u8> = pieces.flat_map(|at| read(at, length).unwrap()).collect();
            assert_eq!(joined[..6 * 1024], whole, "{length}");
        }
    }

    #[test]
    fn a_filter_leaves_out_what_is_not_like_the_connection() {
        let mut model = model();
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.listen_at("127.0.0.1", "4421");
        subsystem.listen_at("10.0.0.1", "4420");
        let rdma = address_of("rdma", None, "127.0.0.1", "4420");
        let listener = subsystem.new_listener(rdma, AnaState::Optimized);
        subsystem.listeners.push(listener);
        for (names, left) in [
            (vec![], 4),
            (vec!["transport"], 3),
            (vec!["address"], 3),
            (vec!["transport", "address", "svcid"], 1),
        ] {
            model.discovery_filter = DiscoveryFilter::default();
            assert!(names.iter().all(|name| model.discovery_filter.add(name)));
            assert_eq!(entries(&model, &reader("nqn.2016-06.io.spdk:h")).len(), left, "{names:?}");
        }
        assert!(!model.discovery_filter.add("port"));
    }

    #[test]
    fn referrals_follow_the_subsystems() {
        let mut model = model();
        model.referrals.push(Referral {
            address: address_of("tcp", None, "::1", "8009"),
            subnqn: nqn::DISCOVERY.into(),
            secure_channel: false,
        });
        let entries = entries(&model, &reader("nqn.2016-06.io.spdk:h"));
        assert_eq!((entries[1].subtype, entries[1].adrfam), (subtype::REFERRAL, adrfam::IPV6));
    }

    #[test]
    fn a_page_is_read_in_pieces_and_its_end_is_zero() {
        let model = Model { genctr: 0x0102, ..model() };
        let reader = reader("nqn.2016-06.io.spdk:h");
        let read = |offset, length| get(&model, &reader, ask(lid::DISCOVERY, offset, length));
        assert_eq!(read(0, 16).unwrap(), [2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(1024, 4).unwrap()[0], trtype::TCP);
        assert_eq!(read(2048, 8).unwrap(), [0; 8]);
        assert_eq!(read(2052, 8), Err(Status::INVALID_FIELD.with_dnr()));
        assert_eq!(read(2, 8), Err(Status::INVALID_FIELD.with_dnr()));
        assert_eq!(read(u64::MAX - 3, 8), Err(Status::INVALID_FIELD.with_dnr()));
    }

    #[test]
    fn each_kind_of_controller_has_its_own_pages() {
        let lids = |controller: &Controller| {
            (0..=255u8)
                .filter(|lid| get(&model(), controller, ask(*lid, 0, 4)).is_ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(lids(&ready()), [0, 1, 2, 3, 4, 5, 0x80]);
        assert_eq!(lids(&reader("nqn.2016-06.io.spdk:h")), [0, 0x70]);
    }

    #[test]
    fn changed_namespaces_are_listed() {
        let mut controller = ready();
        controller.changed_namespaces.extend([4, 2]);
        let page = get(&model(), &controller, ask(lid::CHANGED_NAMESPACES, 0, 12)).unwrap();
        assert_eq!(page, [2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn health_is_the_controllers_and_not_a_namespaces() {
        let health = |nsid| {
            let command = GetLogPage { nsid, ..ask(lid::HEALTH, 0, 512) };
            get(&model(), &ready(), command)
        };
        assert_eq!(health(NSID_ALL).unwrap()[3], 100);
        assert_eq!(health(1), Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()));
    }

    #[test]
    fn health_counts_what_the_queues_have_read() {
        let mut controller = ready();
        controller.io_counts_of(1).count_read(4096);
        let page = get(&model(), &controller, ask(lid::HEALTH, 0, 512)).unwrap();
        assert_eq!((page[32], page[64], page[80]), (1, 1, 0));
    }

    #[test]
    fn the_ana_log_has_the_groups_that_have_namespaces_with_the_states_of_the_hosts_listener() {
        let mut model = model();
        let missing = get(&model, &ready(), ask(lid::ANA, 0, 16));
        assert_eq!(missing, Err(Status::INVALID_LOG_PAGE.with_dnr()), "ANA is not reported");
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.options.ana_reporting = true;
        for (nsid, anagrpid) in [(2, 5), (3, 5)] {
            let namespace = Namespace { anagrpid, ..namespace(nsid) };
            subsystem.namespaces.insert(nsid, namespace);
        }
        subsystem.listen_at("127.0.0.1", "4421");
        subsystem.listeners[0].access.set(Some(5), AnaState::Inaccessible);
        let page = get(&model, &ready(), ask(lid::ANA, 0, 92)).unwrap();
        assert_eq!((page[0], page[8]), (1, 2), "one change, two groups");
        assert_eq!((page[16], page[20], page[32], page[48]), (1, 1, 1, 1), "group 1, namespace 1");
        assert_eq!((page[52], page[56], page[60], page[68]), (5, 2, 1, 3), "group 5, inaccessible");
        assert_eq!((page[84], page[88]), (2, 3));
        let only = GetLogPage { lsp: GROUPS_ONLY, ..ask(lid::ANA, 0, 80) };
        let page = get(&model, &ready(), only).unwrap();
        assert_eq!((page[48], page[52], page[64]), (5, 0, 3), "no namespaces");
        let mut elsewhere = ready();
        elsewhere.listener = address_of("tcp", None, "127.0.0.1", "4421");
        let page = get(&model, &elsewhere, ask(lid::ANA, 0, 92)).unwrap();
        assert_eq!((page[0], page[68]), (0, 1), "the other listener serves it");
    }

    #[test]
    fn a_length_beyond_reason_is_refused() {
        let command = GetLogPage { lid: lid::ERROR, numd: u32::MAX, ..GetLogPage::default() };
        assert_eq!(get(&model(), &ready(), command), Err(Status::INVALID_FIELD.with_dnr()));
    }
}
