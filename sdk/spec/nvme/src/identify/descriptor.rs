//! Namespace identification descriptors (CNS 03h). NVMe Base 2.0, section 5.17.2.3.

use super::LEN;
use crate::layout::put_chunk;

/// One identifier of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceId {
    /// IEEE extended unique identifier (type 1).
    Eui64([u8; 8]),
    /// Globally unique identifier (type 2).
    Nguid([u8; 16]),
    /// UUID, in network order (type 3).
    Uuid([u8; 16]),
    /// I/O command set, one of [`super::csi`] (type 4).
    Csi(u8),
}

impl NamespaceId {
    fn write(&self, place: &mut [u8]) -> usize {
        let (kind, id): (u8, &[u8]) = match self {
            Self::Eui64(id) => (1, id),
            Self::Nguid(id) => (2, id),
            Self::Uuid(id) => (3, id),
            Self::Csi(id) => (4, core::slice::from_ref(id)),
        };
        // Identifiers have at most 16 bytes.
        let len = u8::try_from(id.len()).unwrap_or(0);
        put_chunk(place, 0, &[kind, len, 0, 0]);
        put_chunk(place, 4, id);
        4 + id.len()
    }
}

/// Makes the descriptor list. Identifiers that do not fit are left out.
#[must_use]
pub fn namespace_id_descriptors(ids: &[NamespaceId]) -> [u8; LEN] {
    let mut data = [0; LEN];
    let mut used = 0;
    for id in ids {
        // The longest descriptor has 20 bytes.
        let Some(place) = data.get_mut(used..used + 20) else { break };
        used += id.write(place);
    }
    data
}

/// Returns the identifiers of a descriptor list, up to its end or its first malformed descriptor. Skips unknown types.
#[must_use]
pub fn parse_namespace_id_descriptors(data: &[u8; LEN]) -> Vec<NamespaceId> {
    let mut ids = Vec::new();
    let mut rest: &[u8] = data;
    while let Some(([kind, len, _, _], after)) = rest.split_first_chunk() {
        if *len == 0 {
            break;
        }
        let Some((id, next)) = after.split_at_checked(usize::from(*len)) else { break };
        rest = next;
        let id = match kind {
            1 => id.try_into().ok().map(NamespaceId::Eui64),
            2 => id.try_into().ok().map(NamespaceId::Nguid),
            3 => id.try_into().ok().map(NamespaceId::Uuid),
            4 => id.first().copied().map(NamespaceId::Csi),
            _ => continue,
        };
        match id {
            Some(id) => ids.push(id),
            None => break,
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn descriptors_follow_each_other_without_gaps() {
        let ids = [
            NamespaceId::Nguid([1; 16]),
            NamespaceId::Eui64([2; 8]),
            NamespaceId::Uuid([3; 16]),
            NamespaceId::Csi(0),
        ];
        let data = namespace_id_descriptors(&ids);
        assert_eq!(data[..5], [2, 16, 0, 0, 1]);
        assert_eq!(data[20..25], [1, 8, 0, 0, 2]);
        assert_eq!(data[32..37], [3, 16, 0, 0, 3]);
        assert_eq!(data[52..58], [4, 1, 0, 0, 0, 0]);
        assert_eq!(parse_namespace_id_descriptors(&data), ids);
    }

    proptest! {
        #[test]
        fn any_list_is_read_without_panic(start in proptest::collection::vec(any::<u8>(), 0..256), fill: u8) {
            let mut data = [fill; LEN];
            data[..start.len()].copy_from_slice(&start);
            let _ = parse_namespace_id_descriptors(&data);
        }
    }
}
