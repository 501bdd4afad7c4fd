use std::path::PathBuf;

use super::*;

fn asked() -> Asked {
    Asked { version: (7, 2), generation_id: "g".to_owned(), blocked: Vec::new() }
}

fn spec(extra: &[&str], disks: Vec<Disk>) -> GuestSpec {
    let message = api::GuestSpec {
        name: "web".into(),
        memory_mib: 64,
        memory_shared: true,
        extra_args: extra.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    };
    GuestSpec { disks, ..GuestSpec::try_from(Some(message)).expect("valid") }
}

fn disk() -> Disk {
    Disk { path: PathBuf::from("/d/a.raw"), ..Disk::default() }
}

fn problems(found: &[api::Safety]) -> Vec<&str> {
    found.iter().filter(|it| !it.ok).map(|it| it.detail.as_str()).collect()
}

#[test]
fn a_plain_guest_is_safe() {
    let plain = spec(&["-qmp", "unix:/a", "-trace", "x"], vec![]);
    let found = of_clone(&plain, &asked(), CloneUse::Beside);
    assert!(problems(&found).is_empty(), "{found:?}");
}

#[test]
fn a_disk_that_both_write_is_refused_unless_it_is_declared_safe() {
    let of = |disk: Disk, how| of_clone(&spec(&[], vec![disk]), &asked(), how);
    let found = of(disk(), CloneUse::Beside);
    let [detail] = problems(&found)[..] else { panic!("{found:?}") };
    for part in ["/d/a.raw can be written", "read_only", "shared_safe", "overlay", "mirror"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    for good in [
        Disk { read_only: true, ..disk() },
        Disk { shared_safe: true, ..disk() },
        Disk { overlay: true, ..disk() },
    ] {
        assert!(problems(&of(good.clone(), CloneUse::Beside)).is_empty(), "{good:?}");
    }
    assert!(problems(&of(disk(), CloneUse::Instead)).is_empty(), "one at a time");
    let overlay = of(Disk { overlay: true, ..disk() }, CloneUse::Beside);
    let told = overlay.iter().find(|it| it.warning).expect("said");
    assert!(told.detail.contains("writes after T0 stays in the source's"), "{}", told.detail);
}

#[test]
fn disks_past_the_specification_are_refused() {
    for extra in [
        ["-drive", "file=/d/a.raw,format=raw"],
        ["-hda", "/d/a.raw"],
        ["--hdb", "/d/a.raw"],
        ["-blockdev", "driver=file,filename=/d/a"],
        ["-device", "nvme,serial=1"],
        ["-pflash", "/d/vars"],
    ] {
        let found = of_clone(&spec(&extra, vec![]), &asked(), CloneUse::Instead);
        let [detail] = problems(&found)[..] else { panic!("{extra:?}: {found:?}") };
        let option = extra[0].trim_start_matches('-');
        assert!(detail.starts_with(&format!("`-{option} ")), "{detail}");
        assert!(detail.contains("declare it as one of the guest's disks"), "{detail}");
    }
    for extra in [
        &["-drive", "file=/d/a.iso,media=cdrom"][..],
        &["-drive", "id=x,file=/d/a.raw,readonly=on", "-device", "virtio-blk-pci,drive=x"],
        &["-cdrom", "/d/a.iso"],
    ] {
        let found = of_clone(&spec(extra, vec![]), &asked(), CloneUse::Beside);
        assert!(problems(&found).is_empty(), "{extra:?}: {found:?}");
    }
}

#[test]
fn what_forbids_saving_the_state_is_named() {
    for (extra, named) in [
        (["-virtfs", "local,path=/x,mount_tag=t,security_model=none"], "`-virtfs`"),
        (["-device", "vfio-pci,host=01:00.0"], "`-device vfio-pci,host=01:00.0`"),
    ] {
        let found = of_clone(&spec(&extra, vec![]), &asked(), CloneUse::Beside);
        let [detail] = problems(&found)[..] else { panic!("{found:?}") };
        assert!(detail.contains(named) && detail.contains("extra_args"), "{detail}");
    }
    let said = Asked { blocked: vec!["VirtFS is mounted".to_owned()], ..asked() };
    let found = of_clone(&spec(&[], vec![]), &said, CloneUse::Beside);
    assert!(problems(&found)[0].contains("cannot save it: VirtFS is mounted"), "{found:?}");
}

#[test]
fn a_guest_without_vmgenid_may_not_be_there_twice() {
    let none = Asked { generation_id: String::new(), ..asked() };
    let found = of_clone(&spec(&[], vec![]), &none, CloneUse::Beside);
    assert!(problems(&found)[0].contains("same random"), "{found:?}");
    let found = of_clone(&spec(&[], vec![]), &none, CloneUse::Instead);
    assert!(problems(&found).is_empty(), "{found:?}");
}

#[test]
fn an_old_qemu_is_refused() {
    let old = Asked { version: (6, 9), ..asked() };
    let found = of_clone(&spec(&[], vec![]), &old, CloneUse::Beside);
    assert!(problems(&found)[0].contains("runs under 6.9, clones need 7.2"), "{found:?}");
    let new = Asked { version: (10, 0), ..asked() };
    assert!(problems(&of_clone(&spec(&[], vec![]), &new, CloneUse::Beside)).is_empty());
}

#[test]
fn a_region_without_header_is_not_merged() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("r");
    drop(Mapping::create(&path, 65536).expect("region"));
    let found = of_region("counts", &path);
    assert!(!found.ok && found.detail.starts_with("`counts` is undeclared: "), "{}", found.detail);
    for part in ["write its header", "leave it out", "mirror or none"] {
        assert!(found.detail.contains(part), "{part}: {}", found.detail);
    }
}
