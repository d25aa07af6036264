//! Portal groups, initiator groups, authentication groups.

use super::missing;
use super::params::{
    AddSecret, AuthSecret, ChangeInitiatorGroup, CreateAuthGroup, CreateInitiatorGroup,
    CreatePortalGroup, DiscoveryAuth, OneTag, PortalGroupAuth, RemoveSecret,
};
use crate::app::Iscsi;
use crate::model::{AuthGroup, ChapPolicy, InitiatorGroup, Portal, PortalGroup, Secret};
use drivebay_sdk::{Error, Result, errno};

fn exists(what: &str, tag: i32) -> Error {
    Error::new(errno::EEXIST, format!("{what} {tag} exists already"))
}

pub(super) fn set_discovery_auth(app: &Iscsi, params: DiscoveryAuth) -> Result<()> {
    let (disabled, required) = (params.disable_chap, params.require_chap);
    let policy = ChapPolicy::new(disabled, required, params.mutual_chap, params.chap_group)?;
    app.model.borrow_mut().options.discovery_chap = policy;
    Ok(())
}

pub(super) fn create_auth_group(app: &Iscsi, params: CreateAuthGroup) -> Result<()> {
    let mut model = app.model.borrow_mut();
    if model.auth_groups.contains_key(&params.tag) {
        return Err(exists("auth group", params.tag));
    }
    let mut group = AuthGroup::default();
    for AuthSecret { user, secret, muser, msecret } in params.secrets {
        group.add(checked(user, secret, muser, msecret)?)?;
    }
    model.auth_groups.insert(params.tag, group);
    Ok(())
}

fn checked(
    user: String,
    secret: String,
    muser: Option<String>,
    msecret: Option<String>,
) -> Result<Secret> {
    let mutual = match (muser, msecret) {
        (Some(muser), Some(msecret)) => Some((muser, msecret)),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "muser",
                "alone",
                "muser together with msecret, or neither",
            ));
        }
    };
    Ok(Secret { user, secret, mutual })
}

pub(super) fn delete_auth_group(app: &Iscsi, OneTag { tag }: OneTag) -> Result<()> {
    let removed = app.model.borrow_mut().auth_groups.remove(&tag);
    removed.map(drop).ok_or_else(|| missing("auth group", tag))
}

pub(super) fn add_secret(app: &Iscsi, params: AddSecret) -> Result<()> {
    let AddSecret { tag, user, secret, muser, msecret } = params;
    let secret = checked(user, secret, muser, msecret)?;
    let mut model = app.model.borrow_mut();
    model.auth_groups.get_mut(&tag).ok_or_else(|| missing("auth group", tag))?.add(secret)
}

pub(super) fn remove_secret(app: &Iscsi, RemoveSecret { tag, user }: RemoveSecret) -> Result<()> {
    let mut model = app.model.borrow_mut();
    let group = model.auth_groups.get_mut(&tag).ok_or_else(|| missing("auth group", tag))?;
    let place = group.secrets.iter().position(|secret| secret.user == user);
    let place = place.ok_or_else(|| missing("user", &user))?;
    group.secrets.remove(place);
    Ok(())
}

pub(super) fn create_initiator_group(app: &Iscsi, params: CreateInitiatorGroup) -> Result<()> {
    let mut model = app.model.borrow_mut();
    if model.initiator_groups.contains_key(&params.tag) {
        return Err(exists("initiator group", params.tag));
    }
    let mut group = InitiatorGroup::default();
    group.add(&params.initiators, &params.netmasks)?;
    model.initiator_groups.insert(params.tag, group);
    Ok(())
}

/// Sessions continue, as with the reference. Targets lose their maps to the group.
pub(super) fn delete_initiator_group(app: &Iscsi, OneTag { tag }: OneTag) -> Result<()> {
    let mut model = app.model.borrow_mut();
    let removed = model.initiator_groups.remove(&tag);
    removed.ok_or_else(|| missing("initiator group", tag))?;
    for target in model.targets.values_mut() {
        target.retain_maps(|map| map.ig_tag != tag);
    }
    drop(model);
    app.ports_changed();
    Ok(())
}

pub(super) fn add_initiators(app: &Iscsi, params: ChangeInitiatorGroup) -> Result<()> {
    let mut model = app.model.borrow_mut();
    let group = model.initiator_groups.get_mut(&params.tag);
    let group = group.ok_or_else(|| missing("initiator group", params.tag))?;
    group.add(&params.initiators, &params.netmasks)
}

pub(super) fn remove_initiators(app: &Iscsi, params: ChangeInitiatorGroup) -> Result<()> {
    let mut model = app.model.borrow_mut();
    let group = model.initiator_groups.get_mut(&params.tag);
    let group = group.ok_or_else(|| missing("initiator group", params.tag))?;
    group.remove(&params.initiators, &params.netmasks)
}

pub(super) fn create_portal_group(app: &Iscsi, params: CreatePortalGroup) -> Result<()> {
    let portals: Vec<Portal> =
        params.portals.into_iter().map(|one| Portal { host: one.host, port: one.port }).collect();
    let addresses: Vec<_> = portals.iter().map(Portal::address).collect::<Result<_>>()?;
    if app.model.borrow().portal_groups.contains_key(&params.tag) {
        return Err(exists("portal group", params.tag));
    }
    app.listen(params.tag, &addresses, params.wait)?;
    let chap = ChapPolicy::default();
    let group = PortalGroup { portals, is_private: params.private, chap };
    app.model.borrow_mut().portal_groups.insert(params.tag, group);
    Ok(())
}

pub(super) fn start_portal_group(app: &Iscsi, OneTag { tag }: OneTag) -> Result<()> {
    if !app.model.borrow().portal_groups.contains_key(&tag) {
        return Err(missing("portal group", tag));
    }
    app.open_doors(tag);
    Ok(())
}

/// Sessions that came through the group continue, as with the reference.
pub(super) fn delete_portal_group(app: &Iscsi, OneTag { tag }: OneTag) -> Result<()> {
    let mut model = app.model.borrow_mut();
    model.portal_groups.remove(&tag).ok_or_else(|| missing("portal group", tag))?;
    for target in model.targets.values_mut() {
        target.retain_maps(|map| map.pg_tag != tag);
    }
    drop(model);
    app.close_doors(tag);
    app.ports_changed();
    Ok(())
}

pub(super) fn set_portal_group_auth(app: &Iscsi, params: PortalGroupAuth) -> Result<()> {
    let mut model = app.model.borrow_mut();
    let group = model.portal_groups.get_mut(&params.tag);
    let group = group.ok_or_else(|| missing("portal group", params.tag))?;
    let (disabled, required) = (params.disable_chap, params.require_chap);
    group.chap = ChapPolicy::new(disabled, required, params.mutual_chap, params.chap_group)?;
    Ok(())
}
