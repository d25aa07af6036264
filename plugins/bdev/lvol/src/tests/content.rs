//! Copies, checksums, the map of a volume's own clusters, xattrs.

use super::*;

/// A store whose volume has a snapshot over a snapshot, and unallocated clusters.
fn history(setup: &Setup, store: &str) -> String {
    let uuid = setup.create(store, "v", 6, true);
    let volume = setup.open(&uuid);
    assert_eq!((volume.write(0, 7), volume.write(CLUSTER, 8)), (Status::SUCCESS, Status::SUCCESS));
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": uuid, "snapshot_name": "old"}));
    assert_eq!(
        (volume.write(1, 9), volume.write(3 * CLUSTER, 9)),
        (Status::SUCCESS, Status::SUCCESS)
    );
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": uuid, "snapshot_name": "new"}));
    assert_eq!(volume.write(0, 1), Status::SUCCESS);
    format!("{store}/new")
}

fn ended(setup: &Setup, kind: &str, started: &Value) -> Value {
    for _ in 0..1000 {
        let reported = setup.call(&format!("bdev_lvol_check_{kind}_copy"), started.clone());
        if reported["state"] != "in progress" {
            return reported;
        }
        setup.host.run();
    }
    panic!("the copy does not end");
}

#[test]
fn a_deep_copy_to_a_volume_of_another_store_reads_as_its_snapshot() {
    let setup = setup("lv20");
    setup.create_store("s20");
    let from = history(&setup, "s20");
    let other = Ram { name: "lv20b".into(), data: Arc::new(Mutex::new(vec![0xa5; 32 << 20])) };
    register(setup.host.app(), other, "none", Value::Null).unwrap();
    let params = json!({"bdev_name": "lv20b", "lvs_name": "s20b", "cluster_sz": MIB});
    setup.call("bdev_lvol_create_lvstore", params);
    let to = setup.create("s20b", "copy", 7, true);
    {
        let volume = setup.open(&to);
        assert_eq!(
            (volume.write(2 * CLUSTER, 5), volume.write(0, 5)),
            (Status::SUCCESS, Status::SUCCESS)
        );
    }
    let params = json!({"src_lvol_name": from, "dst_bdev_name": to});
    let started = setup.call("bdev_lvol_start_deep_copy", params);
    let reported = ended(&setup, "deep", &started);
    assert_eq!((&reported["state"], &reported["copied_clusters"]), (&json!("complete"), &json!(6)));
    let copy = setup.open(&to);
    let read = [0, 1, 2, CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 5 * CLUSTER].map(|lba| copy.read(lba));
    assert_eq!(read, [7, 9, 0, 8, 0, 9, 0]);
    let error = setup.host.call("bdev_lvol_check_deep_copy", &started).unwrap_err();
    assert_eq!(error.code, -19);
}

#[test]
fn a_shallow_copy_has_the_clusters_of_the_snapshot_itself() {
    let setup = setup("lv21");
    setup.create_store("s21");
    let from = history(&setup, "s21");
    let data = Arc::new(Mutex::new(vec![0xa5; 8 << 20]));
    register(
        setup.host.app(),
        Ram { name: "lv21b".into(), data: data.clone() },
        "none",
        Value::Null,
    )
    .unwrap();
    let params = json!({"src_lvol_name": from, "dst_bdev_name": "lv21b"});
    let started = setup.call("bdev_lvol_start_shallow_copy", params);
    let reported = ended(&setup, "shallow", &started);
    assert_eq!((&reported["state"], &reported["total_clusters"]), (&json!("complete"), &json!(2)));
    let data = data.lock().unwrap();
    let firsts = [0, 1, 3].map(|cluster: usize| data[cluster << 20]);
    assert_eq!(firsts, [7, 0xa5, 9]);
}

#[test]
fn a_copy_that_cannot_begin_says_why() {
    let setup = setup("lv25");
    setup.create_store("s25");
    let snapshot = history(&setup, "s25");
    let data = Arc::new(Mutex::new(vec![0; 4 << 20]));
    register(setup.host.app(), Ram { name: "lv25b".into(), data }, "none", Value::Null).unwrap();
    for kind in ["shallow", "deep"] {
        for (from, to, text) in [
            (snapshot.as_str(), "lv25b", "smaller than the volume"),
            (snapshot.as_str(), "nowhere", "No such device"),
            ("s25/v", "lv25b", "not read-only"),
        ] {
            let params = json!({"src_lvol_name": from, "dst_bdev_name": to});
            let method = format!("bdev_lvol_start_{kind}_copy");
            let error = setup.host.call(&method, &params).unwrap_err();
            assert!(error.message.contains(text), "{kind} to {to}: {}", error.message);
        }
    }
}

#[test]
fn what_reads_the_same_has_the_same_checksum() {
    let setup = setup("lv22");
    setup.create_store("s22");
    let snapshot = history(&setup, "s22");
    let sum = |name: &str, offset: u64, size: u64| {
        let params = json!({"name": name, "offset": offset, "size": size});
        setup.call("bdev_lvol_get_snapshot_checksum", params)["checksum"].clone()
    };
    setup.call("bdev_lvol_clone", json!({"snapshot_name": snapshot, "clone_name": "clone"}));
    setup.call("bdev_lvol_inflate", json!({"name": "s22/clone"}));
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": "s22/clone", "snapshot_name": "same"}));
    assert_eq!(sum("s22/same", 0, 0), sum(&snapshot, 0, 0));
    assert_ne!(sum("s22/old", 0, 0), sum(&snapshot, 0, 0));
    assert_eq!(sum("s22/old", MIB, 2 * MIB), sum(&snapshot, MIB, 2 * MIB));
    // The checksum of 1 MiB of zeros.
    let zeros = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
    assert_eq!(sum(&snapshot, 4 * MIB, MIB), zeros);
    for (params, text) in [
        (json!({"name": "s22/v"}), "not read-only"),
        (json!({"name": snapshot, "offset": 1}), "multiples of 512"),
        (json!({"name": snapshot, "size": 7 * MIB}), "up to 6291456"),
    ] {
        let error = setup.host.call("bdev_lvol_get_snapshot_checksum", &params).unwrap_err();
        assert!(error.message.contains(text), "{params}: {}", error.message);
    }
}

#[test]
fn the_map_of_fragments_has_a_bit_for_each_cluster_of_the_volume_itself() {
    let setup = setup("lv23");
    setup.create_store("s23");
    let snapshot = history(&setup, "s23");
    let map = |params: Value| setup.call("bdev_lvol_get_fragmap", params);
    let whole = map(json!({"name": snapshot}));
    // The volume owns clusters 0 and 3: 0b1001.
    assert_eq!((&whole["fragmap"], &whole["num_clusters"]), (&json!("CQ=="), &json!(6)));
    let part = map(json!({"name": snapshot, "offset": 3 * MIB, "size": 2 * MIB}));
    assert_eq!((&part["fragmap"], &part["num_allocated_clusters"]), (&json!("AQ=="), &json!(1)));
    let error = setup.host.call("bdev_lvol_get_fragmap", &json!({"name": snapshot, "offset": 512}));
    assert!(error.unwrap_err().message.contains("multiples of 1048576"));
}

#[test]
fn an_xattr_is_set_read_and_removed_and_the_stores_own_are_not() {
    let setup = setup("lv24");
    setup.create_store("s24");
    setup.create("s24", "v", 4, true);
    let params = json!({"name": "s24/v", "xattr_name": "owner", "xattr_value": "web"});
    assert_eq!(setup.call("bdev_lvol_set_xattr", params), true);
    let get = json!({"name": "s24/v", "xattr_name": "owner"});
    assert_eq!(setup.call("bdev_lvol_get_xattr", get.clone()), "web");
    assert_eq!(
        setup.call("bdev_lvol_get_xattr", json!({"name": "s24/v", "xattr_name": "name"})),
        "v"
    );
    assert_eq!(setup.call("bdev_lvol_set_xattr", get.clone()), true);
    let error = setup.host.call("bdev_lvol_get_xattr", &get).unwrap_err();
    assert!(error.message.starts_with("No such file or directory"), "{}", error.message);
    let params = json!({"name": "s24/v", "xattr_name": "uuid", "xattr_value": "x"});
    let error = setup.host.call("bdev_lvol_set_xattr", &params).unwrap_err();
    assert!(error.message.starts_with("Operation not permitted"), "{}", error.message);
}
